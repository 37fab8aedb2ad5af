import { statfsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Room } from "./core/disk.ts";
import type { Probes } from "./core/health.ts";
import type { CounterName, Counters } from "./counters.ts";
import type { Broker } from "./mqtt/broker.ts";
import type { Store } from "./store/open.ts";

// What health is told from, measured where it happens: the store's file and disk, the broker's listener, this process.

const minuteMs = 60_000;
const sampleMs = 5_000;

/** What the broker turns away or loses. */
const dropCounters: CounterName[] = ["mqtt.connections_dropped", "mqtt.broker_errors", "mqtt.hook_errors"];
const failCounters: CounterName[] = ["store.commits_failed"];

export interface RunningProbes extends Probes {
  stop(): void;
}

export function startProbes({
  store,
  isHealthy,
  room,
  broker,
  counters,
}: {
  store: Store;
  isHealthy: () => boolean;
  room: Room;
  broker: Broker;
  counters: Counters;
}): RunningProbes {
  const loop = monitorEventLoopDelay({ resolution: 20 });
  loop.enable();
  const recentDrops = countRecent(() => sum(counters, dropCounters));
  const recentFailures = countRecent(() => sum(counters, failCounters));
  let loopLagMs = 0;
  const sampler = setInterval(() => {
    recentDrops.sample();
    recentFailures.sample();
    loopLagMs = Math.max(0, loop.percentile(99) / 1e6 - 20);
    loop.reset();
  }, sampleMs);
  sampler.unref();

  return {
    database() {
      const { commitMs } = store.writer.stats();
      const wal = statSync(`${store.path}-wal`, { throwIfNoEntry: false });
      return {
        answers: isHealthy(),
        synced: store.durability === "full",
        storing: room.isOpen(),
        commitMs,
        freeBytes: readFreeBytes(store.path),
        walBytes: wal?.size ?? 0,
      };
    },
    mqtt: () => ({ listening: broker.isListening(), dropped: recentDrops.last(), loopLagMs }),
    processor: () => ({
      storing: room.isOpen(),
      pendingWrites: store.writer.stats().pending,
      failedCommits: recentFailures.last(),
    }),
    stop() {
      clearInterval(sampler);
      loop.disable();
    },
  };
}

/** 0 where the folder is gone: a disk that was pulled out has no room. */
function readFreeBytes(path: string): number {
  try {
    const { bavail, bsize } = statfsSync(dirname(path));
    return bavail * bsize;
  } catch {
    return 0;
  }
}

const sum = (counters: Counters, names: readonly CounterName[]): number =>
  names.reduce((total, name) => total + counters.get(name), 0);

/** How much a count that only rises has risen in the last minute. */
function countRecent(read: () => number): { sample(): void; last(): number } {
  const samples: number[] = [];
  return {
    sample() {
      samples.push(read());
      if (samples.length > minuteMs / sampleMs) samples.shift();
    },
    last: () => read() - (samples[0] ?? 0),
  };
}
