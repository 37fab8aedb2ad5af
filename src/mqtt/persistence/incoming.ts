import type { PublishPacket } from "aedes";
import type { Ctx } from "../../core/ctx.ts";
import { clearIncoming, deleteIncoming, putIncoming } from "../../core/sessions.ts";
import { copyPacket, type ClientId } from "./packets.ts";
import type { Writes } from "./writes.ts";

// QoS 2 messages that were received and are not released yet: what is sent again is known by its identifier.

interface Incoming {
  messageId: number;
}

export interface IncomingOptions {
  writes: Writes;
  /** Whether the client's session is kept in the store. */
  isKept: (clientId: string) => boolean;
  /** Commits what a message owes to others, with the note that it has come. `undefined`: it owes nothing. */
  commitOwed: (packet: PublishPacket, note: ((ctx: Ctx) => void) | undefined) => Promise<void> | undefined;
}

export function createIncoming({ writes, isKept, commitOwed }: IncomingOptions) {
  const incoming = new Map<string, Map<number, Incoming>>();
  /** When each of these is durable. */
  const storing = new WeakMap<Incoming, Promise<void>>();

  function of(clientId: string): Map<number, Incoming> {
    let packets = incoming.get(clientId);
    if (packets === undefined) incoming.set(clientId, (packets = new Map()));
    return packets;
  }

  return {
    load(stored: readonly { clientId: string; messageId: number }[]): void {
      for (const { clientId, messageId } of stored) of(clientId).set(messageId, { messageId });
    },

    forget: (clientId: string): void => void incoming.delete(clientId),

    api: {
      /** PUBREC waits for this: from then on a repetition is known, and what others are owed is theirs. */
      async incomingStorePacket(client: ClientId & { clean?: boolean }, packet: PublishPacket) {
        const messageId = packet.messageId as number;
        const found = { ...copyPacket(packet as never), messageId };
        of(client.id).set(messageId, found);
        const note = client.clean === true ? undefined : (ctx: Ctx): void => putIncoming(ctx, client.id, messageId);
        const stored = commitOwed(packet, note);
        if (stored === undefined) return;
        storing.set(found, stored);
        try {
          await stored;
        } catch (error) {
          incoming.get(client.id)?.delete(messageId);
          throw error;
        }
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
        if (incoming.get(client.id)?.delete(messageId) !== true) throw new Error("no such packet");
        if (isKept(client.id)) await writes.commit((ctx) => deleteIncoming(ctx, client.id, messageId));
      },

      async cleanIncoming(client: ClientId) {
        if (incoming.delete(client.id)) writes.behind((ctx) => clearIncoming(ctx, client.id));
      },
    },
  };
}
