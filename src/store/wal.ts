import { closeSync, fdatasync, fstatSync, openSync, writeSync } from "node:fs";
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
  /** The log is so long now: there is to be room for as much more as has come since this was said last. */
  noteUse(usedBytes: number): void;
  /** Makes that room. To be called in a transaction that writes: nobody else appends to the log then. */
  makeRoom(): void;
  close(): void;
}

const syncEveryMs = 1_000;

/** Room is made for so much at a time. */
const roomBytes = 256 * 1024;
/**
 * Page by page: what is written in one piece the kernel keeps in one piece, and when a part of it changes it counts all of
 * it as written (`write_bytes` of /proc/PID/io, and what it lets a process write before it makes it wait).
 */
const zeros = Buffer.alloc(4_096);

const roundUp = (bytes: number, unit: number): number => Math.ceil(bytes / unit) * unit;

/** The write-ahead log as a file, to wait for the disk with. SQLite locks the store itself and never this one. */
export function openWal(
  path: string,
  durability: Durability,
  { log, counters }: { log: Log; counters: Counters },
): Wal {
  const file = openSync(path, "r+");
  const syncNow = (done: (error: Error | null) => void): void => fdatasync(file, done);
  let usedBytes = 0;
  let wantedBytes = 0;
  let isDirty = false;
  let isClosed = false;

  // A file that becomes longer with each commit has the disk write where it ends now, each time: a sync of that takes two to
  // three times as long as one of what is written over. What SQLite has not written it takes for no part of the log.
  const room: Pick<Wal, "noteUse" | "makeRoom"> = {
    noteUse(bytes) {
      wantedBytes = bytes + Math.min(Math.max(roomBytes / 2, bytes - usedBytes), 2 * roomBytes);
      usedBytes = bytes;
    },
    makeRoom() {
      if (wantedBytes === 0) return;
      try {
        const { size } = fstatSync(file);
        // Where it is shorter, it has been cut off since.
        const end = size >= usedBytes && size < wantedBytes ? roundUp(wantedBytes, roomBytes) : 0;
        for (let at = roundUp(size, zeros.length); at < end; at += zeros.length)
          writeSync(file, zeros, 0, zeros.length, at);
      } catch (error) {
        log.sampled("store.wal_room", "no room for the write-ahead log to grow into", { error });
      }
      wantedBytes = 0;
    },
  };
  if (durability === "full") {
    return { sync: syncNow, syncNow, ...room, close: () => closeSync(file) };
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
    ...room,
    // What is left is synced by the checkpoint that follows.
    close() {
      clearInterval(timer);
      isClosed = true;
      closeSync(file);
    },
  };
}
