import { statSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { updateComponent } from "../../src/core/components.ts";
import { createReading, listReadings, sealStep } from "../../src/core/readings.ts";
import { measureStore, type StoreSize } from "../../src/core/retention.ts";
import { rollupWidths } from "../../src/core/rollups.ts";
import { rollUpStep } from "../../src/core/rounds.ts";
import { aggregateRange } from "../../src/core/series.ts";
import type { Job } from "../../src/jobs/periodic.ts";
import type { RetentionOptions } from "../../src/jobs/retention.ts";
import { startTestRetention } from "../support/retention.ts";
import { until } from "../support/client.ts";
import { createRandom } from "../support/random.ts";
import { addComponent, openTestStore, start, type TestStore } from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

const { hour: hourMs, day: dayMs } = rollupWidths;
const minuteMs = 60_000;

let t: TestStore;
let job: Job | undefined;
let sensor: { id: string; pk: number };
beforeEach(async () => {
  t = openTestStore();
  sensor = await t.commit((ctx) => addComponent(ctx, "sensor"));
});
afterEach(async () => {
  await job?.stop();
  job = undefined;
  await t.close();
});

const run = (options: Partial<RetentionOptions> = {}): Job => (job = startTestRetention(t, options));

const random = createRandom(1);

/** A reading each `apartMs` up to now, all but the last of them sealed; of values that do not compress. */
async function fill(count: number, apartMs: number): Promise<void> {
  for (let done = 0; done < count; done += 10_000)
    await t.commit((ctx) => {
      for (let i = done; i < Math.min(count, done + 10_000); i++)
        ctx.readings.append(sensor.pk, start - (count - i) * apartMs, random());
    });
  await rollUp();
  while (await t.commit((ctx) => sealStep(ctx, 20_000)));
}

async function rollUp(): Promise<void> {
  while (await t.commit((ctx) => rollUpStep(ctx, 5_000)));
}

const add = (valueAt: number): Promise<unknown> =>
  t.commit((ctx) => createReading(ctx, { sensorId: sensor.id, value: 1, valueAt }));
const kept = (): number => t.read((ctx) => runToEnd(listReadings(ctx, { limit: 1_000, offset: 0 }))).length;
const size = (): StoreSize => t.read(measureStore);
const used = (): number => size().bytes - size().freeBytes;
const count = (): number =>
  t.read((ctx) => runToEnd(aggregateRange(ctx, { sensorPk: sensor.pk }, "count")))[0]?.value ?? 0;
const removed = (reason: "age" | "size"): number => t.counters.get(`retention.readings.${reason}`);

describe("what is too old", () => {
  test("goes by itself, counted and told", async () => {
    for (const age of [1, 89, 92, 93]) await add(start - age * dayMs);
    await rollUp();
    run();
    await until(() => kept() === 2);
    await until(() => t.logged().includes("old readings removed"));
    expect(removed("age")).toBe(2);
    expect(t.logged()).toContain("reason=age readings=2");
    expect(count()).toBe(4);
  });

  test("goes when the day changes", async () => {
    for (const age of [90, 92]) await add(start - age * dayMs);
    await rollUp();
    run();
    await until(() => removed("age") === 1);
    expect(kept()).toBe(1);
    t.clock.at += 14 * hourMs;
    await until(() => kept() === 0);
  });

  test("goes at once when its sensor's limit is changed", async () => {
    for (const age of [1, 5]) await add(start - age * dayMs);
    await rollUp();
    run();
    const waits = kept();
    await t.commit((ctx) => updateComponent(ctx, "sensor", sensor.id, { retentionDays: 2 }));
    await until(() => kept() === 1);
    expect(waits).toBe(2);
  });

  test("stays for a while when the clock was set", async () => {
    await add(start);
    await rollUp();
    run({ maxBytes: 4_096 }); // more than a round may bring about, and counted each time
    t.clock.at += 400 * dayMs;
    await until(() => t.logged().includes("the clock was set by more than a day"));
    await t.commit((ctx) => updateComponent(ctx, "sensor", sensor.id, { retentionDays: 1 }));
    const rounds = t.counters.get("retention.too_large");
    await until(() => t.counters.get("retention.too_large") > rounds + 1);
    expect(removed("age")).toBe(0);
  });

  test("goes in steps, between which others write, and goes on after a restart", async () => {
    await t.commit((ctx) => {
      for (let i = 0; i < 5_000; i++) ctx.readings.append(sensor.pk, start - 100 * dayMs - i * minuteMs, i);
    });
    await rollUp();
    run();
    await until(() => removed("age") > 0);
    await t.commit((ctx) => createReading(ctx, { sensorId: sensor.id, value: 1 }));
    expect(removed("age")).toBeLessThan(5_000);
    await job?.stop();
    const before = removed("age");
    expect(before).toBeLessThan(5_000);
    await t.reopen();
    expect(count()).toBe(5_001);
    run();
    await until(() => removed("age") === 5_000);
    expect(count()).toBe(5_001);
    expect(kept()).toBe(1);
  });

  test("that cannot be removed is tried again", async () => {
    await add(start - 100 * dayMs);
    await rollUp();
    t.store.db.$client.exec(
      "CREATE TRIGGER keep BEFORE UPDATE OF dropped_before ON sensors BEGIN SELECT raise(ABORT, 'stuck'); END",
    );
    run();
    await until(() => t.logged().includes("error=stuck"));
    expect(removed("age")).toBe(0);
    t.store.db.$client.exec("DROP TRIGGER keep");
    await until(() => removed("age") === 1);
  });
});

describe("a store that is too large", () => {
  test("loses its oldest readings until it is small enough, and no more than that", async () => {
    // 80 days, so that none is too old.
    await fill(200_000, (80 * dayMs) / 200_000);
    const maxBytes = Math.round(used() * 0.8);
    run({ maxBytes });
    await until(() => used() <= maxBytes * 0.95);
    await until(() => size().bytes <= maxBytes);
    expect(used()).toBeGreaterThan(maxBytes * 0.85);
    await until(() => t.logged().includes("reason=size"));
    expect(removed("size")).toBeGreaterThan(10_000);
    expect(removed("age")).toBe(0);
    expect(count()).toBe(200_000);
    // The newest are there, the oldest are not.
    const [newest] = t.read((ctx) => runToEnd(listReadings(ctx, { limit: 1, offset: 0 })));
    expect(newest?.valueAt).toBeGreaterThan(start - 2 * hourMs);
    const oldest = t.read((ctx) => ctx.readings.bounds(sensor.pk, 0, start))?.first ?? 0;
    expect(oldest).toBeGreaterThan(start - 79 * dayMs);
  });

  test("with nothing left that may go says so", async () => {
    await add(start);
    run({ maxBytes: 4_096 });
    await until(() => t.counters.get("retention.too_large") > 0);
    expect(t.logged()).toContain("larger than database.max_size");
    expect(kept()).toBe(1);
  });
});

describe("what is free in the file", () => {
  /** 12 MB that nothing is in any more. */
  async function free(): Promise<void> {
    const { $client } = t.store.db;
    await t.commit(() => {
      $client.exec("CREATE TABLE ballast (data BLOB)");
      const insert = $client.prepare("INSERT INTO ballast VALUES (zeroblob(4000))");
      for (let i = 0; i < 3_000; i++) insert.run();
    });
    await t.commit(() => void $client.exec("DROP TABLE ballast"));
    expect(size().freeBytes).toBeGreaterThan(3_000 * 4_096);
  }
  const megabyte = 1024 * 1024;
  const given = (): number => t.counters.get("retention.bytes");

  test("is given back, but for a reserve that is used again", async () => {
    await free();
    const before = size();
    run();
    await until(() => size().freeBytes < 4.3 * megabyte);
    await until(() => given() === before.bytes - size().bytes);
    expect(size().freeBytes).toBeGreaterThanOrEqual(4 * megabyte);
    expect(used()).toBeLessThanOrEqual(before.bytes - before.freeBytes);
    expect(t.store.db.$client.pragma("integrity_check", { simple: true })).toBe("ok");
  });

  test("is given back down to database.max_size", async () => {
    await free();
    run({ maxBytes: megabyte });
    await until(() => size().bytes <= megabyte);
    expect(removed("size")).toBe(0);
  });

  test("is given back to the last page where the disk is nearly full, and the disk has it at once", async () => {
    await free();
    run({ hasRoom: () => false });
    await until(() => size().freeBytes === 0);
    await until(() => statSync(t.store.path).size === size().bytes);
    await until(() => statSync(`${t.store.path}-wal`).size === 0);
    expect(given()).toBeGreaterThan(3_000 * 4_096);
  });
});
