import * as fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Ctx } from "../../src/core/ctx.ts";
import { deleteDevice, getDevice, listDevices } from "../../src/core/devices.ts";
import {
  createReading,
  deleteReading,
  getReading,
  listReadings,
  recordReading,
  updateReading,
  type Reading,
} from "../../src/core/readings.ts";
import {
  addComponent,
  addDevice,
  collect,
  countReadings,
  openTestStore,
  start,
  type TestStore,
} from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

const unknown = "550e8400-e29b-41d4-a716-446655440000";
const dayMs = 86_400_000;

describe("one reading", () => {
  let t: TestStore;
  let sensorId: string;
  beforeEach(async () => {
    t = openTestStore();
    sensorId = (await t.commit((ctx) => addComponent(ctx, "sensor"))).id;
  });
  afterEach(() => t.close());

  const create = (value: number, valueAt?: number) =>
    t.commit((ctx) => createReading(ctx, { sensorId, value, valueAt }));
  const list = () => t.read((ctx) => runToEnd(listReadings(ctx, { sensorId, limit: 100, offset: 0 })));

  test("is stored with its time, or with the gateway's where it has none", async () => {
    const timed = await create(21.5, start - 5_000);
    const now = await create(22);
    expect(t.read((ctx) => getReading(ctx, timed.id))).toEqual({
      id: timed.id,
      sensorId,
      value: 21.5,
      valueAt: start - 5_000,
    });
    expect(t.read((ctx) => getReading(ctx, now.id))).toMatchObject({ value: 22, valueAt: start });
  });

  test("of any finite value and any time in the past comes back as it went in", async () => {
    const value = fc.oneof(
      fc.double({ noNaN: true, noDefaultInfinity: true }).map((number) => number + 0),
      fc.constantFrom(0, Number.MAX_VALUE, Number.MIN_VALUE, 2 ** 53 + 2, 0.1 + 0.2, -1e-300),
    );
    const at = fc.oneof(
      fc.integer({ min: Date.parse("0000-01-01T00:00:00Z"), max: start }),
      fc.integer({ min: start, max: start + dayMs }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(value, at), { minLength: 1, maxLength: 20 }), async (given) => {
        const stored = await t.commit((ctx) =>
          given.map(([value, valueAt]) => createReading(ctx, { sensorId, value, valueAt }).id),
        );
        const read = t.read((ctx) => stored.map((id) => getReading(ctx, id)));
        expect(read.map(({ value, valueAt }) => [value, valueAt])).toEqual(given);
      }),
      { numRuns: 30 },
    );
  });

  test("may lie 24 hours ahead and no more", async () => {
    await create(1, start + dayMs);
    const tooFar = { code: "invalid", message: "value_at is more than 24 hours ahead" };
    await expect(create(2, start + dayMs + 1)).rejects.toMatchObject(tooFar);
    const [{ id }] = list() as [Reading];
    const move = (valueAt: number) => t.commit((ctx) => updateReading(ctx, id, { valueAt }));
    await expect(move(start + dayMs + 1)).rejects.toMatchObject(tooFar);
    expect(list()).toMatchObject([{ value: 1, valueAt: start + dayMs }]);
    await move(start + dayMs - 1);
    expect(list()).toMatchObject([{ value: 1, valueAt: start + dayMs - 1 }]);
  });

  test("of an unknown sensor is refused", async () => {
    await expect(
      t.commit((ctx) => createReading(ctx, { sensorId: unknown, value: 1, valueAt: start })),
    ).rejects.toMatchObject({ code: "invalid", message: "sensor not found" });
    expect(await t.commit((ctx) => recordReading(ctx, { sensorId: unknown, value: 1 }, { isOwn: true }))).toBe(
      "unknown",
    );
    expect(countReadings(t)).toBe(0);
  });

  test("sent again with the same time and value is the same one", async () => {
    const told = collect(t.bus, "reading.stored");
    const first = await create(21.5, start);
    expect(first.isResend).toBe(false);
    expect(await create(21.5, start)).toMatchObject({ id: first.id, isResend: true });
    expect(
      await t.commit((ctx) => recordReading(ctx, { sensorId, value: 21.5, valueAt: start }, { isOwn: true })),
    ).toMatchObject({
      id: first.id,
      isResend: true,
    });
    expect(list()).toHaveLength(1);
    expect(told).toHaveLength(1);
  });

  test("sent twice at once is one, also where both share a transaction", async () => {
    const [first, second] = await Promise.all([create(21.5, start), create(21.5, start)]);
    expect(second).toMatchObject({ id: first.id, isResend: true });
    expect(list()).toHaveLength(1);
  });

  test("with another value or another time is another one", async () => {
    await create(21.5, start);
    for (const [value, at] of [
      [21.500000000000004, start],
      [-21.5, start],
      [21.5, start + 1],
      [21.5, start - 1],
    ] as const)
      expect(await create(value, at)).toMatchObject({ isResend: false });
    const other = await t.commit((ctx) => addComponent(ctx, "sensor"));
    const elsewhere = await t.commit((ctx) => createReading(ctx, { sensorId: other.id, value: 21.5, valueAt: start }));
    expect(elsewhere.isResend).toBe(false);
    expect(list()).toHaveLength(5);
  });

  test("without a time is another one each time, within one millisecond too", async () => {
    await Promise.all([create(21.5), create(21.5), create(21.5)]);
    expect(list()).toHaveLength(3);
    expect(new Set(list().map(({ valueAt }) => valueAt))).toEqual(new Set([start]));
  });

  test("changes in what is given", async () => {
    const { id } = await create(21.5, start);
    await t.commit((ctx) => updateReading(ctx, id, { value: 0 }));
    expect(list()).toEqual([{ id, sensorId, value: 0, valueAt: start }]);
    await t.commit((ctx) => updateReading(ctx, id, { valueAt: 0 }));
    expect(list()).toEqual([{ id, sensorId, value: 0, valueAt: 0 }]);
    await t.commit((ctx) => updateReading(ctx, id, {}));
    expect(list()).toEqual([{ id, sensorId, value: 0, valueAt: 0 }]);
  });

  test("is gone once deleted, and its number is never given out again", async () => {
    const { id } = await create(21.5);
    await t.commit((ctx) => deleteReading(ctx, id));
    expect(list()).toEqual([]);
    expect((await create(21.5)).id).toBeGreaterThan(id);
    const notFound = { code: "not_found", message: "reading not found" };
    expect(() => t.read((ctx) => getReading(ctx, id))).toThrow(expect.objectContaining(notFound));
    await expect(t.commit((ctx) => updateReading(ctx, id, { value: 1 }))).rejects.toMatchObject(notFound);
    await expect(t.commit((ctx) => deleteReading(ctx, id))).rejects.toMatchObject(notFound);
  });

  test("of the device's own is a sign of its life, one that a user sends is none", async () => {
    const { deviceId } = await t.commit((ctx) => addComponent(ctx, "sensor", addDevice(ctx, { statusId: 3 }).id));
    const sensor = await t.commit((ctx) => addComponent(ctx, "sensor", deviceId));
    await t.commit((ctx) => createReading(ctx, { sensorId: sensor.id, value: 1 }));
    expect(t.read((ctx) => getDevice(ctx, deviceId))).toMatchObject({ statusId: 3, lastSeenAt: null });
    await t.commit((ctx) => recordReading(ctx, { sensorId: sensor.id, value: 1 }, { isOwn: true }));
    expect(t.read((ctx) => getDevice(ctx, deviceId))).toMatchObject({ statusId: 1, lastSeenAt: start });
  });

  test("survives a restart", async () => {
    const { id } = await create(21.5, start);
    await t.reopen();
    expect(list()).toEqual([{ id, sensorId, value: 21.5, valueAt: start }]);
    expect(await create(21.5, start)).toMatchObject({ id, isResend: true });
  });
});

