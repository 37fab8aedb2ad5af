import type { Domain } from "../core/ctx.ts";
import { loadBrokerState, probeStore } from "../core/sessions.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import { createIncoming } from "./persistence/incoming.ts";
import { createQueues } from "./persistence/queues.ts";
import { createRetained } from "./persistence/retained.ts";
import { createSessions } from "./persistence/sessions.ts";
import { createWills } from "./persistence/wills.ts";
import { createWrites } from "./persistence/writes.ts";

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
  /** QoS 2 messages of one client that may wait for their PUBREL, and of all clients; one more ends its connection. */
  maxUnreleased: number;
  maxUnreleasedTotal: number;
  maxRetained: number;
  maxRetainedBytes: number;
  /** A session whose client stays away longer is over. */
  sessionExpiryMs: number;
  /** Whether a message is for the client of a session: what is not does not fill its queue. Absent, everything is. */
  isFor?: (owner: string | undefined, topic: string, payload: Buffer) => boolean;
}

export type Persistence = ReturnType<typeof createPersistence>;

const system = { kind: "system" } as const;

/** What Aedes asks of a persistence (its interface has no types), and what the broker asks beyond it. */
export function createPersistence(options: PersistenceOptions) {
  const { domain, log, counters, now, isFor = () => true } = options;
  let broker: { id: string } = { id: "" };
  const writes = createWrites({ domain, log, counters });
  const retained = createRetained({
    ...options,
    writes,
    isCommitted: (payload) => queues.isCommitted(payload),
  });
  const sessions = createSessions({
    ...options,
    writes,
    now,
    onForget(clientId) {
      queues.forget(clientId);
      incoming.forget(clientId);
    },
  });
  const queues = createQueues({
    ...options,
    writes,
    match: sessions.match,
    isFor: (clientId, topic, payload) => isFor(sessions.ownerOf(clientId), topic, payload),
    hasRetainedRoom: retained.hasRoom,
  });
  const incoming = createIncoming({
    ...options,
    writes,
    isKept: (clientId) => sessions.ownerOf(clientId) !== undefined,
    commitOwed: (packet, note) => queues.acceptOnce(packet, note),
  });
  const wills = createWills({ writes, brokerId: () => broker.id });

  return {
    ...retained.api,
    ...sessions.api,
    ...queues.api,
    ...incoming.api,
    ...wills.api,

    get broker() {
      return broker;
    },

    /** Aedes looks whether this is an async function before it calls it. */
    // oxlint-disable-next-line typescript/require-await
    async setup(to: { id: string }) {
      broker = to;
      const state = domain.read(system, loadBrokerState);
      sessions.load(state.sessions, state.subscriptions);
      queues.load(state.queued, (clientId) => sessions.ownerOf(clientId) !== undefined);
      incoming.load(state.incoming);
      retained.load(state.retained);
      wills.load(state.wills);
    },

    /** How much there is of what has a limit. Subscriptions are those of sessions. */
    stats: () => ({ ...sessions.stats(), ...queues.stats(), ...retained.stats() }),

    /** Rejects where the store takes no writes now. */
    probe: (): Promise<void> => writes.commit(probeStore),

    /** Resolves when all that was queued until now is durable. */
    settled: (): Promise<void> => domain.commit(system, () => undefined),

    async destroy() {},
  };
}
