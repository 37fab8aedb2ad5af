import { deepStrictEqual as same, equal, rejects } from "node:assert/strict";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import {
  assert as checkAll,
  array,
  asyncProperty,
  constant,
  double,
  integer,
  nat,
  oneof,
  option,
  record,
  type Arbitrary,
} from "fast-check";
import Sqlite, { type Database } from "better-sqlite3";
import { migrations } from "embedded:migrations";
import { expect, test } from "vitest";
import { createCounters } from "../../src/counters.ts";
import { createLog } from "../../src/log.ts";
import { createBlocks } from "../../src/store/blocks.ts";
import { createReadings, type StoredReading } from "../../src/store/readings.ts";
import { createWriter } from "../../src/store/writer.ts";
import { makeFolder } from "../support/gateway.ts";
import { createRandom } from "../support/random.ts";
import { runToEnd } from "../../src/steps.ts";

// Against the simplest thing that can hold readings, a list: whatever is done, in the log or sealed, and after restarts
// and rollbacks too, both give the same answers.

const log = createLog({ level: "error", write: () => undefined });

function openStore(path: string, { maxRecent = 40, joinRows = 7 } = {}) {
  const sqlite = new Sqlite(path);
  sqlite.pragma("journal_mode = WAL");
  if (sqlite.pragma("user_version", { simple: true }) === 0) {
    for (const { statements } of migrations) for (const statement of statements) sqlite.exec(statement);
    sqlite.pragma("user_version = 1");
  }
  const readings = createReadings(sqlite, { maxRecent, joinRows });
  const writer = createWriter(sqlite, { maxPending: 1_000, participant: readings, log, counters: createCounters() });
  return { sqlite, readings, writer };
}

/** Newest first. */
const newestFirst = (a: StoredReading, b: StoredReading): number => b.valueAt - a.valueAt || b.id - a.id;

type Step =
  | { do: "append"; sensorPk: number; at: number; value: number; fingerprint: number }
  | { do: "burst"; sensorPk: number; at: number; apart: number }
  | { do: "replace"; pick: number; at: number | undefined; value: number }
  | { do: "remove"; pick: number }
  | { do: "remove-sensor"; sensorPk: number }
  | { do: "remove-before"; sensorPk: number; at: number; limit: number }
  | { do: "seal"; limit: number }
  | { do: "fail"; sensorPk: number; at: number; pick: number }
  | { do: "restart" };

const sensorPk = integer({ min: 1, max: 4 });
/** Mostly one after the other, often the same, and sometimes from long ago. */
const at = oneof(integer({ min: 0, max: 60 }), integer({ min: -1e12, max: 2e14 }));
const value = oneof(
  integer({ min: -200, max: 200 }).map((n) => n / 10),
  double({ noNaN: true, noDefaultInfinity: true }).map((n) => n + 0),
);
const pick = nat();
const step: Arbitrary<Step> = oneof(
  {
    weight: 60,
    arbitrary: record({
      do: constant("append" as const),
      sensorPk,
      at,
      value,
      fingerprint: oneof(constant(0), integer({ min: 1, max: 2 ** 48 })),
    }),
  },
  // A page and more, forwards or backwards in time.
  {
    weight: 4,
    arbitrary: record({ do: constant("burst" as const), sensorPk, at, apart: integer({ min: -3, max: 3 }) }),
  },
  {
    weight: 6,
    arbitrary: record({ do: constant("replace" as const), pick, at: option(at, { nil: undefined }), value }),
  },
  { weight: 6, arbitrary: record({ do: constant("remove" as const), pick }) },
  { weight: 1, arbitrary: record({ do: constant("remove-sensor" as const), sensorPk }) },
  {
    weight: 3,
    arbitrary: record({
      do: constant("remove-before" as const),
      sensorPk,
      at,
      limit: integer({ min: 1, max: 20 }),
    }),
  },
  { weight: 20, arbitrary: record({ do: constant("seal" as const), limit: integer({ min: 1, max: 60 }) }) },
  { weight: 4, arbitrary: record({ do: constant("fail" as const), sensorPk, at, pick }) },
  { weight: 3, arbitrary: constant({ do: "restart" as const }) },
);

