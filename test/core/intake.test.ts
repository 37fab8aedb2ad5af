import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createDomain, type Ctx } from "../../src/core/ctx.ts";
import { anyone } from "../../src/core/identities.ts";
import { createIntake, fingerprintMessage, sumClientId, type Intake } from "../../src/core/intake.ts";
import { listReadings } from "../../src/core/readings.ts";
import { openStore } from "../../src/store/open.ts";
import { createWriter, type Participant } from "../../src/store/writer.ts";
import { addComponent, openTestStore, type TestStore } from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

let t: TestStore;
let sensorId: string;
beforeEach(async () => {
  t = openTestStore();
  sensorId = (await t.commit((ctx) => addComponent(ctx, "sensor"))).id;
});
afterEach(() => t.close());

/** A reading without a time whose value is its message's fingerprint too. */
const send = (intake: Intake, value: number, { dup = false, sensor = sensorId } = {}): Promise<string> =>
  new Promise((resolve, reject) => {
    const reading = {
      sensorId: sensor,
      value,
      valueAt: undefined,
      speaker: anyone,
      fingerprint: value,
      isMarkedDup: dup,
    };
    intake.submit(reading, (error, outcome) => {
      if (outcome === undefined || error !== undefined) reject(error);
      else resolve(typeof outcome === "string" ? outcome : outcome.isResend ? "resend" : "stored");
    });
  });
const again = { dup: true };
const values = () =>
  t.read((ctx) => runToEnd(listReadings(ctx, { sensorId, limit: 1_000, offset: 0 }))).map(({ value }) => value);

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
    const fingerprint = fingerprintMessage(sumClientId("client"), 7, payload);
    expect(Number.isSafeInteger(fingerprint)).toBe(true);
    expect(fingerprintMessage(sumClientId("client"), 7, Uint8Array.from(payload))).toBe(fingerprint);
    for (const other of [
      fingerprintMessage(sumClientId("client"), 8, payload),
      fingerprintMessage(sumClientId("client2"), 7, payload),
      fingerprintMessage(sumClientId("client"), 7, Buffer.from('{"type":"sensor_value"}')),
      fingerprintMessage(sumClientId("client"), 7, Buffer.alloc(0)),
      fingerprintMessage(sumClientId(""), 7, payload),
    ])
      expect(other).not.toBe(fingerprint);
  });

  test("keeps a client's name and its packet's number apart", () => {
    const nothing = Buffer.alloc(0);
    expect(fingerprintMessage(sumClientId("a1"), 2, nothing)).not.toBe(
      fingerprintMessage(sumClientId("a"), 12, nothing),
    );
    expect(fingerprintMessage(sumClientId("a"), 1, Buffer.from("2"))).not.toBe(
      fingerprintMessage(sumClientId("a"), 12, nothing),
    );
  });
});

describe("a message", () => {
  test("without the DUP flag is stored each time: the packet number has been used again", async () => {
    const intake = createIntake(t.domain, 100);
    expect(await send(intake, 1)).toBe("stored");
    expect(await send(intake, 1)).toBe("stored");
    expect(values()).toEqual([1, 1]);
  });

  test("with the DUP flag that was never stored is stored", async () => {
    const intake = createIntake(t.domain, 100);
    expect(await send(intake, 1, again)).toBe("stored");
    expect(values()).toEqual([1]);
  });

  test("with the DUP flag that was stored is known, any number of times", async () => {
    const intake = createIntake(t.domain, 100);
    await send(intake, 1);
    for (let i = 0; i < 3; i++) expect(await send(intake, 1, again)).toBe("resend");
    await send(intake, 2, again);
    expect(await send(intake, 2, again)).toBe("resend");
    expect(values()).toEqual([2, 1]);
  });

  test("sent again while its commit runs settles with it", async () => {
    const intake = createIntake(t.domain, 100);
    const first = send(intake, 1);
    expect(await Promise.all([first, send(intake, 1, again), send(intake, 1, again)])).toEqual([
      "stored",
      "stored",
      "stored",
    ]);
    expect(values()).toEqual([1]);
  });

  test("that is known is not acknowledged before what came before it is stored", async () => {
    const intake = createIntake(t.domain, 100);
    await send(intake, 1);
    void send(intake, 2);
    await send(intake, 1, again);
    expect(values()).toEqual([2, 1]);
  });

  test("that was stored is known after a restart", async () => {
    await send(createIntake(t.domain, 100), 1);
    await t.reopen();
    const intake = createIntake(t.domain, 100);
    expect(await send(intake, 1, again)).toBe("resend");
    expect(await send(intake, 2, again)).toBe("stored");
    expect(values()).toEqual([2, 1]);
    await t.reopen();
    const third = createIntake(t.domain, 100);
    expect(await send(third, 1, again)).toBe("resend");
    expect(await send(third, 2, again)).toBe("resend");
  });

  test("of a sensor that nobody knows says so", async () => {
    const intake = createIntake(t.domain, 100);
    expect(await send(intake, 1, { sensor: "550e8400-e29b-41d4-a716-446655440000" })).toBe("unknown");
    expect(values()).toEqual([]);
  });
});

