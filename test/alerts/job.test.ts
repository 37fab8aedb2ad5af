import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createRule, listAlerts } from "../../src/core/alerts.ts";
import type { Domain } from "../../src/core/ctx.ts";
import { getDevice } from "../../src/core/devices.ts";
import { recordReading } from "../../src/core/readings.ts";
import { startAlerts } from "../../src/jobs/alerts.ts";
import type { Job } from "../../src/jobs/periodic.ts";
import { until } from "../support/client.ts";
import { addComponent, openTestStore, type TestStore } from "../support/store.ts";

// The background work that holds rules against readings and time, look by look.

const second = 1_000;

let t: TestStore;
let job: Job;
let commits: number;
let sensor: { id: string; pk: number; deviceId: string };

beforeEach(async () => {
  // The work's own timer alone: its looks come when a test says so.
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
  t = openTestStore();
  commits = 0;
  sensor = await t.commit((ctx) => addComponent(ctx, "sensor"));
  const domain: Domain = {
    ...t.domain,
    async commit(actor, verb) {
      const result = await t.domain.commit(actor, verb);
      commits += 1;
      return result;
    },
  };
  job = startAlerts({ domain, bus: t.bus, log: t.log, now: () => t.clock.at });
});
afterEach(async () => {
  await job.stop();
  vi.useRealTimers();
  await t.close();
});

const addRule = (condition: "gt" | "no_data", threshold: number | null, forMs: number) =>
  t.commit((ctx) =>
    createRule(
      ctx,
      {
        devicePk: getDevice(ctx, sensor.deviceId).pk,
        sensorPk: sensor.pk,
        condition,
        threshold,
        thresholdHigh: null,
        forMs,
        clear: null,
        cooldownMs: 0,
        severity: "warning",
        isEnabled: true,
      },
      { maxRules: 10 },
    ),
  );

/** Time passes, and then comes a look: one commit for the readings, one for what time alone brings about. */
async function look(passedMs: number): Promise<number> {
  t.clock.at += passedMs;
  const before = commits;
  vi.advanceTimersByTime(second);
  await until(() => commits >= before + 2);
  return alerts().length;
}

const alerts = () => t.read((ctx) => listAlerts(ctx, { limit: 10, offset: 0 })).alerts;

test("a clock that leaps, or a machine that was asleep, is no silence", async () => {
  await addRule("no_data", null, 100 * second);
  expect(await look(0)).toBe(0);
  expect(await look(3_600 * second)).toBe(0);
  expect(await look(50 * second)).toBe(0);
  expect(await look(49 * second)).toBe(0);
  expect(await look(1 * second)).toBe(1);
});

test("a clock that leaps before there is a rule is none either", async () => {
  t.clock.at += 3_600 * second;
  await addRule("no_data", null, 100 * second);
  expect(await look(0)).toBe(0);
  expect(await look(60 * second)).toBe(0);
  expect(await look(40 * second)).toBe(1);
});

test("a reading is looked at when it comes, and not only when its time has come", async () => {
  await addRule("gt", 30, 0);
  await t.commit((ctx) => recordReading(ctx, { sensorId: sensor.id, value: 31 }, { isOwn: true }));
  await until(() => alerts().length === 1);
  t.clock.at += second;
  await t.commit((ctx) => recordReading(ctx, { sensorId: sensor.id, value: 20 }, { isOwn: true }));
  await until(() => alerts()[0]?.resolvedAt !== null);
  expect(alerts()).toHaveLength(1);
});

test("a condition that has held long enough fires without another reading", async () => {
  await addRule("gt", 30, 10 * second);
  await t.commit((ctx) => recordReading(ctx, { sensorId: sensor.id, value: 31 }, { isOwn: true }));
  expect(await look(9 * second)).toBe(0);
  expect(await look(1 * second)).toBe(1);
});