async function check(steps: Step[]): Promise<void> {
  const own = makeFolder();
  const path = join(own.folder, "store.db");
  let { sqlite, readings, writer } = openStore(path);
  let model: StoredReading[] = [];
  let lastId = 0;
  const fingerprints: number[] = [];
  const chosen = (n: number): StoredReading | undefined => model[n % Math.max(1, model.length)];

  /** Several works may share a transaction, as they do under load. */
  const waiting: Promise<unknown>[] = [];
  const submit = (work: () => void): void => void waiting.push(writer.submit(work));
  const settle = async (): Promise<void> => void (await Promise.all(waiting.splice(0)));

  try {
    for (const [n, one] of steps.entries()) {
      if (one.do === "append") {
        const id = ++lastId;
        submit(() => equal(readings.append(one.sensorPk, one.at, one.value, one.fingerprint), id));
        model.push({ id, sensorPk: one.sensorPk, valueAt: one.at, value: one.value });
        if (one.fingerprint !== 0) fingerprints.push(one.fingerprint);
      } else if (one.do === "burst") {
        const burst = Array.from({ length: 400 }, (_, i) => ({
          id: ++lastId,
          sensorPk: one.sensorPk,
          valueAt: one.at + i * one.apart,
          value: i / 7,
        }));
        submit(() => {
          for (const reading of burst) readings.append(reading.sensorPk, reading.valueAt, reading.value);
        });
        model.push(...burst);
      } else if (one.do === "replace") {
        const reading = chosen(one.pick);
        if (reading === undefined) continue;
        const changed = { ...reading, valueAt: one.at ?? reading.valueAt, value: one.value };
        submit(() => readings.replace(reading.id, changed.valueAt, changed.value));
        model = model.map((other) => (other === reading ? changed : other));
      } else if (one.do === "remove") {
        const reading = chosen(one.pick);
        if (reading === undefined) continue;
        submit(() => readings.remove(reading.id));
        model = model.filter((other) => other !== reading);
      } else if (one.do === "remove-sensor") {
        submit(() => {
          while (readings.removeOf(one.sensorPk, 7) > 0);
        });
        model = model.filter((other) => other.sensorPk !== one.sensorPk);
      } else if (one.do === "remove-before") {
        const bound = { at: one.at, upToId: lastId };
        submit(() => {
          while (readings.removeBefore(one.sensorPk, bound, one.limit).rows > 0);
        });
        model = model.filter((other) => other.sensorPk !== one.sensorPk || other.valueAt >= one.at);
      } else if (one.do === "seal") submit(() => void readings.seal(lastId, one.limit));
      else if (one.do === "fail") {
        const reading = chosen(one.pick);
        const failing = writer.submit(() => {
          readings.append(one.sensorPk, one.at, 1, 77);
          if (reading !== undefined) readings.remove(reading.id);
          readings.seal(lastId, 1_000);
          throw new Error("taken back");
        });
        waiting.push(rejects(failing, { message: "taken back" }));
      } else {
        await settle();
        sqlite.close();
        ({ sqlite, readings, writer } = openStore(path));
      }
      if (n % 5 === 4) await settle();
    }
    await settle();
    compare(readings, model, lastId, fingerprints);
    sqlite.close();
    ({ sqlite, readings, writer } = openStore(path));
    compare(readings, model, lastId, fingerprints);
    expectOrder(sqlite);
  } finally {
    sqlite.close();
    own.remove();
  }
}