test("a message that is refused because too many wait can be sent again, and hides none that wait", async () => {
  const maxPendingWrites = 2;
  const { log, counters } = t;
  const store = openStore({ path: join(t.folder, "small.db"), maxPendingWrites, log, counters });
  try {
    const domain = createDomain({ store, bus: t.bus, log });
    const sensor = (await domain.commit({ kind: "system" }, (ctx) => addComponent(ctx, "sensor"))).id;
    const intake = createIntake(domain, 100);
    const waiting = [send(intake, 1, { sensor }), send(intake, 2, { sensor })];
    await expect(send(intake, 3, { sensor })).rejects.toMatchObject({ code: "unavailable" });
    await expect(send(intake, 3, { sensor, dup: true })).rejects.toMatchObject({ code: "unavailable" });
    waiting.push(send(intake, 1, { sensor, dup: true }), send(intake, 2, { sensor, dup: true }));
    expect(await Promise.all(waiting)).toEqual(["stored", "stored", "stored", "stored"]);
    expect(await send(intake, 3, { sensor, dup: true })).toBe("stored");
    expect(store.readings.after(0, 10).map(({ value }) => value)).toEqual([1, 2, 3]);
  } finally {
    await store.close();
  }
});

describe("a commit that failed", () => {
  test("is not remembered: the resend is stored", async () => {
    const intake = createIntake(t.domain, 100);
    const broken = t.commit(breakCommit);
    await expect(send(intake, 1)).rejects.toMatchObject({ code: "unavailable" });
    await expect(broken).rejects.toMatchObject({ code: "unavailable" });
    expect(t.store.isHealthy()).toBe(false);
    expect(values()).toEqual([]);
    expect(t.store.readings.fingerprints(100)).toEqual([]);
    expect(await send(intake, 1, again)).toBe("stored");
    expect(values()).toEqual([1]);
    expect(t.store.isHealthy()).toBe(true);
    await t.reopen();
    expect(await send(createIntake(t.domain, 100), 1, again)).toBe("resend");
  });

  test("is not taken for an earlier message of the same packet number and bytes", async () => {
    const intake = createIntake(t.domain, 100);
    await send(intake, 1);
    const broken = t.commit(breakCommit);
    await expect(send(intake, 1)).rejects.toMatchObject({ code: "unavailable" });
    await expect(broken).rejects.toMatchObject({ code: "unavailable" });
    expect(await send(intake, 1, again)).toBe("stored");
    expect(values()).toEqual([1, 1]);
    expect(await send(intake, 1, again)).toBe("resend");
  });

  test("is not acknowledged to a resend that came meanwhile either", async () => {
    const intake = createIntake(t.domain, 100);
    const outcomes = await Promise.allSettled([
      t.commit(breakCommit),
      send(intake, 1),
      send(intake, 1, again),
      send(intake, 1, again),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected", "rejected"]);
    expect(await send(intake, 1, again)).toBe("stored");
    expect(values()).toEqual([1]);
  });

  test("takes down those that share its transaction, and each may come again", async () => {
    const intake = createIntake(t.domain, 100);
    const outcomes = await Promise.allSettled([send(intake, 1), t.commit(breakCommit), send(intake, 3)]);
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
    await send(intake, 1, again);
    await send(intake, 3, again);
    expect(values()).toEqual([3, 1]);
  });

  test("of one that threw leaves the others of its transaction stored", async () => {
    const intake = createIntake(t.domain, 100);
    const fail = (ctx: Ctx): void => {
      ctx.readings.append(1, 1, 99);
      throw new Error("in the middle");
    };
    const outcomes = await Promise.allSettled([send(intake, 1), t.commit(fail), send(intake, 3)]);
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(values()).toEqual([3, 1]);
    expect(await send(intake, 1, again)).toBe("resend");
  });
});

test("a message of which the disk may have nothing is stored once, and acknowledged when it has it", async () => {
  let failing = false;
  const { log, counters, store } = t;
  const sync = (done: (error: Error | null) => void): void => done(failing ? new Error("EIO") : null);
  const { $client } = store.db;
  const participant = store.readings as typeof store.readings & Participant;
  const writer = createWriter($client, { maxPending: 100, participant, sync, log, counters });
  const domain = createDomain({ store: { ...store, writer }, bus: t.bus, log });
  const intake = createIntake(domain, 100);
  failing = true;
  await expect(send(intake, 1)).rejects.toMatchObject({ code: "unavailable" });
  failing = false;
  expect(await send(intake, 1, again)).toBe("resend");
  expect(values()).toEqual([1]);
  expect($client.pragma("wal_checkpoint(PASSIVE)")).toMatchObject([{ log: 0 }]);
});

describe("the window", () => {
  test("forgets the oldest, and counts what is used again as new", async () => {
    const intake = createIntake(t.domain, 3);
    for (const value of [1, 2, 3]) await send(intake, value);
    await send(intake, 1); // now the youngest
    await send(intake, 4); // 2 is forgotten
    for (const value of [1, 3, 4]) expect(await send(intake, value, again)).toBe("resend");
    expect(await send(intake, 2, again)).toBe("stored");
  });

  test("bounds what is remembered, across restarts too", async () => {
    const window = 10;
    for (let round = 0; round < 3; round++) {
      const intake = createIntake(t.domain, window);
      await Promise.all(Array.from({ length: 600 }, (_, i) => send(intake, 1 + round * 1_000 + i)));
      await t.reopen();
    }
    const intake = createIntake(t.domain, window);
    for (let value = 2_591; value <= 2_600; value++) expect(await send(intake, value, again)).toBe("resend");
    expect(await send(intake, 2_590, again)).toBe("stored");
  });

  test("finds whatever is in it, whatever else shares its places", async () => {
    const window = 64;
    const intake = createIntake(t.domain, window);
    // Multiples of what the places are counted by: all in one chain.
    const value = (n: number): number => (n + 1) * 4_294_967_291;
    for (let n = 0; n < 200; n++) await send(intake, value(n));
    for (let n = 199; n >= 200 - window; n--) expect(await send(intake, value(n), again)).toBe("resend");
    expect(await send(intake, value(200 - window - 1), again)).toBe("stored");
  });
});
