import type { Log } from "../log.ts";
import type { StatusWord } from "./status.ts";

// What has happened, after it is durable. An event only wakes whoever waits; whatever must survive a crash is read from
// the store, never from here.

export interface EventMap {
  /** Once a commit, with the number of readings that it has stored. */
  "readings.stored": { count: number };
  /** Of each of them, where anybody listens. */
  "reading.stored": { readingId: number; deviceId: string; sensorId: string; valueAt: number; value: number };
  /** `deviceId` is the id that /v1 shows. */
  "device.status": { deviceId: string; status: StatusWord; lastSeen: string | null };
  /** `data` is the body of the webhook that tells of it; `deviceId` is empty where it is the gateway's own. */
  alert: { event: "alert.triggered" | "alert.resolved"; deviceId: string; data: object };
  /** Something waits in the outbox. */
  "delivery.queued": object;
  "sensors.removed": { count: number };
  "credentials.revoked": Revoked;
  /** A sensor's readings are to be kept longer, or shorter, than before. */
  "retention.changed": object;
}

/**
 * What somebody logs in with is worth nothing any more: a device's token (`isGone`: and it has no other), a user's
 * password and tokens, an API key.
 */
export type Revoked =
  | { kind: "device"; id: string; isGone: boolean }
  | { kind: "user"; id: string }
  | { kind: "key"; id: string };

export type EventName = keyof EventMap;
export type Emit = <K extends EventName>(name: K, event: EventMap[K]) => void;

export interface Bus {
  emit: Emit;
  /** Whether anybody listens. */
  isHeard(name: EventName): boolean;
  /** Returns the function that takes the listener away. */
  on<K extends EventName>(name: K, listener: (event: EventMap[K]) => void): () => void;
}

/** A listener that throws is logged, and harms neither the others nor whoever emitted. */
export function createBus(log: Log): Bus {
  const listeners = new Map<EventName, Set<(event: never) => void>>();
  return {
    emit(name, event) {
      for (const listener of listeners.get(name) ?? []) {
        try {
          listener(event as never);
        } catch (error) {
          log.sampled(`bus.${name}`, "an event's listener failed", { event: name, error });
        }
      }
    },
    isHeard: (name) => (listeners.get(name)?.size ?? 0) > 0,
    on(name, listener) {
      const set = listeners.get(name) ?? new Set();
      listeners.set(name, set.add(listener));
      return () => void set.delete(listener);
    },
  };
}
