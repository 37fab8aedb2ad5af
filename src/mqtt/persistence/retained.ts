import { Readable } from "node:stream";
import { QlobberTrue } from "qlobber";
import { putRetained, type StoredRetained } from "../../core/sessions.ts";
import type { Counters } from "../../counters.ts";
import type { Log } from "../../log.ts";
import {
  atOnce,
  copyPacket,
  copyPayload,
  sizeOf,
  storedBroker,
  toBuffer,
  toQos,
  type GivenPacket,
  type StoredPacket,
} from "./packets.ts";
import { topicWildcards } from "../topics.ts";
import type { Writes } from "./writes.ts";

// Retained messages: the last one of each topic, for whoever subscribes later.

export interface RetainedOptions {
  log: Log;
  counters: Counters;
  writes: Writes;
  maxRetained: number;
  maxRetainedBytes: number;
  /** Whether a message was committed already, with what else its acknowledgement stands for. */
  isCommitted: (payload: Buffer) => boolean;
}

export type Retained = ReturnType<typeof createRetained>;

export function createRetained({ log, counters, writes, maxRetained, maxRetainedBytes, isCommitted }: RetainedOptions) {
  const messages = new Map<string, StoredPacket>();
  let bytes = 0;

  /** A message that takes one away has room always. Counts those that have none. */
  function hasRoom({ topic, payload }: { topic: string; payload: Buffer }): boolean {
    const before = messages.get(topic);
    const wanted = bytes - (before === undefined ? 0 : sizeOf(before)) + sizeOf({ topic, payload });
    if (payload.length === 0 || ((before !== undefined || messages.size < maxRetained) && wanted <= maxRetainedBytes))
      return true;
    counters.increment("mqtt.retained_refused");
    log.sampled("mqtt.retained_refused", "no room for another retained message", { topic });
    return false;
  }

  function keep(packet: StoredPacket): void {
    const before = messages.get(packet.topic);
    if (before !== undefined) bytes -= sizeOf(before);
    if (packet.payload.length === 0) messages.delete(packet.topic);
    else {
      messages.set(packet.topic, packet);
      bytes += sizeOf(packet);
    }
  }

  function match(patterns: readonly string[]): StoredPacket[] {
    return patterns.flatMap((pattern) => {
      if (!/[+#]/.test(pattern)) return messages.get(pattern) ?? [];
      const matcher = new QlobberTrue(topicWildcards);
      matcher.add(pattern);
      return [...messages].filter(([topic]) => matcher.test(topic)).map(([, packet]) => packet);
    });
  }

  return {
    hasRoom,

    stats: () => ({ retained: messages.size, retainedBytes: bytes }),

    /** What there is no room for any more is taken away. */
    load(stored: readonly StoredRetained[]): void {
      for (const { topic, payload, qos } of stored) {
        if (!hasRoom({ topic, payload })) {
          writes.behind((ctx) => putRetained(ctx, { topic, payload: Buffer.alloc(0), qos }));
          continue;
        }
        const source = { brokerId: storedBroker, brokerCounter: 0 };
        keep(copyPacket({ ...source, topic, payload, qos: toQos(qos), retain: true }));
      }
    },

    api: {
      storeRetained(given: GivenPacket) {
        const packet = { ...given } as StoredPacket;
        const { topic, qos } = packet;
        const payload = toBuffer(packet.payload);
        if (hasRoom({ topic, payload })) {
          keep({ ...packet, payload: copyPayload(packet.payload) });
          if (!isCommitted(payload)) writes.behind((ctx) => putRetained(ctx, { topic, payload, qos }));
        }
        return atOnce(undefined);
      },

      createRetainedStreamCombi: (patterns: string[]) => Readable.from(match(patterns)),
      createRetainedStream: (pattern: string) => Readable.from(match([pattern])),
    },
  };
}