function compare(
  readings: ReturnType<typeof createReadings>,
  model: StoredReading[],
  lastId: number,
  fingerprints: number[],
): void {
  equal(readings.lastId(), lastId);
  same(
    readings.after(0, 100_000),
    model.toSorted((a, b) => a.id - b.id),
  );
  same(
    readings.after(lastId >> 1, 3),
    model
      .toSorted((a, b) => a.id - b.id)
      .filter(({ id }) => id > lastId >> 1)
      .slice(0, 3),
  );
  // Those of what has been sealed go in time.
  const known = readings.fingerprints(1_000);
  same(known, known.length === 0 ? [] : fingerprints.slice(-known.length));
  const byId = new Map(model.map((reading) => [reading.id, reading]));
  for (let id = 0; id <= lastId + 1; id += lastId > 500 ? 17 : 1) same(readings.get(id), byId.get(id));
  for (const pk of [1, 2, 3, 4]) {
    const own = model.filter((reading) => reading.sensorPk === pk).toSorted(newestFirst);
    const all = { from: -Infinity, before: { at: Infinity, id: 0 } };
    same(readings.page({ sensorPk: pk, ...all, limit: 100_000 }), own);
    same(readings.page({ sensorPk: pk, ...all, limit: 5, skip: 3 }), own.slice(3, 8));
    same(readings.newest(pk), own[0]);
    const [middle] = own.slice(own.length >> 1);
    if (middle === undefined) continue;
    const before = { at: middle.valueAt, id: middle.id };
    same(
      readings.page({ sensorPk: pk, from: -Infinity, before, limit: 4 }),
      own.slice(own.indexOf(middle) + 1).slice(0, 4),
    );
    const from = own.at(-2)?.valueAt ?? middle.valueAt;
    const within = own.filter(({ valueAt }) => valueAt >= from && valueAt < middle.valueAt);
    const visited: StoredReading[] = [];
    runToEnd(
      readings.visit({ sensorPk: pk, from, to: middle.valueAt }, (seen, valueAt, id) =>
        visited.push({ id, sensorPk: pk, valueAt, value: seen }),
      ),
    );
    same(visited.toSorted(newestFirst), within);
    same(
      readings.bounds(pk, from, middle.valueAt),
      within.length === 0 ? undefined : { first: within.at(-1)?.valueAt, last: within[0]?.valueAt },
    );
    const late: number[] = [];
    runToEnd(
      readings.visit({ sensorPk: pk, from: -Infinity, to: Infinity, afterId: middle.id }, (_value, _at, id) =>
        late.push(id),
      ),
    );
    same(new Set(late), new Set(own.filter(({ id }) => id > middle.id).map(({ id }) => id)));
    const twin = readings.findSame(pk, middle.valueAt, middle.value);
    equal(
      own.some(({ id, valueAt, value: kept }) => id === twin && valueAt === middle.valueAt && kept === middle.value),
      true,
    );
    equal(readings.findSame(pk, middle.valueAt, 123_456.789), undefined);
    equal(
      readings.findSame(pk, 61, middle.value),
      own.find((reading) => reading.valueAt === 61 && reading.value === middle.value)?.id,
    );
  }
}

/** Blocks of a sensor do not overlap, and each fits into a page. */
function expectOrder(sqlite: Database): void {
  same(
    sqlite
      .prepare(
        `SELECT a.pk FROM blocks a JOIN blocks b ON b.sensor_pk = a.sensor_pk AND b.pk <> a.pk
         WHERE (a.start_at, a.start_id) < (b.start_at, b.start_id) AND a.end_at > b.start_at`,
      )
      .all(),
    [],
  );
  same(sqlite.prepare("SELECT pk FROM blocks WHERE length(data) > 3950").all(), []);
  equal(sqlite.pragma("integrity_check", { simple: true }), "ok");
}

test("whatever is done with readings, they are what a list of them would be", async () => {
  const runs = checkAll(asyncProperty(array(step, { minLength: 1, maxLength: 80, size: "max" }), check), {
    numRuns: Number(process.env["LAMBDAIOT_TEST_RUNS"] ?? 15),
  });
  await expect(runs).resolves.toBeUndefined();
}, 300_000);

