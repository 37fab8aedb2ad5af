import type { PublishPacket } from "aedes";
import type { Ctx } from "../../core/ctx.ts";
import { clearIncoming, deleteIncoming, putIncoming } from "../../core/sessions.ts";
import type { Counters } from "../../counters.ts";
import type { Log } from "../../log.ts";
import { copyPacket, type ClientId } from "./packets.ts";
import type { Writes } from "./writes.ts";

// QoS 2 messages that were received and are not released yet: what is sent again is known by its identifier. The message
// itself is kept until it has been handed on, and not until a PUBREL that may never come.

interface Incoming {
  messageId: number;
}

export interface IncomingOptions {
  log: Log;
  counters: Counters;
  writes: Writes;
  /** Messages of one client that may wait for their PUBREL, and of all clients. */
  maxUnreleased: number;
  maxUnreleasedTotal: number;
  /** Whether the client's session is kept in the store. */
  isKept: (clientId: string) => boolean;
  /** Commits what a message owes to others, with the note that it has come. `undefined`: it owes nothing. */
  commitOwed: (packet: PublishPacket, note: ((ctx: Ctx) => void) | undefined) => Promise<void> | undefined;
}

export function createIncoming({
  log,
  counters,
  writes,
  maxUnreleased,
  maxUnreleasedTotal,
  isKept,
  commitOwed,
}: IncomingOptions) {
  const incoming = new Map<string, Map<number, Incoming>>();
  let total = 0;
  /** When each of these is durable. */
  const storing = new WeakMap<Incoming, Promise<void>>();

  function add(clientId: string, messageId: number, found: Incoming): void {
    let packets = incoming.get(clientId);
    if (packets === undefined) incoming.set(clientId, (packets = new Map()));
    if (!packets.has(messageId)) total += 1;
    packets.set(messageId, found);
  }

  function remove(clientId: string, messageId: number): boolean {
    const packets = incoming.get(clientId);
    if (packets?.delete(messageId) !== true) return false;
    total -= 1;
    if (packets.size === 0) incoming.delete(clientId);
    return true;
  }

  function forget(clientId: string): boolean {
    total -= incoming.get(clientId)?.size ?? 0;
    return incoming.delete(clientId);
  }

  function hasRoom(clientId: string): boolean {
    if ((incoming.get(clientId)?.size ?? 0) < maxUnreleased && total < maxUnreleasedTotal) return true;
    counters.increment("mqtt.unreleased_refused");
    log.sampled("mqtt.unreleased_refused", "too many QoS 2 messages wait for their PUBREL", { client: clientId });
    return false;
  }

  return {
    /** All of them, whatever the limits: without its identifier a message would be taken twice. */
    load(stored: readonly { clientId: string; messageId: number }[]): void {
      for (const { clientId, messageId } of stored) add(clientId, messageId, { messageId });
    },

    forget,

    api: {
      /**
       * PUBREC waits for this: from then on a repetition is known, and what others are owed is theirs.
       * @throws where too many wait already; the connection ends, since MQTT 3.1.1 has no other way to say no
       */
      async incomingStorePacket(client: ClientId & { clean?: boolean }, packet: PublishPacket) {
        const messageId = packet.messageId as number;
        if (!hasRoom(client.id)) throw new Error("too many messages wait for their PUBREL");
        const found = { ...copyPacket(packet as never), messageId };
        add(client.id, messageId, found);
        const note = client.clean === true ? undefined : (ctx: Ctx): void => putIncoming(ctx, client.id, messageId);
        const stored = commitOwed(packet, note);
        if (stored === undefined) return;
        storing.set(found, stored);
        try {
          await stored;
        } catch (error) {
          remove(client.id, messageId);
          throw error;
        }
      },

      /** A message has gone to whom it is for: what is left of it is its identifier. */
      handOn(client: ClientId, { messageId = 0 }: { messageId?: number | undefined }): void {
        const packets = incoming.get(client.id);
        const found = packets?.get(messageId);
        if (found === undefined) return;
        const handedOn: Incoming = { messageId };
        packets?.set(messageId, handedOn);
      },

      async incomingGetPacket(client: ClientId, packet: { messageId?: number | undefined }) {
        const found = incoming.get(client.id)?.get(packet.messageId as number);
        if (found === undefined) throw new Error("no such packet");
        // PUBREC for a repetition does not come before that for the first.
        await storing.get(found);
        return found;
      },

      /** PUBCOMP waits for this: from then on the identifier may stand for another message. */
      async incomingDelPacket(client: ClientId, packet: { messageId?: number | undefined }) {
        const messageId = packet.messageId as number;
        if (!remove(client.id, messageId)) throw new Error("no such packet");
        if (isKept(client.id)) await writes.commit((ctx) => deleteIncoming(ctx, client.id, messageId));
      },

      async cleanIncoming(client: ClientId) {
        if (forget(client.id)) writes.behind((ctx) => clearIncoming(ctx, client.id));
      },
    },
  };
}
