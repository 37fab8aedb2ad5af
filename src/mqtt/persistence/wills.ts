import { Readable } from "node:stream";
import { deleteWill, putWill, type StoredWill } from "../../core/sessions.ts";
import {
  copyPacket,
  storedBroker,
  toBuffer,
  toQos,
  type ClientId,
  type GivenPacket,
  type StoredPacket,
} from "./packets.ts";
import type { Writes } from "./writes.ts";

// What is to be said for clients that are gone without a word, also where the gateway itself is.

export type Will = StoredPacket & { clientId: string };

export function createWills({ writes, brokerId }: { writes: Writes; brokerId: () => string }) {
  /**
   * By client id, in the order of their CONNECTs: who takes a client id over comes with a will of its own before the
   * connection that had it has ended. The store has the last one.
   */
  const wills = new Map<string, Will[]>();

  const all = (): Will[] => [...wills.values()].flat();

  function remove(clientId: string, will: Will | undefined): void {
    const left = wills.get(clientId)?.filter((other) => other !== will) ?? [];
    if (left.length > 0) wills.set(clientId, left);
    else if (wills.delete(clientId)) writes.behind((ctx) => deleteWill(ctx, clientId));
  }

  return {
    load(stored: readonly StoredWill[]): void {
      for (const { clientId, qos, ...will } of stored) {
        const source = { brokerId: storedBroker, brokerCounter: 0 };
        wills.set(clientId, [{ ...copyPacket({ ...source, ...will, qos: toQos(qos) }), clientId }]);
      }
    },

    api: {
      /** A will of an earlier start, whose client nobody has heard of since. */
      orphanWill: (): Will | undefined => all().find((will) => will.brokerId === storedBroker),

      /** CONNACK waits for this. */
      async putWill(client: ClientId, packet: GivenPacket) {
        const will = Object.assign(packet, { brokerId: brokerId(), clientId: client.id }) as Will;
        wills.set(client.id, [...(wills.get(client.id) ?? []), will]);
        const { topic, payload, qos, retain } = will;
        try {
          await writes.commit((ctx) =>
            putWill(ctx, { clientId: client.id, topic, payload: toBuffer(payload), qos, retain }),
          );
        } catch (error) {
          remove(client.id, will);
          throw error;
        }
      },

      async getWill(client: ClientId) {
        return wills.get(client.id)?.at(-1);
      },

      /**
       * Aedes calls it with the client where one comes: what an earlier start has left for it is void then. With the
       * client id alone it calls it for a connection that has ended: that is the one which has had its will longest.
       * The broker names the will itself.
       */
      async delWill(client: ClientId & { conn?: unknown; will?: unknown }) {
        const isNew = client.conn !== undefined;
        const isMeant = (stored: Will): boolean =>
          isNew ? stored.brokerId === storedBroker : client.will === undefined || stored === client.will;
        const will = wills.get(client.id)?.find(isMeant);
        if (will !== undefined) remove(client.id, will);
        return will;
      },

      /** Wills of brokers that are gone: after a crash, those of everybody who was connected. */
      streamWill: (brokers: Record<string, unknown> = {}) =>
        Readable.from(all().filter((will) => brokers[will.brokerId] === undefined)),
    },
  };
}