test("what comes after a reading is found at once, however many are gone in between", () => {
  const own = makeFolder();
  const path = join(own.folder, "store.db");
  const { sqlite } = openStore(path);
  const far = 10 ** 12;
  const blocks = createBlocks(sqlite);
  blocks.merge(1, { ids: [1, 2], times: [1, 2], values: [1, 2] });
  blocks.merge(2, { ids: [far, far + 1], times: [1, 2], values: [1, 2] });
  sqlite.close();
  const { sqlite: again, readings } = openStore(path);
  expect(readings.after(1, 3).map(({ id }) => id)).toEqual([2, far, far + 1]);
  expect(readings.after(2, 1).map(({ id }) => id)).toEqual([far]);
  expect(readings.after(far + 1, 1)).toEqual([]);
  again.close();
  own.remove();
});

test("readings whose blocks are damaged are not forgotten when those of other sensors are sealed", async () => {
  const own = makeFolder();
  const { sqlite, readings, writer } = openStore(join(own.folder, "store.db"));
  const append = (sensorPk: number) => writer.submit(() => readings.append(sensorPk, readings.lastId() + 1, 0.5));
  const seal = () => writer.submit(() => readings.seal(readings.lastId(), 5));
  try {
    for (let i = 0; i < 60; i++) await append(1 + (i % 3));
    while (await seal());
    sqlite.prepare("UPDATE blocks SET data = zeroblob(100) WHERE sensor_pk IN (2, 3)").run();
    const before = readings.lastId();
    for (let i = 0; i < 60; i++) await append(1 + (i % 3));
    for (let i = 0; i < 50; i++)
      await seal().catch((error: unknown) => equal((error as { code?: string }).code, "SQLITE_CORRUPT"));
    for (let id = before + 1; id <= readings.lastId(); id++) expect(readings.get(id)).toMatchObject({ id, value: 0.5 });
    sqlite.close();
    const again = openStore(join(own.folder, "store.db"));
    for (let id = before + 1; id <= before + 60; id++) expect(again.readings.get(id)).toMatchObject({ id, value: 0.5 });
    again.sqlite.close();
  } finally {
    sqlite.close();
    own.remove();
  }
});

// One that a bad disk has written over whole, which SQLite refuses to read, and bytes within that mean nothing.
for (const damaged of ["page", "bytes"] as const) {
  test(`a block damaged in its ${damaged}: that is told, and sealing goes on, of its sensor too`, async () => {
    const own = makeFolder();
    const path = join(own.folder, "store.db");
    const options = { maxRecent: 1_000, joinRows: 7 };
    let { sqlite, readings, writer } = openStore(path, options);
    const random = createRandom(1);
    /** One in a hundred comes late, so that full blocks are written again too. */
    const fill = async (): Promise<void> => {
      for (let n = 0; n < 20; n++) {
        await writer.submit(() => {
          for (let i = 0; i < 500; i++) {
            const at = readings.lastId() * 1_000 - (random() < 0.01 ? 30_000 : 0);
            readings.append(1 + (i % 10), at, random());
          }
        });
      }
    };
    const errors: unknown[] = [];
    const seal = async (): Promise<void> => {
      for (let n = 0; n < 300 && readings.isSealingDue(); n++)
        await writer.submit(() => readings.seal(readings.lastId(), 100)).catch((error: unknown) => errors.push(error));
    };
    const newestOf = (pk: number, limit: number): StoredReading[] =>
      readings.page({ sensorPk: pk, from: -Infinity, before: { at: Infinity, id: 0 }, limit });
    try {
      await fill();
      await seal();
      expect(errors).toEqual([]);
      // The block that takes what comes next of its sensor, and is not the last page of the table.
      const [hurt, pk] = sqlite
        .prepare<[], [sensorPk: number, pk: number]>(
          "SELECT sensor_pk, max(pk) AS pk FROM blocks GROUP BY sensor_pk ORDER BY pk LIMIT 1",
        )
        .raw()
        .get() as [number, number];
      const data = sqlite.prepare<[number], Buffer>("SELECT data FROM blocks WHERE pk = ?").pluck().get(pk) as Buffer;
      if (damaged === "bytes") sqlite.prepare("UPDATE blocks SET data = zeroblob(length(data)) WHERE pk = ?").run(pk);
      sqlite.close();
      if (damaged === "page") damagePage(path, data);
      ({ sqlite, readings, writer } = openStore(path, options));

      const before = readings.lastId();
      await fill();
      await seal();
      expect(readings.isSealingDue()).toBe(false);
      expect(new Set(errors.map((error) => (error as { code?: string }).code))).toEqual(new Set(["SQLITE_CORRUPT"]));
      expect(errors.length).toBeLessThan(20);
      const logged = () => sqlite.prepare<[], number>("SELECT sum(count) FROM arrivals").pluck().get() as number;
      expect(logged()).toBeLessThanOrEqual(1_000);

      for (const restart of [false, true]) {
        if (restart) {
          sqlite.close();
          ({ sqlite, readings, writer } = openStore(path, options));
        }
        for (let sensor = 1; sensor <= 10; sensor++) {
          const found = newestOf(sensor, 1_000);
          expect(found).toHaveLength(1_000);
          expect(found.toSorted(newestFirst)).toEqual(found);
        }
        expect(readings.after(before, 100_000).map(({ id }) => id)).toEqual(
          Array.from({ length: 10_000 }, (_, i) => before + 1 + i),
        );
        // What was there before is still said to be damaged.
        expect(() => newestOf(hurt, 100_000)).toThrow(expect.objectContaining({ code: "SQLITE_CORRUPT" }));
        expect(newestOf((hurt % 10) + 1, 100_000)).toHaveLength(2_000);
      }
    } finally {
      sqlite.close();
      own.remove();
    }
  });
}

