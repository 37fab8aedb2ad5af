import { Readable } from "node:stream";
import type { Client, PublishPacket, Subscription } from "aedes";
import { QlobberTrue } from "qlobber";
import QlobberSub from "qlobber/aedes/qlobber-sub.js";
import type { Ctx, Domain } from "../core/ctx.ts";
import {
  clearIncoming,
  deleteIncoming,
  deleteSession,
  deleteSubscriptions,
  deleteWill,
  dequeueMessage,
  enqueueMessage,
  loadBrokerState,
  putIncoming,
  putRetained,
  putSession,
  putSubscriptions,
  putWill,
  setMessageId,
  setReleased,
  type BrokerState,
} from "../core/sessions.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";

// Sessions, subscriptions, queues, retained messages and wills. Memory answers, within the same turn of the event loop:
// Aedes drops messages whose persistence takes longer (its `dedupe` takes what comes late for a repetition). The store is
// written behind it, but for what an acknowledgement stands for: that is committed first.

export interface PersistenceOptions {
  domain: Domain;
  log: Log;
  counters: Counters;
  now: () => number;
  /** Messages that may wait for one session; one more is dropped and counted. */
  maxQueued: number;
  /** Bytes that may wait for all sessions together. */
  maxQueuedBytes: number;
  maxSessions: number;
  maxRetained: number;
  maxRetainedBytes: number;
  /** A session whose client stays away longer is over. */
  sessionExpiryMs: number;
}

type SubscriptionRecord = Pick<Subscription, "qos" | "rh" | "rap" | "nl"> & { subscriptionIdentifier?: number };

/** A packet as Aedes hands it over and takes it back: PUBLISH, or PUBREL for one that was confirmed. */
export interface StoredPacket {
  cmd: "publish" | "pubrel";
  brokerId: string;
  brokerCounter: number;
  topic: string;
  /** A string where the gateway itself says something. */
  payload: string | Buffer;
  qos: 0 | 1 | 2;
  retain: boolean;
  dup: boolean;
  messageId: number | undefined;
}

type Will = StoredPacket & { clientId: string };

/** What Aedes passes may lack what it has no use for. */
type GivenPacket = Pick<StoredPacket, "brokerId" | "brokerCounter"> & Partial<StoredPacket>;

const copyPacket = ({
  cmd = "publish",
  brokerId,
  brokerCounter,
  topic = "",
  payload = "",
  qos = 0,
  retain = false,
  dup = false,
}: GivenPacket): StoredPacket => ({
  cmd,
  brokerId,
  brokerCounter,
  topic,
  payload,
  qos,
  retain,
  dup,
  messageId: undefined,
});

/** A message on its way to one session. */
interface Queued {
  key: string;
  packet: StoredPacket;
  /** Its row, or the promise of one; `undefined`: the row's loss was told already. */
  row: number | Promise<number | undefined>;
}

interface Session {
  subscriptions: Map<string, SubscriptionRecord>;
  /** By `brokerId:brokerCounter`, oldest first. */
  queue: Map<string, Queued>;
  byMessageId: Map<number, Queued>;
}

const qlobberOptions = { wildcard_one: "+", wildcard_some: "#", separator: "/" };

const keyOf = ({ brokerId, brokerCounter }: Pick<StoredPacket, "brokerId" | "brokerCounter">): string =>
  `${brokerId}:${brokerCounter}`;

const sizeOf = ({ topic = "", payload = "" }: Partial<Pick<StoredPacket, "topic" | "payload">>): number =>
  Buffer.byteLength(topic) + payload.length;

const toQos = (qos: number): 0 | 1 | 2 => (qos === 0 || qos === 1 ? qos : 2);

/** By whom messages of an earlier start are known: their numbers are rows, so no new message can be taken for one. */
const storedBroker = "stored";

const system = { kind: "system" } as const;

export type Persistence = ReturnType<typeof createPersistence>;

