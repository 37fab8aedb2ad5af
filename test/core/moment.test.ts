import { afterEach, beforeEach, expect, test } from "vitest";
import { DomainError } from "../../src/core/errors.ts";
import { readData } from "../../src/core/points.ts";
import { createReading, deleteReading, listReadings, updateReading } from "../../src/core/readings.ts";
import { sweepStep } from "../../src/core/retention.ts";
import { rollUpStep } from "../../src/core/rounds.ts";
import { aggregateRange, aggregateSeries } from "../../src/core/series.ts";
import { openZone, utc, type Interval, type Zone } from "../../src/core/intervals.ts";
import { runToEnd, type Steps } from "../../src/steps.ts";
import { createRandom } from "../support/random.ts";
import { addComponent, openTestStore, type TestStore } from "../support/store.ts";

// A chart, or a page far back, is read in steps, between which readings come, change, go, grow too old, are sealed and
// summed up. It shows one moment all the same: one that there was while it was read.

const hourMs = 3_600_000;
const start = Date.UTC(2026, 0, 1);

let t: TestStore;
let sensor: { id: string; pk: number; deviceId: string };
let ids: number[];

beforeEach(async () => {
  t = openTestStore({ maxRecentReadings: 300 });
  t.clock.at = start + 400 * 24 * hourMs;
  sensor = await t.commit((ctx) => addComponent(ctx, "sensor"));
  ids = [];
});
afterEach(() => t.close());

const add = async (value: number, valueAt: number): Promise<void> =>
  void ids.push(await t.commit((ctx) => createReading(ctx, { sensorId: sensor.id, value, valueAt }).id));

const policy = { rawDays: 0, rollupDays: 0 };

/** The reading has grown too old meanwhile. */
function passOver(error: unknown): void {
  if (!(error instanceof DomainError && error.code === "not_found")) throw error;
}

const sealAll = async (limit: number): Promise<void> => {
  while (await t.commit(({ readings }) => readings.seal(readings.lastId(), limit)));
};

type Read = () => Steps<unknown>;
const seriesOf = (interval: Interval, zone: Zone): Read => {
  const read: Read = () => t.read((ctx) => aggregateSeries(ctx, { sensorPk: sensor.pk }, "sum", interval, zone));
  return read;
};
const wholeOf: Read = () => t.read((ctx) => aggregateRange(ctx, { sensorPk: sensor.pk }, "sum"));

const pageOf =
  (sensorId: () => string | undefined): Read =>
  () =>
    t.read((ctx) => listReadings(ctx, { sensorId: sensorId(), offset: 5_900, limit: 100 }));

const newestOf: Read = function* () {
  const { points, total } = yield* t.read((ctx) => readData(ctx, sensor.deviceId, { limit: 3, zone: utc }));
  return { points, total };
};

const reads: [name: string, read: Read][] = [
  ["by hour", seriesOf("1h", utc)],
  ["by day in Ljubljana", seriesOf("1d", openZone("Europe/Ljubljana") as Zone)],
  ["by minutes", seriesOf("15m", utc)],
  ["whole", wholeOf],
  ["the newest, and how many there are", newestOf],
  ["a page far back", pageOf(() => sensor.id)],
  ["a page far back over all sensors", pageOf(() => undefined)],
];

test.each(reads)("%s: what is read shows one of the moments that went by meanwhile", async (_, read) => {
  const random = createRandom(7);
  // Two months, a reading each quarter of an hour or so: several steps of blocks and of rollups.
  await t.commit((ctx) => {
    for (let i = 0; i < 6_000; i++) {
      const valueAt = start + i * 900_000 + Math.floor(random() * 600_000);
      ids.push(createReading(ctx, { sensorId: sensor.id, value: i, valueAt }).id);
    }
  });
  while (await t.commit((ctx) => rollUpStep(ctx, 1_000)));
  await sealAll(1_000);

  const pick = (): number => ids[Math.floor(random() * ids.length)] as number;
  const someTime = (): number => start + Math.floor(random() * 60 * 24) * hourMs + Math.floor(random() * hourMs);
  let before = start;
  const changes: (() => Promise<unknown>)[] = [
    () => add(random() * 1e6, start + 6_000 * 900_000 + ids.length * 1_000),
    () => add(random() * 1e6, someTime()),
    async () => {
      const id = pick();
      await t.commit((ctx) => updateReading(ctx, id, { value: random() * 1e6, valueAt: someTime() })).catch(passOver);
    },
    async () => {
      const [id] = ids.splice(Math.floor(random() * ids.length), 1) as [number];
      await t.commit((ctx) => deleteReading(ctx, id)).catch(passOver);
    },
    async () => {
      before += 4 * hourMs;
      await t.commit((ctx) => sweepStep(ctx, { policy, before, upToId: Number.MAX_SAFE_INTEGER }, 0));
    },
    () => t.commit((ctx) => rollUpStep(ctx, 1_000)),
    () => t.commit(({ readings }) => readings.seal(readings.lastId(), 200)),
  ];
  let pauses = 0;
  for (let round = 0; round < 60; round++) {
    const moments = [JSON.stringify(runToEnd(read()))];
    const steps = read();
    let step = steps.next();
    while (step.done !== true) {
      pauses += 1;
      if (random() < 0.2) {
        await (changes[Math.floor(random() * changes.length)] as () => Promise<unknown>)();
        moments.push(JSON.stringify(runToEnd(read())));
      }
      step = steps.next();
    }
    expect(moments).toContain(JSON.stringify(step.value));
  }
  expect(pauses).toBeGreaterThanOrEqual(60);
});

test("a page over all sensors does not begin anew where readings are summed up meanwhile", async () => {
  await t.commit((ctx) => {
    for (let i = 0; i < 6_000; i++) createReading(ctx, { sensorId: sensor.id, value: i, valueAt: start + i * 900_000 });
  });
  const read = pageOf(() => undefined);
  let steps = 0;
  for (const _ of read()) steps += 1;
  let pauses = 0;
  for (const _ of read()) {
    pauses += 1;
    await t.commit((ctx) => rollUpStep(ctx, 100));
  }
  expect(pauses).toBe(steps);
});