describe("listReadings", () => {
  let t: TestStore;
  beforeAll(() => (t = openTestStore()) && undefined);
  afterAll(() => t.close());
  afterEach(() =>
    t.commit((ctx) => {
      for (const { id } of listDevices(ctx)) deleteDevice(ctx, id);
    }),
  );

  interface Query {
    sensorId?: string | undefined;
    from?: number | undefined;
    to?: number | undefined;
    limit: number;
    offset: number;
  }

  /** What a list is, without a thought for speed. */
  const listModel = (
    model: Reading[],
    { sensorId, from = -Infinity, to = Infinity, limit, offset }: Query,
  ): Reading[] =>
    model
      .filter((reading) => sensorId === undefined || reading.sensorId === sensorId)
      .filter(({ valueAt }) => valueAt >= from && valueAt < to)
      .toSorted((a, b) => b.valueAt - a.valueAt || b.id - a.id)
      .slice(offset, offset + limit);

  const sensorCount = 4;
  // Few instants, so that many readings share one; the last sensor gets most, so that its turn outlasts a fetch.
  const place = fc.record({
    sensor: fc.oneof(
      { weight: 1, arbitrary: fc.nat(sensorCount - 1) },
      { weight: 3, arbitrary: fc.constant(sensorCount - 1) },
    ),
    at: fc.integer({ min: -3, max: 12 }),
    value: fc.integer({ min: 0, max: 3 }),
  });
  const step = fc.oneof(
    { weight: 12, arbitrary: place.map((given) => ({ kind: "timed" as const, ...given })) },
    { weight: 3, arbitrary: place.map((given) => ({ kind: "now" as const, ...given })) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("delete" as const), pick: fc.nat() }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("update" as const), pick: fc.nat(), given: place }) },
  );
  const bound = fc.option(fc.integer({ min: -5, max: 15 }), { nil: undefined });
  const query = fc.record({
    // `sensorCount` is one that is not known, beyond it all of them.
    sensor: fc.nat(sensorCount + 3),
    from: bound,
    to: bound,
    limit: fc.oneof(fc.nat(5), fc.nat(60)),
    offset: fc.oneof(fc.constant(0), fc.nat(5), fc.nat(80)),
  });

  /** Takes the steps in the store and in the model. */
  function take(
    ctx: Ctx,
    sensors: string[],
    steps: (typeof step extends fc.Arbitrary<infer S> ? S : never)[],
  ): Reading[] {
    let model: Reading[] = [];
    for (const taken of steps) {
      if (taken.kind === "timed" || taken.kind === "now") {
        const sensorId = sensors[taken.sensor] as string;
        const valueAt = taken.kind === "now" ? start : start + taken.at;
        const same = model.filter(
          (known) => known.sensorId === sensorId && known.valueAt === valueAt && known.value === taken.value,
        );
        const { id, isResend } = createReading(ctx, {
          sensorId,
          value: taken.value,
          valueAt: taken.kind === "now" ? undefined : valueAt,
        });
        const isKnown = taken.kind === "timed" && same.length > 0;
        if (isResend !== isKnown || isResend !== same.some((known) => known.id === id))
          throw new Error(`reading ${id} ${isResend ? "is taken for a resend" : "is stored again"}`);
        if (!isResend) model.push({ id, sensorId, value: taken.value, valueAt });
      } else if (model.length > 0) {
        const picked = model[taken.pick % model.length] as Reading;
        if (taken.kind === "delete") {
          deleteReading(ctx, picked.id);
          model = model.filter((reading) => reading !== picked);
        } else {
          const change = { value: taken.given.value, valueAt: start + taken.given.at };
          updateReading(ctx, picked.id, change);
          Object.assign(picked, change);
        }
      }
    }
    return model;
  }

  test("agrees with a plain sort of everything, whatever was stored, changed and deleted before", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 120, size: "max" }),
        fc.array(query, { minLength: 10, maxLength: 20 }),
        fc.boolean(),
        async (steps, queries, dropsSensor) => {
          const [sensors, steppedModel] = await t.commit((ctx) => {
            const made = Array.from({ length: sensorCount }, () => addComponent(ctx, "sensor"));
            const ids = made.map(({ id }) => id);
            const model = take(ctx, ids, steps);
            if (!dropsSensor) return [ids, model] as const;
            deleteDevice(ctx, made[0]?.deviceId ?? "");
            return [ids, model.filter(({ sensorId }) => sensorId !== ids[0])] as const;
          });
          for (const { sensor, from, to, ...rest } of queries) {
            const given = {
              sensorId: sensor > sensorCount ? undefined : (sensors[sensor] ?? unknown),
              from: from === undefined ? undefined : start + from,
              to: to === undefined ? undefined : start + to,
              ...rest,
            };
            expect(t.read((ctx) => runToEnd(listReadings(ctx, given)))).toEqual(listModel(steppedModel, given));
          }
          for (const reading of steppedModel) expect(t.read((ctx) => getReading(ctx, reading.id))).toEqual(reading);
          await t.commit((ctx) => {
            for (const { id } of listDevices(ctx)) deleteDevice(ctx, id);
          });
          expect(t.read((ctx) => runToEnd(listReadings(ctx, { limit: 100, offset: 0 })))).toEqual([]);
        },
      ),
      { numRuns: 80 },
    );
  });

  test("pages of any size make up the whole, each reading once", async () => {
    const model = await t.commit((ctx) => {
      const sensors = Array.from({ length: 3 }, () => addComponent(ctx, "sensor").id);
      return Array.from({ length: 3_000 }, (_, i) => {
        const input = { sensorId: sensors[i % 100 < 98 ? 0 : i % 3] as string, value: i, valueAt: start - (i % 700) };
        return { id: createReading(ctx, input).id, ...input };
      });
    });
    for (const sensorId of [undefined, model[0]?.sensorId]) {
      const whole = listModel(model, { sensorId, limit: Infinity, offset: 0 });
      for (const limit of [1_000, 701]) {
        const pages: Reading[] = [];
        for (let offset = 0; offset < whole.length + limit; offset += limit)
          pages.push(...t.read((ctx) => runToEnd(listReadings(ctx, { sensorId, limit, offset }))));
        expect(pages).toEqual(whole);
      }
    }
  });

  test("an offset beyond the end is an empty page", async () => {
    const { id: sensorId } = await t.commit((ctx) => addComponent(ctx, "sensor"));
    await t.commit((ctx) => createReading(ctx, { sensorId, value: 1 }));
    for (const offset of [1, 2, 1_000_000, Number.MAX_SAFE_INTEGER - 1_000]) {
      expect(t.read((ctx) => runToEnd(listReadings(ctx, { sensorId, limit: 10, offset })))).toEqual([]);
    }
    for (const offset of [1, 2, 100_000])
      expect(t.read((ctx) => runToEnd(listReadings(ctx, { limit: 10, offset })))).toEqual([]);
  });

  test("an offset of more than 100,000 over all sensors is refused", () => {
    for (const offset of [100_001, Number.MAX_SAFE_INTEGER - 1_000])
      expect(() => t.read((ctx) => runToEnd(listReadings(ctx, { limit: 10, offset })))).toThrow(
        /more than 100000 readings back/,
      );
  });
});