for (const damaged of ["page", "bytes"] as const) {
  test(`a block damaged in its ${damaged}: what is older and what is newer can be removed all the same`, async () => {
    const own = makeFolder();
    const path = join(own.folder, "store.db");
    const options = { maxRecent: 1_000 };
    let { sqlite, readings, writer } = openStore(path, options);
    try {
      await fillTwo({ readings, writer }, 20_000, (i) => i);
      const [pk, data, startAt, count] = sqlite
        .prepare<[], [pk: number, data: Buffer, startAt: number, count: number]>(
          "SELECT pk, data, start_at, count FROM blocks WHERE sensor_pk = 1 ORDER BY start_at LIMIT 1 OFFSET 3",
        )
        .raw()
        .get() as [number, Buffer, number, number];
      if (damaged === "bytes") sqlite.prepare("UPDATE blocks SET data = zeroblob(length(data)) WHERE pk = ?").run(pk);
      sqlite.close();
      if (damaged === "page") damagePage(path, data);
      ({ sqlite, readings, writer } = openStore(path, options));
      const errors: unknown[] = [];
      const removeAll = async (remove: () => number): Promise<number> => {
        for (let removed = 0; ;) {
          const more = await writer.submit(remove).catch((error: unknown) => void errors.push(error));
          if (more === 0) return removed;
          removed += more ?? 0;
          expect(errors.length).toBeLessThan(20);
        }
      };
      const blocksOf = (sensorPk: number) =>
        sqlite
          .prepare("SELECT count(*) FROM blocks INDEXED BY blocks_sensor_time WHERE sensor_pk = ?")
          .pluck()
          .get(sensorPk);
      // Up to the middle of the damaged block.
      const bound = { at: startAt + count, upToId: readings.lastId() };
      const before = await removeAll(() => readings.removeBefore(1, bound, 2).readings);
      expect(before).toBeGreaterThan(0);
      expect(errors.length).toBeGreaterThan(0);
      await removeAll(() => readings.removeOf(1, 500));
      // A block that SQLite can read goes with the others, whatever is in it.
      expect(blocksOf(1)).toBeLessThan(damaged === "page" ? 5 : 2);
      const whole = { sensorPk: 2, from: -Infinity, before: { at: Infinity, id: 0 }, limit: 100_000 };
      expect(readings.page(whole)).toHaveLength(10_000);
    } finally {
      sqlite.close();
      own.remove();
    }
  });
}