export function createPersistence(options: PersistenceOptions) {
  const { domain, log, counters, now } = options;
  const sessions = new Map<string, Session>();
  /** Whose each stored session is. */
  const owners = new Map<string, { owner: string; seenAt: number }>();
  const incoming = new Map<string, Map<number, { messageId: number }>>();
  const retained = new Map<string, StoredPacket>();
  const wills = new Map<string, Will>();
  const trie = new QlobberSub(qlobberOptions);
  /** Rows of messages that were committed before their acknowledgement, by the payload that Aedes hands on. */
  const accepted = new WeakMap<object, ReadonlyMap<string, number>>();
  let isGranted: (client: Pick<Client, "id">, topic: string) => boolean = () => true;
  let queuedBytes = 0;
  let retainedBytes = 0;
  let broker: { id: string } = { id: "" };

  /** Writes what no acknowledgement waits for. */
  function writeBehind(verb: (ctx: Ctx) => void): void {
    domain.commit(system, verb).catch((error: unknown) => {
      counters.increment("mqtt.persistence_errors");
      log.sampled("mqtt.persistence", "the broker's state could not be written", { error });
    });
  }

  function open(clientId: string): Session {
    let session = sessions.get(clientId);
    if (session === undefined) {
      session = { subscriptions: new Map(), queue: new Map(), byMessageId: new Map() };
      sessions.set(clientId, session);
    }
    return session;
  }

  function forget(clientId: string): void {
    const session = sessions.get(clientId);
    if (session === undefined) return;
    for (const [topic, { qos }] of session.subscriptions) if (qos > 0) trie.remove(topic, { clientId, topic });
    for (const { packet } of session.queue.values()) queuedBytes -= sizeOf(packet);
    sessions.delete(clientId);
  }

  function subscribe(clientId: string, topic: string, record: SubscriptionRecord): void {
    const { subscriptions } = open(clientId);
    const before = subscriptions.get(topic);
    if (record.qos > 0) trie.add(topic, { clientId, topic, ...record });
    else if (before !== undefined && before.qos > 0) trie.remove(topic, { clientId, topic });
    subscriptions.set(topic, record);
  }

  function hasRoom(clientId: string, bytes: number): boolean {
    const waiting = sessions.get(clientId)?.queue.size ?? 0;
    if (waiting < options.maxQueued && queuedBytes + bytes <= options.maxQueuedBytes) return true;
    counters.increment("mqtt.queue_dropped");
    log.sampled("mqtt.queue_dropped", "a session's queue is full: messages for it are dropped", { client: clientId });
    return false;
  }

  function add(clientId: string, packet: StoredPacket, row: Queued["row"]): void {
    const { queue, byMessageId } = open(clientId);
    const queued: Queued = { key: keyOf(packet), packet, row };
    queue.set(queued.key, queued);
    if (packet.messageId !== undefined) byMessageId.set(packet.messageId, queued);
    queuedBytes += sizeOf(packet);
  }

  function remove({ queue, byMessageId }: Session, queued: Queued): void {
    queue.delete(queued.key);
    const { messageId } = queued.packet;
    if (messageId !== undefined && byMessageId.get(messageId) === queued) byMessageId.delete(messageId);
    queuedBytes -= sizeOf(queued.packet);
  }

  /** Runs `write` with a message's row once it has one; a message that could not be stored has none to change. */
  async function withRow({ row }: Queued, write: (ctx: Ctx, pk: number) => void): Promise<void> {
    const pk = await row;
    if (pk !== undefined) await domain.commit(system, (ctx) => write(ctx, pk));
  }

  function enqueue(clientId: string, given: GivenPacket, row: number | undefined): void {
    const packet = copyPacket(given);
    // Subscriptions that overlap are one delivery.
    if (open(clientId).queue.has(keyOf(packet))) return;
    if (row !== undefined) return add(clientId, packet, row);
    if (!hasRoom(clientId, sizeOf(packet))) return;
    const written = domain
      .commit(system, (ctx) => enqueueMessage(ctx, clientId, { ...packet, payload: toBuffer(packet.payload) }))
      .catch((error: unknown) => {
        counters.increment("mqtt.persistence_errors");
        log.sampled("mqtt.persistence", "a queued message could not be written; it is kept in memory", { error });
        return undefined;
      });
    add(clientId, packet, written);
  }

  /** The sessions that a message will be queued for, those with room. */
  function targetsOf(topic: string, bytes: number): string[] {
    const found = (trie.match(topic) as { clientId: string }[]).map(({ clientId }) => clientId);
    return [...new Set(found)].filter((clientId) => hasRoom(clientId, bytes));
  }

  function hasRetainedRoom({ topic, payload }: { topic: string; payload: Buffer }): boolean {
    const before = retained.get(topic);
    const bytes = retainedBytes - (before === undefined ? 0 : sizeOf(before)) + topic.length + payload.length;
    if (
      payload.length === 0 ||
      ((before !== undefined || retained.size < options.maxRetained) && bytes <= options.maxRetainedBytes)
    )
      return true;
    counters.increment("mqtt.retained_refused");
    log.sampled("mqtt.retained_refused", "no room for another retained message", { topic });
    return false;
  }

  /** What of a message must be durable before its sender hears that it has arrived. */
  function acceptIn(ctx: Ctx, packet: PublishPacket, targets: readonly string[]): Map<string, number> {
    const message = { topic: packet.topic, payload: toBuffer(packet.payload), qos: packet.qos, retain: false };
    const rows = new Map<string, number>();
    for (const clientId of targets) rows.set(clientId, enqueueMessage(ctx, clientId, message));
    if (packet.retain && hasRetainedRoom(message)) putRetained(ctx, message);
    return rows;
  }

  function load(state: BrokerState): void {
    for (const { clientId, owner, seenAt } of state.sessions) owners.set(clientId, { owner, seenAt });
    for (const { clientId, topic, qos } of state.subscriptions) subscribe(clientId, topic, { qos: qos as 0 | 1 | 2 });
    for (const { pk, clientId, cmd, messageId, ...rest } of state.queued) {
      const packet = { ...rest, qos: toQos(rest.qos), cmd, brokerId: storedBroker, brokerCounter: pk, dup: false };
      add(clientId, { ...packet, messageId: messageId ?? undefined }, pk);
    }
    for (const { clientId, messageId } of state.incoming) incomingOf(clientId).set(messageId, { messageId });
    const ofEarlierStart = { brokerId: storedBroker, brokerCounter: 0 };
    for (const { topic, payload, qos } of state.retained) {
      keepRetained(copyPacket({ ...ofEarlierStart, topic, payload, qos: toQos(qos), retain: true }));
    }
    for (const { clientId, qos, ...will } of state.wills) {
      wills.set(clientId, { ...copyPacket({ ...ofEarlierStart, ...will, qos: toQos(qos) }), clientId });
    }
  }

  function incomingOf(clientId: string): Map<number, { messageId: number }> {
    let packets = incoming.get(clientId);
    if (packets === undefined) incoming.set(clientId, (packets = new Map()));
    return packets;
  }

  function keepRetained(packet: StoredPacket): void {
    const before = retained.get(packet.topic);
    if (before !== undefined) retainedBytes -= sizeOf(before);
    if (packet.payload.length === 0) retained.delete(packet.topic);
    else {
      retained.set(packet.topic, packet);
      retainedBytes += sizeOf(packet);
    }
  }

  function matchRetained(patterns: readonly string[]): StoredPacket[] {
    return patterns.flatMap((pattern) => {
      if (!/[+#]/.test(pattern)) return retained.get(pattern) ?? [];
      const matcher = new QlobberTrue(qlobberOptions);
      matcher.add(pattern);
      return [...retained].filter(([topic]) => matcher.test(topic)).map(([, packet]) => packet);
    });
  }

  return {
    get broker() {
      return broker;
    },

    /** Aedes looks whether this is an async function before it calls it. */
    // oxlint-disable-next-line typescript/require-await
    async setup(to: { id: string }) {
      broker = to;
      load(domain.read(system, loadBrokerState));
    },

    /**
     * Commits what a QoS 1 message owes to others before its PUBACK: rows in the queues of sessions, the retained
     * message. `undefined`: it owes nothing.
     */
    accept(packet: PublishPacket): Promise<void> | undefined {
      if (packet.qos !== 1) return undefined;
      const targets = targetsOf(packet.topic, packet.payload.length);
      if (targets.length === 0 && !packet.retain) return undefined;
      return domain
        .commit(system, (ctx) => acceptIn(ctx, packet, targets))
        .then((rows) => void accepted.set(packet.payload as Buffer, rows));
    },

    /** Whose the stored session of a client id is. */
    ownerOf: (clientId: string): string | undefined => owners.get(clientId)?.owner,

    /** A client is here with a session to keep, or has just left. @returns false where there is no room for another */
    keepSession(clientId: string, owner: string): boolean {
      if (!owners.has(clientId) && owners.size >= options.maxSessions) {
        counters.increment("mqtt.sessions_refused");
        return false;
      }
      const session = { clientId, owner, seenAt: now() };
      owners.set(clientId, session);
      writeBehind((ctx) => putSession(ctx, session));
      return true;
    },

    /** How it is told whether a subscription was granted. */
    filterSubscriptions(granted: typeof isGranted): void {
      isGranted = granted;
    },

    /** Resolves when all that was queued until now is durable. */
    settled: (): Promise<void> => domain.commit(system, () => undefined),

    /** Ends sessions whose clients, none of them in `connected`, have stayed away too long. */
    expire(isConnected: (clientId: string) => boolean): void {
      const before = now() - options.sessionExpiryMs;
      for (const [clientId, { seenAt }] of owners) {
        if (seenAt >= before || isConnected(clientId)) continue;
        counters.increment("mqtt.sessions_expired");
        owners.delete(clientId);
        forget(clientId);
        incoming.delete(clientId);
        writeBehind((ctx) => deleteSession(ctx, clientId));
      }
    },

    async storeRetained(given: GivenPacket) {
      const packet = { ...given } as StoredPacket;
      const { topic, qos } = packet;
      const payload = toBuffer(packet.payload);
      if (!hasRetainedRoom({ topic, payload })) return;
      keepRetained(packet);
      if (!accepted.has(payload)) writeBehind((ctx) => putRetained(ctx, { topic, payload, qos }));
    },

    createRetainedStreamCombi: (patterns: string[]) => Readable.from(matchRetained(patterns)),
    createRetainedStream: (pattern: string) => Readable.from(matchRetained([pattern])),

    /** SUBACK waits for this. */
    async addSubscriptions(client: Pick<Client, "id">, subscriptions: Subscription[]) {
      // Aedes passes the whole SUBSCRIBE where one of its topics was allowed; those that were not must not deliver later.
      const allowed = subscriptions.filter(({ topic }) => isGranted(client, topic));
      open(client.id);
      for (const { topic, ...record } of allowed) subscribe(client.id, topic, pickRecord(record));
      await domain.commit(system, (ctx) => putSubscriptions(ctx, client.id, allowed));
    },

    async removeSubscriptions(client: Pick<Client, "id">, topics: string[]) {
      const session = sessions.get(client.id);
      for (const topic of topics) {
        const record = session?.subscriptions.get(topic);
        if (record === undefined) continue;
        if (record.qos > 0) trie.remove(topic, { clientId: client.id, topic });
        session?.subscriptions.delete(topic);
      }
      await domain.commit(system, (ctx) => deleteSubscriptions(ctx, client.id, topics));
    },

    async subscriptionsByClient(client: Pick<Client, "id">) {
      return [...(sessions.get(client.id)?.subscriptions ?? [])].map(([topic, record]) => ({ topic, ...record }));
    },

    async subscriptionsByTopic(topic: string) {
      return trie.match(topic) as Subscription[];
    },

    async countOffline() {
      let clientsCount = 0;
      for (const { subscriptions } of sessions.values()) if (subscriptions.size > 0) clientsCount += 1;
      return { subsCount: trie.subscriptionsCount, clientsCount };
    },

    /** A clean session begins: nothing of an earlier one is left, the queue neither [MQTT-3.1.2-6]. */
    async cleanSubscriptions(client: Pick<Client, "id">) {
      if (!sessions.has(client.id) && !owners.has(client.id)) return;
      owners.delete(client.id);
      forget(client.id);
      await domain.commit(system, (ctx) => deleteSession(ctx, client.id));
    },

    async outgoingEnqueue({ clientId }: { clientId: string }, packet: GivenPacket) {
      enqueue(clientId, packet, undefined);
    },

    async outgoingEnqueueCombi(subscriptions: { clientId: string }[], packet: GivenPacket) {
      const rows = accepted.get(packet.payload as Buffer);
      for (const { clientId } of subscriptions) {
        const row = rows?.get(clientId);
        // Accepted before: what has no row then had no room, or came to be subscribed since.
        if (rows === undefined || row !== undefined) enqueue(clientId, packet, row);
      }
    },

    /**
     * A message got its identifier, or PUBREC has come and PUBREL is next. For QoS 2 it is durable before the packet goes
     * out: after a crash the receiver must meet the same identifier again.
     */
    async outgoingUpdate(client: Pick<Client, "id">, packet: GivenPacket) {
      const session = sessions.get(client.id);
      const known = session?.queue.get(keyOf(packet));
      if (session !== undefined && known !== undefined) {
        known.packet.messageId = packet.messageId;
        if (packet.messageId !== undefined) session.byMessageId.set(packet.messageId, known);
        if (known.packet.qos === 2)
          await withRow(known, (ctx, pk) => setMessageId(ctx, pk, packet.messageId as number));
        return;
      }
      const released = packet.messageId === undefined ? undefined : session?.byMessageId.get(packet.messageId);
      if (session === undefined || released === undefined) throw new Error("no such packet");
      queuedBytes -= sizeOf(released.packet);
      released.packet = packet as StoredPacket;
      queuedBytes += sizeOf(packet);
      await withRow(released, setReleased);
    },

    async outgoingClearMessageId(client: Pick<Client, "id">, packet: GivenPacket) {
      const session = sessions.get(client.id);
      // Without an identifier (Aedes passes what it did not forward) it is told by its number.
      const queued =
        packet.messageId === undefined ? session?.queue.get(keyOf(packet)) : session?.byMessageId.get(packet.messageId);
      if (session === undefined || queued === undefined) return undefined;
      remove(session, queued);
      const { row } = queued;
      if (typeof row === "number") writeBehind((ctx) => dequeueMessage(ctx, row));
      else void row.then((pk) => pk !== undefined && writeBehind((ctx) => dequeueMessage(ctx, pk)));
      return queued.packet;
    },

    outgoingStream: (client: Pick<Client, "id">) =>
      Readable.from([...(sessions.get(client.id)?.queue.values() ?? [])].map(({ packet }) => packet)),

    /** PUBREC waits for this: from then on a repetition is known, and what others are owed is theirs. */
    async incomingStorePacket(client: Pick<Client, "id"> & { clean?: boolean }, packet: PublishPacket) {
      const messageId = packet.messageId as number;
      incomingOf(client.id).set(messageId, { ...copyPacket(packet as never), messageId });
      const targets = targetsOf(packet.topic, packet.payload.length);
      if (client.clean === true && targets.length === 0 && !packet.retain) return;
      try {
        const rows = await domain.commit(system, (ctx) => {
          if (client.clean !== true) putIncoming(ctx, client.id, messageId);
          return acceptIn(ctx, packet, targets);
        });
        accepted.set(packet.payload as Buffer, rows);
      } catch (error) {
        incoming.get(client.id)?.delete(messageId);
        throw error;
      }
    },

    async incomingGetPacket(client: Pick<Client, "id">, packet: { messageId?: number | undefined }) {
      const found = incoming.get(client.id)?.get(packet.messageId as number);
      if (found === undefined) throw new Error("no such packet");
      return found;
    },

    async incomingDelPacket(client: Pick<Client, "id">, packet: { messageId?: number | undefined }) {
      const messageId = packet.messageId as number;
      if (incoming.get(client.id)?.delete(messageId) !== true) throw new Error("no such packet");
      writeBehind((ctx) => deleteIncoming(ctx, client.id, messageId));
    },

    async cleanIncoming(client: Pick<Client, "id">) {
      if (incoming.delete(client.id)) writeBehind((ctx) => clearIncoming(ctx, client.id));
    },

    /** CONNACK waits for this. */
    async putWill(client: Pick<Client, "id">, packet: GivenPacket) {
      const will = Object.assign(packet, { brokerId: broker.id, clientId: client.id }) as Will;
      wills.set(client.id, will);
      const { topic, payload, qos, retain } = will;
      await domain.commit(system, (ctx) =>
        putWill(ctx, { clientId: client.id, topic, payload: toBuffer(payload), qos, retain }),
      );
    },

    async getWill(client: Pick<Client, "id">) {
      return wills.get(client.id);
    },

    async delWill(client: Pick<Client, "id">) {
      const will = wills.get(client.id);
      if (wills.delete(client.id)) writeBehind((ctx) => deleteWill(ctx, client.id));
      return will;
    },

    /** Wills of brokers that are gone: after a crash, those of everybody who was connected. */
    streamWill: (brokers: Record<string, unknown> = {}) =>
      Readable.from([...wills.values()].filter(({ brokerId }) => brokers[brokerId] === undefined)),

    getClientList: (topic: string) =>
      Readable.from(
        [...sessions].filter(([, { subscriptions }]) => subscriptions.has(topic)).map(([clientId]) => clientId),
      ),

    async destroy() {
      sessions.clear();
    },
  };
}

const pickRecord = ({ qos, rh, rap, nl, subscriptionIdentifier }: SubscriptionRecord): SubscriptionRecord =>
  ({ qos, rh, rap, nl, ...(subscriptionIdentifier !== undefined && { subscriptionIdentifier }) }) as SubscriptionRecord;

const toBuffer = (payload: string | Buffer): Buffer => (typeof payload === "string" ? Buffer.from(payload) : payload);
