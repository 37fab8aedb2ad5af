import { Readable } from "node:stream";
import type { PublishPacket } from "aedes";
import type { Ctx } from "../../core/ctx.ts";
import {
  dequeueMessage,
  enqueueMessage,
  putRetained,
  setMessageId,
  setReleased,
  type NewMessage,
  type StoredMessage,
} from "../../core/sessions.ts";
import type { Counters } from "../../counters.ts";
import type { Log } from "../../log.ts";
import {
  atOnce,
  copyPacket,
  copyPayload,
  keyOf,
  sizeOf,
  storedBroker,
  toBuffer,
  toQos,
  type ClientId,
  type GivenPacket,
  type StoredPacket,
} from "./packets.ts";
import type { Match } from "./sessions.ts";
import type { Writes } from "./writes.ts";

// Messages on their way to sessions that are kept: those that wait for a client, and those it has not confirmed.

export interface QueueOptions {
  log: Log;
  counters: Counters;
  writes: Writes;
  /** Messages that may wait for one session; one more is dropped and counted. */
  maxQueued: number;
  /** Bytes that may wait for all sessions together. */
  maxQueuedBytes: number;
  /** The subscriptions that a topic matches. */
  match: (topic: string) => readonly Match[];
  /** Whether a message is for the client of a session: what is not does not fill its queue. */
  isFor: (clientId: string, topic: string, payload: Buffer) => boolean;
  hasRetainedRoom: (message: { topic: string; payload: Buffer }) => boolean;
}

/** A message on its way to one session. */
interface Queued {
  key: string;
  packet: StoredPacket;
  /** Its row, or the promise of one; `undefined`: the row's loss was told already. */
  row: number | Promise<number | undefined>;
  /** It goes out again: it had its identifier before. */
  isRepeated?: boolean;
}

interface Queue {
  /** By `brokerId:brokerCounter`, oldest first. */
  messages: Map<string, Queued>;
  byMessageId: Map<number, Queued>;
  /** Messages, and their bytes, that are on their way through a commit into this queue. */
  reserved: { messages: number; bytes: number };
}

/** A place in a session's queue for a message that is being committed or has been, but is not in the queue yet. */
interface Place {
  clientId: string;
  queue: Queue;
  bytes: number;
  /** At most what the client was granted. */
  qos: 0 | 1 | 2;
  row: number;
}

const highestMessageId = 65_535;
/** Messages that one transaction takes away: the event loop stands still for it. */
const maxDequeued = 1_000;

const lowerQos = (qos: number, granted: number): 0 | 1 | 2 => toQos(Math.min(qos, granted));

/** By client id, of the subscriptions that a topic matches the one with the highest QoS [MQTT-3.3.5-1]. */
function highestQos(matches: readonly { clientId: string; qos?: number }[]): Map<string, number> {
  const highest = new Map<string, number>();
  for (const { clientId, qos = 2 } of matches) highest.set(clientId, Math.max(qos, highest.get(clientId) ?? 0));
  return highest;
}

