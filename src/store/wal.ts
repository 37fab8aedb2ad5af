import { closeSync, fdatasync, openSync } from "node:fs";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";

/**
 * When a commit counts, and is acknowledged.
 *
 * - `full`: when the disk has it. The gateway's promise.
 * - `normal`: when the operating system has it; the disk has it within a second. Survives the end of the process, however it
 *   comes, and not always a power cut.
 * - `relaxed`: the same, and the disk has it when the system thinks fit, or at the next checkpoint.
 */
export const durabilities = ["full", "normal", "relaxed"] as const;
export type Durability = (typeof durabilities)[number];

/** What each gives up, for whoever runs the gateway. */
export const givenUp: Record<Durability, string | undefined> = {
  full: undefined,
  normal: "a power cut may take the last second of what was acknowledged",
  relaxed: "a power cut may take the last minute, or more, of what was acknowledged",
};

export interface Wal {
  /** Calls back when what was committed counts. */
  sync(done: (error: Error | null) => void): void;
  /** Calls back when the disk has all of the log, whatever counts. */
  syncNow(done: (error: Error | null) => void): void;
  close(): void;
}

const syncEveryMs = 1_000;

/** The write-ahead log as a file, to wait for the disk with. SQLite locks the store itself and never this one. */
export function openWal(
  path: string,
  durability: Durability,
  { log, counters }: { log: Log; counters: Counters },
): Wal {
  const file = openSync(path, "r+");
  const syncNow = (done: (error: Error | null) => void): void => fdatasync(file, done);
  let isDirty = false;
  let isClosed = false;
  if (durability === "full") {
    return { sync: syncNow, syncNow, close: () => closeSync(file) };
  }

  function syncLater(): void {
    if (!isDirty || isClosed) return;
    isDirty = false;
    fdatasync(file, (error) => {
      if (error === null || isClosed) return;
      isDirty = true;
      counters.increment("store.syncs_failed");
      log.sampled("store.sync", "the disk does not take what was acknowledged; trying again", { error });
    });
  }

  const timer = durability === "normal" ? setInterval(syncLater, syncEveryMs) : undefined;
  timer?.unref();
  return {
    sync(done) {
      isDirty = true;
      done(null);
    },
    syncNow,
    // What is left is synced by the checkpoint that follows.
    close() {
      clearInterval(timer);
      isClosed = true;
      closeSync(file);
    },
  };
}
