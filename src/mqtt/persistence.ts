import { Readable } from "node:stream";
import { isDeepStrictEqual } from "node:util";
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
  /** Whether a message is for the client of a session: what is not does not fill its queue. Absent, everything is. */
  isFor?: (owner: string | undefined, topic: string, payload: Buffer) => boolean;
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

/** A QoS 2 message that was received and is not released yet. */
interface Incoming {
  messageId: number;
}

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
  /** Messages, and their bytes, that are on their way through a commit into this queue. */
  reserved: { messages: number; bytes: number };
}

/** A place in a session's queue for a message that is being committed or has been, but is not in the queue yet. */
interface Place {
  clientId: string;
  session: Session;
  bytes: number;
  row: number;
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

const highestMessageId = 65_535;

/**
 * Calls back at once. A promise, even one that is resolved, lets messages of other publishers overtake, and Aedes drops
 * what was overtaken: it takes it for a repetition.
 */
const atOnce = <T>(value: T): Promise<T> =>
  // oxlint-disable-next-line unicorn/no-thenable
  ({ then: (resolve: (value: T) => unknown) => resolve(value) }) as unknown as Promise<T>;

export type Persistence = ReturnType<typeof createPersistence>;

export function createPersistence(options: PersistenceOptions) {
  const { domain, log, counters, now } = options;
  const sessions = new Map<string, Session>();
  /** Whose each stored session is. */
  const owners = new Map<string, { owner: string; seenAt: number }>();
  const incoming = new Map<string, Map<number, Incoming>>();
  /** When each of these is durable. */
  const storing = new WeakMap<Incoming, Promise<void>>();
  const retained = new Map<string, StoredPacket>();
  const wills = new Map<string, Will>();
  const trie = new QlobberSub(qlobberOptions);
  /** Places of messages that were committed before their acknowledgement, by the payload that Aedes hands on. */
  const accepted = new WeakMap<object, readonly Place[]>();
  let isGranted: (client: Pick<Client, "id">, topic: string) => boolean = () => true;
  const isFor = options.isFor ?? (() => true);
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
      session = {
        subscriptions: new Map(),
        queue: new Map(),
        byMessageId: new Map(),
        reserved: { messages: 0, bytes: 0 },
      };
      sessions.set(clientId, session);
    }
    return session;
  }

  function forget(clientId: string): void {
    const session = sessions.get(clientId);
    if (session === undefined) return;
    for (const [topic, { qos }] of session.subscriptions) if (qos > 0) trie.remove(topic, { clientId, topic });
    for (const { packet } of session.queue.values()) queuedBytes -= sizeOf(packet);
    queuedBytes -= session.reserved.bytes;
    session.reserved = { messages: 0, bytes: 0 };
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
    const session = sessions.get(clientId);
    const waiting = session === undefined ? 0 : session.queue.size + session.reserved.messages;
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

  function enqueue(clientId: string, given: GivenPacket): void {
    const packet = copyPacket(given);
    // Subscriptions that overlap are one delivery.
    if (open(clientId).queue.has(keyOf(packet))) return;
    if (!isFor(owners.get(clientId)?.owner, packet.topic, toBuffer(given.payload ?? ""))) return;
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

  /** Takes places in the queues of the sessions that a message is for, those with room. */
  function reserve(topic: string, payload: Buffer): Place[] {
    const found = new Set((trie.match(topic) as { clientId: string }[]).map(({ clientId }) => clientId));
    const places: Place[] = [];
    const bytes = sizeOf({ topic, payload });
    for (const clientId of found) {
      if (!isFor(owners.get(clientId)?.owner, topic, payload) || !hasRoom(clientId, bytes)) continue;
      const session = open(clientId);
      session.reserved.messages += 1;
      session.reserved.bytes += bytes;
      queuedBytes += bytes;
      places.push({ clientId, session, bytes, row: 0 });
    }
    return places;
  }

  /** @returns false where the session has ended meanwhile */
  function giveUp({ clientId, session, bytes }: Place): boolean {
    if (sessions.get(clientId) !== session) return false;
    session.reserved.messages -= 1;
    session.reserved.bytes -= bytes;
    queuedBytes -= bytes;
    return true;
  }

  /** Commits with what a message must be durable before its sender hears of it. */
  async function commitAccepted(packet: PublishPacket, also?: (ctx: Ctx) => void): Promise<void> {
    const payload = packet.payload as Buffer;
    const places = reserve(packet.topic, payload);
    const message = { topic: packet.topic, payload, qos: packet.qos, retain: false };
    const isRetained = packet.retain && hasRetainedRoom(message);
    try {
      await domain.commit(system, (ctx) => {
        also?.(ctx);
        for (const place of places) place.row = enqueueMessage(ctx, place.clientId, message);
        if (isRetained) putRetained(ctx, message);
      });
      accepted.set(payload, places);
    } catch (error) {
      for (const place of places) giveUp(place);
      throw error;
    }
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

  function touch(clientId: string, owner: string): void {
    const session = { clientId, owner, seenAt: now() };
    owners.set(clientId, session);
    writeBehind((ctx) => putSession(ctx, session));
  }

  function endSession(clientId: string): void {
    owners.delete(clientId);
    forget(clientId);
    incoming.delete(clientId);
    writeBehind((ctx) => deleteSession(ctx, clientId));
  }

  function discard(session: Session, queued: Queued): void {
    remove(session, queued);
    const { row } = queued;
    if (typeof row === "number") writeBehind((ctx) => dequeueMessage(ctx, row));
    else void row.then((pk) => pk !== undefined && writeBehind((ctx) => dequeueMessage(ctx, pk)));
  }

  const isTaken = ({ byMessageId }: Session, queued: Queued, messageId: number): boolean => {
    const holder = byMessageId.get(messageId);
    return holder !== undefined && holder !== queued;
  };

  function incomingOf(clientId: string): Map<number, Incoming> {
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
      if (!packet.retain && (trie.match(packet.topic) as unknown[]).length === 0) return undefined;
      return commitAccepted(packet);
    },

    /** An accepted message will not be acknowledged after all: its sender keeps it and sends it again. */
    takeBack(packet: PublishPacket): void {
      const payload = packet.payload as Buffer;
      for (const place of accepted.get(payload) ?? []) {
        giveUp(place);
        writeBehind((ctx) => dequeueMessage(ctx, place.row));
      }
      accepted.delete(payload);
    },

    /** A message with this payload is queued for nobody. */
    refuse: (payload: Buffer): void => void accepted.set(payload, []),

    /** A message that is queued for a client was not for it. */
    drop(client: Pick<Client, "id">, packet: GivenPacket): void {
      const session = sessions.get(client.id);
      const queued = session?.queue.get(keyOf(packet));
      if (session !== undefined && queued !== undefined) discard(session, queued);
    },

    /** An identifier from which on as many as possible are free: none may stand for two messages. */
    firstFreeMessageId(clientId: string): number {
      const used = [...(sessions.get(clientId)?.byMessageId.keys() ?? [])].toSorted((a, b) => a - b);
      let start = 1;
      let widest = (used[0] ?? highestMessageId + 1) - 1;
      for (const [i, id] of used.entries()) {
        const gap = (used[i + 1] ?? highestMessageId + 1) - id - 1;
        if (gap > widest) [start, widest] = [id + 1, gap];
      }
      return start;
    },

    /** How much there is of what has a limit. Subscriptions are those of sessions. */
    stats() {
      let subscriptions = 0;
      let queued = 0;
      for (const session of sessions.values()) {
        subscriptions += session.subscriptions.size;
        queued += session.queue.size;
      }
      return { sessions: owners.size, subscriptions, queued, queuedBytes, retained: retained.size, retainedBytes };
    },

    /** Whose the stored session of a client id is. */
    ownerOf: (clientId: string): string | undefined => owners.get(clientId)?.owner,

    /** A client is here with a session to keep. @returns false where there is no room for another */
    keepSession(clientId: string, owner: string): boolean {
      if (!owners.has(clientId) && owners.size >= options.maxSessions) {
        counters.increment("mqtt.sessions_refused");
        return false;
      }
      touch(clientId, owner);
      return true;
    },

    /** A client has left: its session is kept from now on so long, unless it has ended. */
    leaveSession(clientId: string, owner: string): void {
      if (owners.get(clientId)?.owner === owner) touch(clientId, owner);
    },

    /** Ends a session with all that belongs to it. */
    endSession,

    /** How it is told whether a subscription was granted. */
    filterSubscriptions(granted: typeof isGranted): void {
      isGranted = granted;
    },

    /** Resolves when all that was queued until now is durable. */
    settled: (): Promise<void> => domain.commit(system, () => undefined),

    /** Ends sessions whose clients, none of them in `connected`, have stayed away too long. */
    expire(isConnected: (clientId: string) => boolean): void {
      const before = now() - options.sessionExpiryMs;
      for (const [clientId, { owner, seenAt }] of owners) {
        if (isConnected(clientId)) {
          // Now and then, so that a crash does not end the sessions of those who had been here for long.
          if (seenAt < now() - options.sessionExpiryMs / 8) touch(clientId, owner);
        } else if (seenAt < before) {
          counters.increment("mqtt.sessions_expired");
          endSession(clientId);
        }
      }
    },

    storeRetained(given: GivenPacket) {
      const packet = { ...given } as StoredPacket;
      const { topic, qos } = packet;
      const payload = toBuffer(packet.payload);
      if (hasRetainedRoom({ topic, payload })) {
        // A copy: what has come from the network is a piece of something larger, which would be kept with it.
        keepRetained({ ...packet, payload: copyPayload(packet.payload) });
        if (!accepted.has(payload)) writeBehind((ctx) => putRetained(ctx, { topic, payload, qos }));
      }
      return atOnce(undefined);
    },

    createRetainedStreamCombi: (patterns: string[]) => Readable.from(matchRetained(patterns)),
    createRetainedStream: (pattern: string) => Readable.from(matchRetained([pattern])),

    /** SUBACK waits for this. */
    async addSubscriptions(client: Pick<Client, "id">, subscriptions: Subscription[]) {
      // Aedes passes the whole SUBSCRIBE where one of its topics was allowed; those that were not must not deliver later.
      const allowed = subscriptions.filter(({ topic }) => isGranted(client, topic));
      open(client.id);
      const changed: Subscription[] = [];
      for (const { topic, ...record } of allowed) {
        // It passes it once for each of them, too.
        if (isDeepStrictEqual(sessions.get(client.id)?.subscriptions.get(topic), pickRecord(record))) continue;
        subscribe(client.id, topic, pickRecord(record));
        changed.push({ topic, ...record });
      }
      await domain.commit(system, (ctx) => putSubscriptions(ctx, client.id, changed));
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

    subscriptionsByTopic: (topic: string) => atOnce(trie.match(topic) as Subscription[]),

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
      enqueue(clientId, packet);
    },

    outgoingEnqueueCombi(subscriptions: { clientId: string }[], given: GivenPacket) {
      const places = accepted.get(given.payload as Buffer);
      if (subscriptions.length === 0 && (places === undefined || places.length === 0)) return atOnce(undefined);
      // A copy, for all of them together; see storeRetained.
      const packet = { ...given, payload: copyPayload(given.payload) };
      if (places === undefined) for (const { clientId } of subscriptions) enqueue(clientId, packet);
      else {
        // What has no place had no room, or came to be subscribed since.
        for (const place of places) {
          if (giveUp(place)) add(place.clientId, copyPacket(packet), place.row);
          else writeBehind((ctx) => dequeueMessage(ctx, place.row));
        }
        accepted.set(given.payload as Buffer, []);
      }
      return atOnce(undefined);
    },

    /**
     * A message got its identifier, or PUBREC has come and PUBREL is next. For QoS 2 it is durable before the packet goes
     * out: after a crash the receiver must meet the same identifier again.
     */
    async outgoingUpdate(client: Pick<Client, "id">, packet: GivenPacket) {
      const session = sessions.get(client.id);
      // Of what is not kept, for want of room or because it is a retained message, there is nothing to note.
      if (session === undefined) return;
      const known = session.queue.get(keyOf(packet));
      if (known !== undefined) {
        // Aedes counts on from anywhere: an identifier that is in use would make two messages one.
        while (isTaken(session, known, packet.messageId as number)) {
          packet.messageId = ((packet.messageId as number) % highestMessageId) + 1;
        }
        known.packet.messageId = packet.messageId;
        session.byMessageId.set(packet.messageId as number, known);
        if (known.packet.qos === 2)
          await withRow(known, (ctx, pk) => setMessageId(ctx, pk, packet.messageId as number));
        return;
      }
      const released = packet.messageId === undefined ? undefined : session.byMessageId.get(packet.messageId);
      if (released === undefined || packet.cmd !== "pubrel") return;
      queuedBytes -= sizeOf(released.packet);
      released.packet = packet as StoredPacket;
      queuedBytes += sizeOf(packet);
      await withRow(released, setReleased);
    },

    async outgoingClearMessageId(client: Pick<Client, "id">, packet: GivenPacket) {
      const session = sessions.get(client.id);
      // Without an identifier, Aedes has not forwarded it: because a subscription that overlaps has already, or because
      // it was not for this client (see `drop`).
      const queued = packet.messageId === undefined ? undefined : session?.byMessageId.get(packet.messageId);
      if (session === undefined || queued === undefined) return undefined;
      discard(session, queued);
      return queued.packet;
    },

    outgoingStream: (client: Pick<Client, "id">) =>
      Readable.from([...(sessions.get(client.id)?.queue.values() ?? [])].map(({ packet }) => packet)),

    /** PUBREC waits for this: from then on a repetition is known, and what others are owed is theirs. */
    async incomingStorePacket(client: Pick<Client, "id"> & { clean?: boolean }, packet: PublishPacket) {
      const messageId = packet.messageId as number;
      const found = { ...copyPacket(packet as never), messageId };
      incomingOf(client.id).set(messageId, found);
      const isKept = client.clean !== true;
      const isRefused = accepted.has(packet.payload as Buffer);
      if (!isKept && (isRefused || (!packet.retain && (trie.match(packet.topic) as unknown[]).length === 0))) return;
      const note = (ctx: Ctx): void => {
        if (isKept) putIncoming(ctx, client.id, messageId);
      };
      const stored = isRefused ? domain.commit(system, note) : commitAccepted(packet, note);
      storing.set(found, stored);
      try {
        await stored;
      } catch (error) {
        incoming.get(client.id)?.delete(messageId);
        throw error;
      }
    },

    async incomingGetPacket(client: Pick<Client, "id">, packet: { messageId?: number | undefined }) {
      const found = incoming.get(client.id)?.get(packet.messageId as number);
      if (found === undefined) throw new Error("no such packet");
      // PUBREC for a repetition does not come before that for the first.
      await storing.get(found);
      return found;
    },

    /** PUBCOMP waits for this: from then on the identifier may stand for another message. */
    async incomingDelPacket(client: Pick<Client, "id">, packet: { messageId?: number | undefined }) {
      const messageId = packet.messageId as number;
      if (incoming.get(client.id)?.delete(messageId) !== true) throw new Error("no such packet");
      if (owners.has(client.id)) await domain.commit(system, (ctx) => deleteIncoming(ctx, client.id, messageId));
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

const copyPayload = (payload: string | Buffer = ""): string | Buffer =>
  typeof payload === "string" ? payload : Buffer.from(payload);

const toBuffer = (payload: string | Buffer): Buffer => (typeof payload === "string" ? Buffer.from(payload) : payload);
