import type { PublishPacket } from "aedes";
import { afterEach, describe, expect, test } from "vitest";
import type { Persistence } from "../../src/mqtt/persistence.ts";
import { countRows, type TestStore } from "../support/store.ts";
import { cleanUp, openPersistence } from "./kit.ts";

// What memory and the store know of sessions is the same, also where the store does not take it, and within the limits.

afterEach(cleanUp);

const client = { id: "c" };
const subscription = (topic: string, qos = 1) => ({ topic, qos }) as never;
const message = (topic: string, text: string, messageId: number, qos: 1 | 2 = 1): PublishPacket & Numbered => ({
  cmd: "publish",
  brokerId: "b1",
  brokerCounter: messageId,
  topic,
  payload: Buffer.from(text),
  qos,
  retain: false,
  dup: false,
  messageId,
});
type Numbered = { brokerId: string; brokerCounter: number };

/** Lets every such statement on a table fail until the returned function is called. */
function failOn({ store }: TestStore, statement: "INSERT" | "DELETE", table: string): () => void {
  const sqlite = store.db.$client;
  sqlite.exec(`CREATE TEMP TRIGGER fault BEFORE ${statement} ON ${table} BEGIN SELECT RAISE(ABORT, 'fault'); END`);
  return () => void sqlite.exec("DROP TRIGGER fault");
}

/** Queues what the message owes, as the broker does for QoS 1. */
async function send(persistence: Persistence, packet: ReturnType<typeof message>): Promise<void> {
  await persistence.accept(packet);
  await persistence.outgoingEnqueueCombi(await persistence.subscriptionsByTopic(packet.topic), packet);
  await persistence.settled();
}

const waiting = async (persistence: Persistence, of = client): Promise<string[]> =>
  ((await persistence.outgoingStream(of).toArray()) as { payload: Buffer }[]).map(({ payload }) => payload.toString());

