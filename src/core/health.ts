import { count, sql } from "drizzle-orm";
import { devices } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { readWatermark } from "./rollups.ts";
import { deviceStatus } from "./status.ts";

// Health in numbers, from what is measured. Each part loses points for what is wrong with it; what is broken has none.

export type HealthWord = "healthy" | "degraded" | "unhealthy";

export interface Metric {
  status: HealthWord;
  score: number;
  /** What the score was made from. */
  details: Record<string, number | boolean>;
}

export interface Health {
  status: HealthWord;
  score: number;
  metrics: { database: Metric; mqtt: Metric; deviceManager: Metric; dataProcessor: Metric };
}

/** What is measured outside of the domain. Counts are those of the last minute. `storing`: there is room for readings. */
export interface Probes {
  /** `synced`: what is acknowledged is on the disk. */
  database(): {
    answers: boolean;
    synced: boolean;
    storing: boolean;
    commitMs: number;
    freeBytes: number;
    walBytes: number;
  };
  mqtt(): { listening: boolean; dropped: number; loopLagMs: number };
  processor(): { storing: boolean; pendingWrites: number; failedCommits: number };
}

/** What each part counts in the overall score: without its store or its broker a gateway is none. */
export const weights = { database: 0.35, mqtt: 0.25, deviceManager: 0.15, dataProcessor: 0.25 } as const;

export const toWord = (score: number): HealthWord => (score >= 70 ? "healthy" : score >= 30 ? "degraded" : "unhealthy");

const metric = (points: number, details: Metric["details"]): Metric => {
  const score = Math.round(Math.min(100, Math.max(0, points)));
  return { status: toWord(score), score, details };
};

/** Nothing up to `good`, all of `points` from `bad` on, in proportion between. */
function penalty(value: number, good: number, bad: number, points: number): number {
  return points * Math.min(1, Math.max(0, (value - good) / (bad - good)));
}

const megabyte = 1024 * 1024;

export function probeDatabase({ database }: Probes): Metric {
  const { answers, synced, storing, commitMs, freeBytes, walBytes } = database();
  const points =
    100 -
    (storing ? 0 : 80) -
    penalty(commitMs, 50, 1_000, 40) - // an SD card takes 10 to 50 ms
    penalty(-freeBytes, -500 * megabyte, -20 * megabyte, 80) -
    penalty(walBytes, 64 * megabyte, 512 * megabyte, 40);
  return metric(answers ? points : 0, {
    answers,
    synced,
    storing,
    commitMs: Math.round(commitMs * 10) / 10,
    freeBytes,
    walBytes,
  });
}

export function probeMqtt({ mqtt }: Probes): Metric {
  const { listening, dropped, loopLagMs } = mqtt();
  const points = 100 - penalty(dropped, 0, 100, 60) - penalty(loopLagMs, 50, 1_000, 60);
  return metric(listening ? points : 0, { listening, dropped, loopLagMs: Math.round(loopLagMs * 10) / 10 });
}

/** The share of the devices that are not disabled and not lost; all is well where there are none. */
export function probeDevices(ctx: Ctx): Metric {
  const row = ctx.db
    .select({ enabled: count(), lost: sql<number>`coalesce(sum(${devices.statusId} = ${deviceStatus.lost}), 0)` })
    .from(devices)
    .where(sql`${devices.statusId} <> ${deviceStatus.disabled}`)
    .get();
  const { enabled = 0, lost = 0 } = row ?? {};
  return metric(enabled === 0 ? 100 : 100 * (1 - lost / enabled), { devices: enabled, lost });
}

export function probeProcessor(ctx: Ctx, { processor }: Probes): Metric {
  const { storing, pendingWrites, failedCommits } = processor();
  const rollupLag = Math.max(0, ctx.readings.lastId() - readWatermark(ctx));
  const points =
    100 -
    penalty(pendingWrites, 1_000, 50_000, 60) -
    penalty(failedCommits, 0, 3, 80) -
    penalty(rollupLag, 100_000, 5_000_000, 40);
  return metric(storing ? points : 0, { storing, pendingWrites, failedCommits, rollupLag });
}

export function probeHealth(ctx: Ctx, probes: Probes): Health {
  const database = probeDatabase(probes);
  const mqtt = probeMqtt(probes);
  // A store that does not answer cannot tell of devices or readings either.
  const silent = metric(0, {});
  const isSilent = database.details["answers"] === false;
  const metrics = {
    database,
    mqtt,
    deviceManager: isSilent ? silent : probeDevices(ctx),
    dataProcessor: isSilent ? silent : probeProcessor(ctx, probes),
  };
  const score = Math.round(
    Object.entries(weights).reduce(
      (sum, [name, weight]) => sum + weight * metrics[name as keyof typeof weights].score,
      0,
    ),
  );
  return { status: toWord(score), score, metrics };
}
