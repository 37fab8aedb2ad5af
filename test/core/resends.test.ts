import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Ctx } from "../../src/core/ctx.ts";
import { listReadings, recordReading, type Recorded } from "../../src/core/readings.ts";
import { createResendGuard, fingerprintMessage } from "../../src/core/resends.ts";
import { addComponent, openTestStore, type TestStore } from "../support/store.ts";

let t: TestStore;
let sensorId: string;
beforeEach(async () => {
  t = openTestStore();
  sensorId = (await t.commit((ctx) => addComponent(ctx, "sensor"))).id;
});
afterEach(() => t.close());

/** Stores a reading whose value is its message's fingerprint too. */
const record = (value: number) => (ctx: Ctx) =>
  (recordReading(ctx, { sensorId, value }, { isOwn: true, fingerprint: value }) as Recorded).id;
const values = () =>
  t.read((ctx) => listReadings(ctx, { sensorId, limit: 1_000, offset: 0 })).map(({ value }) => value);

/** A write that SQLite takes and that fails in COMMIT: rows that refer to nothing, checked at the end only. */
function breakCommit(ctx: Ctx): void {
  const { $client } = ctx.db;
  $client.pragma("defer_foreign_keys = ON");
  $client
    .prepare(
      "INSERT INTO actors (id, device_pk, name, type, data_type_id, created_at, updated_at) VALUES ('x', -1, '', '', 1, 0, 0)",
    )
    .run();
}

describe("fingerprintMessage", () => {
  test("is the same for the same client, packet and bytes, and for no other", () => {
    const payload = Buffer.from('{"type":"sensor_reading"}');
    const fingerprint = fingerprintMessage("client", 7, payload);
    expect(Number.isSafeInteger(fingerprint)).toBe(true);
    expect(fingerprintMessage("client", 7, Uint8Array.from(payload))).toBe(fingerprint);
    for (const other of [
      fingerprintMessage("client", 8, payload),
      fingerprintMessage("client2", 7, payload),
      fingerprintMessage("client", 7, Buffer.from('{"type":"sensor_value"}')),
      fingerprintMessage("client", 7, Buffer.alloc(0)),
      fingerprintMessage("", 7, payload),
    ])
      expect(other).not.toBe(fingerprint);
  });

  test("keeps a client's name and its packet's number apart", () => {
    const nothing = Buffer.alloc(0);
    expect(fingerprintMessage("a1", 2, nothing)).not.toBe(fingerprintMessage("a", 12, nothing));
    expect(fingerprintMessage("a", 1, Buffer.from("2"))).not.toBe(fingerprintMessage("a", 12, nothing));
  });
});

describe("a message", () => {
  test("without the DUP flag is stored each time: the packet number has been used again", async () => {
    const guard = createResendGuard(t.domain, 100);
    expect(await guard.commitOnce(1, false, record(1))).toBeTypeOf("number");
    expect(await guard.commitOnce(1, false, record(1))).toBeTypeOf("number");
    expect(values()).toEqual([1, 1]);
  });

  test("with the DUP flag that was never stored is stored", async () => {
    const guard = createResendGuard(t.domain, 100);
    expect(await guard.commitOnce(1, true, record(1))).toBeTypeOf("number");
    expect(values()).toEqual([1]);
  });

  test("with the DUP flag that was stored is known, any number of times", async () => {
    const guard = createResendGuard(t.domain, 100);
    await guard.commitOnce(1, false, record(1));
    for (let i = 0; i < 3; i++) expect(await guard.commitOnce(1, true, record(1))).toBeUndefined();
    await guard.commitOnce(2, true, record(2));
    expect(await guard.commitOnce(2, true, record(2))).toBeUndefined();
    expect(values()).toEqual([2, 1]);
  });

  test("sent again while its commit runs settles with it", async () => {
    const guard = createResendGuard(t.domain, 100);
    const first = guard.commitOnce(1, false, record(1));
    const again = guard.commitOnce(1, true, record(1));
    expect(await again).toBe(await first);
    expect(values()).toEqual([1]);
  });

  test("that is known is not acknowledged before what came before it is stored", async () => {
    const guard = createResendGuard(t.domain, 100);
    await guard.commitOnce(1, false, record(1));
    void guard.commitOnce(2, false, record(2));
    await guard.commitOnce(1, true, record(1));
    expect(values()).toEqual([2, 1]);
  });

  test("that was stored is known after a restart", async () => {
    await createResendGuard(t.domain, 100).commitOnce(1, false, record(1));
    await t.reopen();
    const guard = createResendGuard(t.domain, 100);
    expect(await guard.commitOnce(1, true, record(1))).toBeUndefined();
    expect(await guard.commitOnce(2, true, record(2))).toBeTypeOf("number");
    expect(values()).toEqual([2, 1]);
    await t.reopen();
    const third = createResendGuard(t.domain, 100);
    expect(await third.commitOnce(1, true, record(1))).toBeUndefined();
    expect(await third.commitOnce(2, true, record(2))).toBeUndefined();
  });
});