describe("where the store does not take it, memory does not know it either:", () => {
  test("a new session", async () => {
    const { t, open } = openPersistence();
    const persistence = await open();
    const mend = failOn(t, "INSERT", "mqtt_sessions");
    await expect(persistence.keepSession("c", "anyone")).rejects.toThrow("fault");
    expect(persistence.ownerOf("c")).toBeUndefined();
    mend();
    expect(await persistence.keepSession("c", "anyone")).toBe(true);
    expect(countRows(t, "mqtt_sessions")).toBe(1);
  });

  test("a client id that somebody else takes over", async () => {
    const { t, open } = openPersistence();
    const persistence = await open();
    await persistence.keepSession("c", "anyone");
    await persistence.addSubscriptions(client, [subscription("a")]);
    await send(persistence, message("a", "1", 1));
    const mend = failOn(t, "DELETE", "mqtt_sessions");
    await expect(persistence.keepSession("c", "device:1")).rejects.toThrow("fault");
    expect([persistence.ownerOf("c"), await waiting(persistence)]).toEqual(["anyone", ["1"]]);
    mend();
    await persistence.keepSession("c", "device:1");
    expect([persistence.ownerOf("c"), await waiting(persistence)]).toEqual(["device:1", []]);
    const restarted = await open();
    expect([restarted.ownerOf("c"), await waiting(restarted)]).toEqual(["device:1", []]);
    expect(await restarted.subscriptionsByClient(client)).toEqual([]);
  });

  test("subscriptions, of which each is written once", async () => {
    const { t, open } = openPersistence();
    const persistence = await open();
    await persistence.keepSession("c", "anyone");
    const mend = failOn(t, "INSERT", "mqtt_subscriptions");
    const wanted = [subscription("a"), subscription("b")];
    // As Aedes does: the whole SUBSCRIBE, for each of its topics.
    const results = await Promise.allSettled([1, 2].map(() => persistence.addSubscriptions(client, wanted)));
    expect(results.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    expect(await persistence.subscriptionsByClient(client)).toEqual([]);
    expect(await persistence.subscriptionsByTopic("a")).toEqual([]);
    mend();
    t.store.db.$client.exec(
      "CREATE TEMP TABLE writes (n); CREATE TEMP TRIGGER note AFTER INSERT ON mqtt_subscriptions BEGIN INSERT INTO writes VALUES (1); END",
    );
    await Promise.all([1, 2, 3].map(() => persistence.addSubscriptions(client, wanted)));
    await persistence.addSubscriptions(client, wanted);
    expect((await persistence.subscriptionsByClient(client)).map(({ topic }) => topic)).toEqual(["a", "b"]);
    expect(countRows(t, "writes")).toBe(2);
  });

  test("what is unsubscribed", async () => {
    const { t, open } = openPersistence();
    const persistence = await open();
    await persistence.keepSession("c", "anyone");
    await persistence.addSubscriptions(client, [subscription("a")]);
    const mend = failOn(t, "DELETE", "mqtt_subscriptions");
    await expect(persistence.removeSubscriptions(client, ["a"])).rejects.toThrow("fault");
    expect(await persistence.subscriptionsByTopic("a")).toHaveLength(1);
    mend();
    await persistence.removeSubscriptions(client, ["a"]);
    expect(await persistence.subscriptionsByTopic("a")).toEqual([]);
  });

  test("the end of a session where a clean one begins", async () => {
    const { t, open } = openPersistence();
    const persistence = await open();
    await persistence.keepSession("c", "anyone");
    await persistence.addSubscriptions(client, [subscription("a")]);
    await send(persistence, message("a", "1", 1));
    const mend = failOn(t, "DELETE", "mqtt_sessions");
    await expect(persistence.cleanSubscriptions(client)).rejects.toThrow("fault");
    expect([persistence.ownerOf("c"), await waiting(persistence)]).toEqual(["anyone", ["1"]]);
    mend();
    await persistence.cleanSubscriptions(client);
    await persistence.settled();
    expect([persistence.ownerOf("c"), await waiting(persistence)]).toEqual([undefined, []]);
    expect(countRows(t, "mqtt_queued")).toBe(0);
  });

  test("a will", async () => {
    const { t, open } = openPersistence();
    const persistence = await open();
    failOn(t, "INSERT", "mqtt_wills");
    await expect(persistence.putWill(client, message("gone", "x", 1))).rejects.toThrow("fault");
    expect(await persistence.getWill(client)).toBeUndefined();
  });
});

test("a subscription of a session that ends meanwhile is granted to nobody", async () => {
  const { t, open } = openPersistence();
  const persistence = await open();
  await persistence.keepSession("c", "device:1");
  const adding = persistence.addSubscriptions(client, [subscription("a")]);
  persistence.endSessionsOf("device:1");
  await expect(adding).rejects.toThrow("ended");
  await persistence.settled();
  expect([await persistence.subscriptionsByTopic("a"), countRows(t, "mqtt_subscriptions")]).toEqual([[], 0]);
});

test("what comes for a session while a clean one takes its place is left to nobody", async () => {
  const { t, open } = openPersistence();
  const persistence = await open();
  await persistence.keepSession("c", "anyone");
  await persistence.addSubscriptions(client, [subscription("a")]);
  const cleaned = persistence.cleanSubscriptions(client);
  const packet = message("a", "late", 1);
  const accepted = persistence.accept(packet);
  await cleaned;
  await accepted;
  await persistence.outgoingEnqueueCombi(await persistence.subscriptionsByTopic("a"), packet);
  await persistence.settled();
  expect([await waiting(persistence), countRows(t, "mqtt_queued")]).toEqual([[], 0]);
});

test("limits that were lowered hold at the next start; what they drop is counted and gone from the store", async () => {
  const { t, open } = openPersistence();
  const persistence = await open();
  for (const id of ["old", "c", "d"]) {
    t.clock.at += 1;
    await persistence.keepSession(id, "anyone");
    await persistence.addSubscriptions({ id }, [subscription("a")]);
  }
  for (let i = 1; i <= 5; i++) await send(persistence, message("a", `${i}`, i));
  for (let i = 1; i <= 4; i++) await persistence.storeRetained({ ...message(`r/${i}`, "kept", i), retain: true });
  await persistence.settled();
  const rows = () =>
    ["mqtt_sessions", "mqtt_subscriptions", "mqtt_queued", "mqtt_retained"].map((name) => countRows(t, name));
  expect(rows()).toEqual([3, 3, 15, 4]);

  const restarted = await open({ maxSessions: 2, maxQueued: 3, maxRetained: 1 });
  expect([restarted.ownerOf("old"), await waiting(restarted), await waiting(restarted, { id: "d" })]).toEqual([
    undefined,
    ["1", "2", "3"],
    ["1", "2", "3"],
  ]);
  await restarted.settled();
  expect(rows()).toEqual([2, 2, 6, 1]);
  const counted = ["mqtt.sessions_dropped", "mqtt.queue_dropped", "mqtt.retained_refused"] as const;
  expect(counted.map((name) => t.counters.get(name))).toEqual([1, 4, 3]);
  const tight = await open({ maxQueuedBytes: 4 });
  expect([...(await waiting(tight)), ...(await waiting(tight, { id: "d" }))]).toHaveLength(2);
});

test("of a QoS 2 message that has been handed on, its identifier alone is kept until PUBREL", async () => {
  const { open } = openPersistence();
  const persistence = await open();
  const packet = message("a", "x".repeat(1_000), 7, 2);
  await persistence.incomingStorePacket(client, packet);
  persistence.handOn(client, packet);
  expect(await persistence.incomingGetPacket(client, { messageId: 7 })).toEqual({ messageId: 7 });
});

test("QoS 2 messages without PUBREL have their limits, of one client and of all, over a restart too", async () => {
  const { t, open } = openPersistence();
  const limits = { maxUnreleased: 2, maxUnreleasedTotal: 3 };
  const persistence = await open(limits);
  await persistence.keepSession("c", "anyone");
  const receive = (at: Persistence, id: string, messageId: number) =>
    at.incomingStorePacket({ id }, message("a", "x", messageId, 2)).then(
      () => "taken",
      () => "refused",
    );
  expect([await receive(persistence, "c", 1), await receive(persistence, "c", 2)]).toEqual(["taken", "taken"]);
  expect([await receive(persistence, "c", 3), await receive(persistence, "d", 1)]).toEqual(["refused", "taken"]);
  expect(await receive(persistence, "e", 1)).toBe("refused");
  await persistence.cleanIncoming({ id: "d" });
  expect(await receive(persistence, "e", 1)).toBe("taken");
  const restarted = await open(limits);
  expect(await receive(restarted, "c", 3)).toBe("refused");
  await restarted.incomingDelPacket(client, { messageId: 1 });
  expect(await receive(restarted, "c", 3)).toBe("taken");
  expect(t.counters.get("mqtt.unreleased_refused")).toBe(3);
});

test("who takes a client id over has its own will, whoever's is deleted after it", async () => {
  const { open } = openPersistence();
  const persistence = await open();
  const stored = async (): Promise<string[]> =>
    ((await (await open()).streamWill().toArray()) as { payload: Buffer }[]).map(({ payload }) => payload.toString());
  await persistence.putWill(client, message("gone", "first", 1));
  // As Aedes does: the new connection with its client, the old one by the client id once it has ended.
  await persistence.delWill({ ...client, conn: {} });
  await persistence.putWill(client, message("gone", "second", 2));
  await persistence.delWill(client);
  await persistence.settled();
  expect(await stored()).toEqual(["second"]);
  await persistence.delWill(client);
  await persistence.settled();
  expect(await stored()).toEqual([]);
});