export function createQueues(options: QueueOptions) {
  const { log, counters, writes, match, isFor } = options;
  const queues = new Map<string, Queue>();
  /** Places of messages that were committed before their acknowledgement, by the payload that Aedes hands on. */
  const accepted = new WeakMap<object, readonly Place[]>();
  let queuedBytes = 0;

  function open(clientId: string): Queue {
    let queue = queues.get(clientId);
    if (queue === undefined) {
      queue = { messages: new Map(), byMessageId: new Map(), reserved: { messages: 0, bytes: 0 } };
      queues.set(clientId, queue);
    }
    return queue;
  }

  function hasRoom(clientId: string, bytes: number): boolean {
    const queue = queues.get(clientId);
    const waiting = queue === undefined ? 0 : queue.messages.size + queue.reserved.messages;
    if (waiting < options.maxQueued && queuedBytes + bytes <= options.maxQueuedBytes) return true;
    counters.increment("mqtt.queue_dropped");
    log.sampled("mqtt.queue_dropped", "a session's queue is full: messages for it are dropped", { client: clientId });
    return false;
  }

  function add(clientId: string, packet: StoredPacket, row: Queued["row"]): void {
    const { messages, byMessageId } = open(clientId);
    const queued: Queued = { key: keyOf(packet), packet, row };
    messages.set(queued.key, queued);
    if (packet.messageId !== undefined) byMessageId.set(packet.messageId, queued);
    queuedBytes += sizeOf(packet);
  }

  function remove({ messages, byMessageId }: Queue, queued: Queued): void {
    messages.delete(queued.key);
    const { messageId } = queued.packet;
    if (messageId !== undefined && byMessageId.get(messageId) === queued) byMessageId.delete(messageId);
    queuedBytes -= sizeOf(queued.packet);
  }

  function discard(queue: Queue, queued: Queued): void {
    remove(queue, queued);
    const { row } = queued;
    if (typeof row === "number") writes.behind((ctx) => dequeueMessage(ctx, row));
    else void row.then((pk) => pk !== undefined && writes.behind((ctx) => dequeueMessage(ctx, pk)));
  }

  /** Runs `write` with a message's row once it has one; a message that could not be stored has none to change. */
  async function withRow({ row }: Queued, write: (ctx: Ctx, pk: number) => void): Promise<void> {
    const pk = await row;
    if (pk !== undefined) await writes.commit((ctx) => write(ctx, pk));
  }

  function enqueue(clientId: string, given: GivenPacket): void {
    const packet = copyPacket(given);
    // Subscriptions that overlap are one delivery.
    if (open(clientId).messages.has(keyOf(packet))) return;
    if (!isFor(clientId, packet.topic, toBuffer(given.payload ?? ""))) return;
    if (!hasRoom(clientId, sizeOf(packet))) return;
    const queue = open(clientId);
    const written = writes
      .commit((ctx) => enqueueMessage(ctx, clientId, { ...packet, payload: toBuffer(packet.payload) }))
      .then((row) => {
        if (queues.get(clientId) !== queue) writes.behind((ctx) => dequeueMessage(ctx, row)); // the session has ended
        return row;
      })
      .catch((error: unknown) => {
        writes.fail("a queued message could not be written; it is kept in memory", error);
        return undefined;
      });
    add(clientId, packet, written);
  }

  /** Takes places in the queues of the sessions that a message is for, those with room. */
  function reserve({ topic, qos }: PublishPacket, payload: Buffer): Place[] {
    const places: Place[] = [];
    const bytes = sizeOf({ topic, payload });
    for (const [clientId, granted] of highestQos(match(topic))) {
      if (!isFor(clientId, topic, payload) || !hasRoom(clientId, bytes)) continue;
      const queue = open(clientId);
      queue.reserved.messages += 1;
      queue.reserved.bytes += bytes;
      queuedBytes += bytes;
      places.push({ clientId, queue, bytes, qos: lowerQos(qos, granted), row: 0 });
    }
    return places;
  }

  /** @returns false where the session has ended meanwhile */
  function giveUp({ clientId, queue, bytes }: Place): boolean {
    if (queues.get(clientId) !== queue) return false;
    queue.reserved.messages -= 1;
    queue.reserved.bytes -= bytes;
    queuedBytes -= bytes;
    return true;
  }

  /**
   * Commits what a message owes to others, and `note` with it, before its sender hears of it. `undefined`: it owes
   * nothing, for nobody has room for it or may have it, and nothing is to be noted.
   */
  function commitOwed(packet: PublishPacket, note?: (ctx: Ctx) => void): Promise<void> | undefined {
    const payload = packet.payload as Buffer;
    const places = reserve(packet, payload);
    const message: NewMessage = { topic: packet.topic, payload, qos: packet.qos, retain: false };
    const isRetained = packet.retain && options.hasRetainedRoom(message);
    if (places.length === 0 && !isRetained && note === undefined) {
      accepted.set(payload, places);
      return undefined;
    }
    return writes
      .commit((ctx) => {
        note?.(ctx);
        for (const place of places) place.row = enqueueMessage(ctx, place.clientId, { ...message, qos: place.qos });
        if (isRetained) putRetained(ctx, message);
      })
      .then(
        () => void accepted.set(payload, places),
        (error: unknown) => {
          for (const place of places) giveUp(place);
          throw error;
        },
      );
  }

  const owes = ({ topic, retain }: PublishPacket): boolean => retain || match(topic).length > 0;

  const isTaken = ({ byMessageId }: Queue, queued: Queued, messageId: number): boolean => {
    const holder = byMessageId.get(messageId);
    return holder !== undefined && holder !== queued;
  };

  return {
    /** What belongs to no session is taken away, and what there is no room for any more. */
    load(stored: readonly StoredMessage[], hasSession: (clientId: string) => boolean): void {
      const dropped: number[] = [];
      for (const { pk, clientId, cmd, messageId, ...rest } of stored) {
        if (!hasSession(clientId) || !hasRoom(clientId, sizeOf(rest))) {
          dropped.push(pk);
          continue;
        }
        const packet = { ...rest, qos: toQos(rest.qos), cmd, brokerId: storedBroker, brokerCounter: pk, dup: false };
        add(clientId, { ...packet, messageId: messageId ?? undefined }, pk);
      }
      for (let i = 0; i < dropped.length; i += maxDequeued) {
        const rows = dropped.slice(i, i + maxDequeued);
        writes.behind((ctx) => rows.forEach((pk) => dequeueMessage(ctx, pk)));
      }
    },

    forget(clientId: string): void {
      const queue = queues.get(clientId);
      if (queue === undefined) return;
      for (const { packet } of queue.messages.values()) queuedBytes -= sizeOf(packet);
      queuedBytes -= queue.reserved.bytes;
      queues.delete(clientId);
    },

    stats() {
      let queued = 0;
      for (const { messages } of queues.values()) queued += messages.size;
      return { queued, queuedBytes };
    },

    isCommitted: (payload: Buffer): boolean => accepted.has(payload),

    /** What `accept` does, for QoS 2 before its PUBREC, with the note that it has come. */
    acceptOnce(packet: PublishPacket, note: ((ctx: Ctx) => void) | undefined): Promise<void> | undefined {
      const isRefused = accepted.has(packet.payload as Buffer);
      if (note === undefined && (isRefused || !owes(packet))) return undefined;
      return isRefused ? writes.commit((ctx) => note?.(ctx)) : commitOwed(packet, note);
    },

    api: {
      /**
       * Commits what a QoS 1 message owes to others before its PUBACK: rows in the queues of sessions, the retained
       * message. `undefined`: it owes nothing.
       */
      accept: (packet: PublishPacket): Promise<void> | undefined =>
        packet.qos === 1 && owes(packet) ? commitOwed(packet) : undefined,

      /** An accepted message will not be acknowledged after all: its sender keeps it and sends it again. */
      takeBack(packet: PublishPacket): void {
        const payload = packet.payload as Buffer;
        for (const place of accepted.get(payload) ?? []) {
          giveUp(place);
          writes.behind((ctx) => dequeueMessage(ctx, place.row));
        }
        accepted.delete(payload);
      },

      /** A message with this payload is queued for nobody. */
      refuse: (payload: Buffer): void => void accepted.set(payload, []),

      /** A message that is queued for a client was not for it. */
      drop(client: ClientId, packet: GivenPacket): void {
        const queue = queues.get(client.id);
        const queued = queue?.messages.get(keyOf(packet));
        if (queue !== undefined && queued !== undefined) discard(queue, queued);
      },

      /** Whether a message goes to its client again [MQTT-3.3.1-1]. */
      isRepetition: (client: ClientId, packet: GivenPacket): boolean =>
        queues.get(client.id)?.messages.get(keyOf(packet))?.isRepeated === true,

      /** An identifier from which on as many as possible are free: none may stand for two messages. */
      firstFreeMessageId(clientId: string): number {
        const used = [...(queues.get(clientId)?.byMessageId.keys() ?? [])].toSorted((a, b) => a - b);
        let start = 1;
        let widest = (used[0] ?? highestMessageId + 1) - 1;
        for (const [i, id] of used.entries()) {
          const gap = (used[i + 1] ?? highestMessageId + 1) - id - 1;
          if (gap > widest) [start, widest] = [id + 1, gap];
        }
        return start;
      },

      async outgoingEnqueue({ clientId }: { clientId: string }, packet: GivenPacket) {
        enqueue(clientId, packet);
      },

      outgoingEnqueueCombi(subscriptions: readonly { clientId: string; qos?: number }[], given: GivenPacket) {
        const places = accepted.get(given.payload as Buffer);
        if (subscriptions.length === 0 && (places === undefined || places.length === 0)) return atOnce(undefined);
        // A copy, for all of them together.
        const packet = { ...given, payload: copyPayload(given.payload) };
        if (places === undefined) {
          for (const [clientId, granted] of highestQos(subscriptions))
            enqueue(clientId, { ...packet, qos: lowerQos(packet.qos ?? 0, granted) });
        } else {
          // What has no place had no room, or came to be subscribed since.
          for (const place of places) {
            if (giveUp(place)) add(place.clientId, copyPacket({ ...packet, qos: place.qos }), place.row);
            else writes.behind((ctx) => dequeueMessage(ctx, place.row));
          }
          accepted.set(given.payload as Buffer, []);
        }
        return atOnce(undefined);
      },

      /**
       * A message got its identifier, or PUBREC has come and PUBREL is next. For QoS 2 it is durable before the packet goes
       * out: after a crash the receiver must meet the same identifier again.
       */
      async outgoingUpdate(client: ClientId, packet: GivenPacket) {
        const queue = queues.get(client.id);
        // Of what is not kept, for want of room or because it is a retained message, there is nothing to note.
        if (queue === undefined) return;
        const known = queue.messages.get(keyOf(packet));
        if (known !== undefined) {
          // Aedes counts on from anywhere: an identifier that is in use would make two messages one.
          while (isTaken(queue, known, packet.messageId as number)) {
            packet.messageId = ((packet.messageId as number) % highestMessageId) + 1;
          }
          known.isRepeated = known.packet.messageId !== undefined;
          known.packet.messageId = packet.messageId;
          queue.byMessageId.set(packet.messageId as number, known);
          if (known.packet.qos === 2)
            await withRow(known, (ctx, pk) => setMessageId(ctx, pk, packet.messageId as number));
          return;
        }
        const released = packet.messageId === undefined ? undefined : queue.byMessageId.get(packet.messageId);
        if (released === undefined || packet.cmd !== "pubrel") return;
        queuedBytes -= sizeOf(released.packet);
        released.packet = packet as StoredPacket;
        queuedBytes += sizeOf(packet);
        await withRow(released, setReleased);
      },

      async outgoingClearMessageId(client: ClientId, packet: GivenPacket) {
        const queue = queues.get(client.id);
        // Without an identifier, Aedes has not forwarded it: because a subscription that overlaps has already, or because
        // it was not for this client (see `drop`).
        const queued = packet.messageId === undefined ? undefined : queue?.byMessageId.get(packet.messageId);
        if (queue === undefined || queued === undefined) return undefined;
        discard(queue, queued);
        return queued.packet;
      },

      outgoingStream: (client: ClientId) =>
        Readable.from([...(queues.get(client.id)?.messages.values() ?? [])].map(({ packet }) => packet)),
    },
  };
}