describe("a commit that failed", () => {
  test("is not remembered: the resend is stored", async () => {
    const guard = createResendGuard(t.domain, 100);
    const verb = (ctx: Ctx) => {
      record(1)(ctx);
      breakCommit(ctx);
    };
    await expect(guard.commitOnce(1, false, verb)).rejects.toMatchObject({ code: "unavailable" });
    expect(t.store.isHealthy()).toBe(false);
    expect(values()).toEqual([]);
    expect(t.store.readings.fingerprints(100)).toEqual([]);
    expect(await guard.commitOnce(1, true, record(1))).toBeTypeOf("number");
    expect(values()).toEqual([1]);
    expect(t.store.isHealthy()).toBe(true);
    await t.reopen();
    expect(await createResendGuard(t.domain, 100).commitOnce(1, true, record(1))).toBeUndefined();
  });

  test("is not taken for an earlier message of the same packet number and bytes", async () => {
    const guard = createResendGuard(t.domain, 100);
    await guard.commitOnce(1, false, record(1));
    await expect(guard.commitOnce(1, false, breakCommit)).rejects.toMatchObject({ code: "unavailable" });
    expect(await guard.commitOnce(1, true, record(1))).toBeTypeOf("number");
    expect(values()).toEqual([1, 1]);
    expect(await guard.commitOnce(1, true, record(1))).toBeUndefined();
  });

  test("is not acknowledged to a resend that came meanwhile either", async () => {
    const guard = createResendGuard(t.domain, 100);
    const outcomes = await Promise.allSettled([
      guard.commitOnce(1, false, breakCommit),
      guard.commitOnce(1, true, record(1)),
      guard.commitOnce(1, true, record(1)),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
    expect(await guard.commitOnce(1, true, record(1))).toBeTypeOf("number");
    expect(values()).toEqual([1]);
  });

  test("takes down those that share its transaction, and each may come again", async () => {
    const guard = createResendGuard(t.domain, 100);
    const outcomes = await Promise.allSettled([
      guard.commitOnce(1, false, record(1)),
      guard.commitOnce(2, false, breakCommit),
      guard.commitOnce(3, false, record(3)),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
    await guard.commitOnce(1, true, record(1));
    await guard.commitOnce(3, true, record(3));
    expect(values()).toEqual([3, 1]);
  });

  test("of a verb that threw is not remembered, and the others of its transaction are stored", async () => {
    const guard = createResendGuard(t.domain, 100);
    const fail = (ctx: Ctx): number => {
      record(2)(ctx);
      throw new Error("in the middle");
    };
    const outcomes = await Promise.allSettled([
      guard.commitOnce(1, false, record(1)),
      guard.commitOnce(2, false, fail),
      guard.commitOnce(3, false, record(3)),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(values()).toEqual([3, 1]);
    expect(await guard.commitOnce(2, true, record(2))).toBeTypeOf("number");
    expect(await guard.commitOnce(1, true, record(1))).toBeUndefined();
  });
});

describe("the window", () => {
  test("forgets the oldest, and counts what is used again as new", async () => {
    const guard = createResendGuard(t.domain, 3);
    for (const n of [1, 2, 3]) await guard.commitOnce(n, false, record(n));
    await guard.commitOnce(1, false, record(1)); // now the youngest
    await guard.commitOnce(4, false, record(4)); // 2 is forgotten
    for (const n of [1, 3, 4]) expect(await guard.commitOnce(n, true, record(n))).toBeUndefined();
    expect(await guard.commitOnce(2, true, record(2))).toBeTypeOf("number");
  });

  test("bounds what is remembered, across restarts too", async () => {
    const window = 10;
    for (let round = 0; round < 3; round++) {
      const guard = createResendGuard(t.domain, window);
      await Promise.all(
        Array.from({ length: 600 }, (_, i) => 1 + round * 1_000 + i).map((n) => guard.commitOnce(n, false, record(n))),
      );
      await t.reopen();
    }
    const guard = createResendGuard(t.domain, window);
    for (let n = 2_591; n <= 2_600; n++) expect(await guard.commitOnce(n, true, () => "stored")).toBeUndefined();
    expect(await guard.commitOnce(2_590, true, () => "stored")).toBe("stored");
    expect(await guard.commitOnce(1, true, () => "stored")).toBe("stored");
  });
});