test("where the oldest block of all is damaged, the end of the next one tells up to where readings go first", async () => {
  const own = makeFolder();
  const path = join(own.folder, "store.db");
  const options = { maxRecent: 1_000 };
  let { sqlite, readings, writer } = openStore(path, options);
  try {
    await fillTwo({ readings, writer }, 10_000, (i) => i + (i % 2) * 1_000_000);
    const [first, second] = sqlite
      .prepare<[], { data: Buffer; end: number }>(
        "SELECT data, end_at AS end FROM blocks WHERE sensor_pk = 1 ORDER BY start_at LIMIT 2",
      )
      .all() as [{ data: Buffer; end: number }, { end: number }];
    expect(readings.firstSealedEnd()).toBe(first.end);
    sqlite.close();
    damagePage(path, first.data);
    ({ sqlite, readings, writer } = openStore(path, options));
    expect(readings.firstSealedEnd()).toBe(second.end);
    // Those that have turned out not to be removable are passed over from then on.
    const bound = { at: second.end + 1, upToId: readings.lastId() };
    const remove = (): Promise<number> => writer.submit(() => readings.removeBefore(1, bound, 10).readings);
    for (let tries = 0; tries < 5; tries++) await remove().catch(() => undefined);
    expect(readings.firstSealedEnd()).toBeGreaterThan(second.end);
  } finally {
    sqlite.close();
    own.remove();
  }
});

/** Random readings of sensors 1 and 2 in turn, sealed but for the newest. */
async function fillTwo(
  { readings, writer }: Pick<ReturnType<typeof openStore>, "readings" | "writer">,
  count: number,
  timeOf: (i: number) => number,
): Promise<void> {
  const random = createRandom(2);
  for (let from = 0; from < count; from += 500) {
    await writer.submit(() => {
      for (let i = from; i < from + 500; i++) readings.append(1 + (i % 2), timeOf(i), random());
    });
  }
  while (await writer.submit(() => readings.seal(readings.lastId(), 5_000)));
}

/** Writes over the page that holds a block. */
function damagePage(path: string, data: Buffer): void {
  const size = 4_096;
  const page = Math.floor(readFileSync(path).indexOf(data) / size);
  const file = openSync(path, "r+");
  writeSync(file, Buffer.alloc(size, 0x5a), 0, size, page * size);
  closeSync(file);
}

test("a sensor that has sent everything is sealed in steps too, each of which can be taken back", async () => {
  const own = makeFolder();
  const path = join(own.folder, "store.db");
  const { sqlite, readings, writer } = openStore(path);
  const model: StoredReading[] = [];
  try {
    for (let i = 1; i <= 210; i++) model.push({ id: i, sensorPk: 1, valueAt: (i * 37) % 211, value: i });
    // Rows of so many readings are left as they are.
    for (const from of [0, 70, 140]) {
      await writer.submit(() => {
        for (const { sensorPk, valueAt, value } of model.slice(from, from + 70))
          readings.append(sensorPk, valueAt, value);
      });
    }
    const count = () => sqlite.prepare<[], number>("SELECT coalesce(sum(count), 0) FROM blocks").pluck().get();
    for (const sealed of [30, 60, 70]) {
      const failing = writer.submit(() => {
        readings.seal(210, 30);
        throw new Error("taken back");
      });
      await rejects(failing, { message: "taken back" });
      same(
        readings.page({ sensorPk: 1, from: 0, before: { at: 211, id: 0 }, limit: 1_000 }),
        model.toSorted(newestFirst),
      );
      expect(await writer.submit(() => readings.seal(210, 30))).toBe(true);
      expect(count()).toBe(sealed);
      same(readings.after(0, 1_000), model);
      // What a start at this moment would find.
      const { sqlite: other, readings: found } = openStore(path);
      same(found.after(0, 1_000), model);
      same(found.page({ sensorPk: 1, from: 0, before: { at: 211, id: 0 }, limit: 1_000 }), model.toSorted(newestFirst));
      other.close();
    }
  } finally {
    sqlite.close();
    own.remove();
  }
});
