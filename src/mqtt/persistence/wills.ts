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

type Will = StoredPacket & { clientId: string };

export function createWills({ writes, brokerId }: { writes: Writes; brokerId: () => string }) {
  const wills = new Map<string, Will>();

  return {
    load(stored: readonly StoredWill[]): void {
      for (const { clientId, qos, ...will } of stored) {
        const source = { brokerId: storedBroker, brokerCounter: 0 };
        wills.set(clientId, { ...copyPacket({ ...source, ...will, qos: toQos(qos) }), clientId });
      }
    },

    api: {
      /** CONNACK waits for this. */
      async putWill(client: ClientId, packet: GivenPacket) {
        const will = Object.assign(packet, { brokerId: brokerId(), clientId: client.id }) as Will;
        wills.set(client.id, will);
        const { topic, payload, qos, retain } = will;
        await writes.commit((ctx) =>
          putWill(ctx, { clientId: client.id, topic, payload: toBuffer(payload), qos, retain }),
        );
      },

      async getWill(client: ClientId) {
        return wills.get(client.id);
      },

      async delWill(client: ClientId) {
        const will = wills.get(client.id);
        if (wills.delete(client.id)) writes.behind((ctx) => deleteWill(ctx, client.id));
        return will;
      },

      /** Wills of brokers that are gone: after a crash, those of everybody who was connected. */
      streamWill: (brokers: Record<string, unknown> = {}) =>
        Readable.from([...wills.values()].filter((will) => brokers[will.brokerId] === undefined)),
    },
  };
}
