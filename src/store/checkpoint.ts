import { closeSync, fdatasync, openSync } from "node:fs";
import type { Database } from "better-sqlite3";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import type { Wal } from "./wal.ts";

// The write-ahead log is carried into the store every few megabytes. SQLite would wait for the disk three times meanwhile,
// and the event loop with it: seconds on an SD card. So it copies without waiting, and another thread waits:
//
// 1. The log is on the disk, or nothing of it may reach the store.
// 2. A reader holds the log: whatever happens, what is in it is not written over.
// 3. The pages are copied; the system has them.
// 4. The store is on the disk, and the reader lets go. Only then does the next transaction begin the log anew.
//
// A power cut at any moment finds a log that is whole, or a store that is.

export interface Checkpointer {
  /** To be called between transactions, of which none may begin before `done` is called. */
  carryOver(done: () => void): void;
  /** After the store itself is closed: to close its file lets go of this process's locks on it. */
  close(): void;
}

export interface CheckpointerOptions {
  /** The connection that writes. From now on it does no checkpoints by itself. */
  sqlite: Database;
  /** Another one, that reads. */
  reader: Database;
  path: string;
  /** How long the log may become, about. */
  maxWalBytes: number;
  wal: Wal;
  log: Log;
  counters: Counters;
}

/** What the log has beside each page. */
const frameHeaderBytes = 24;
/** How long the log is is looked up so often, in commits. */
const lookEvery = 16;

export function createCheckpointer({
  sqlite,
  reader,
  path,
  maxWalBytes,
  wal,
  log,
  counters,
}: CheckpointerOptions): Checkpointer {
  const file = openSync(path, "r+");
  // Not in the middle of a COMMIT, and not waiting.
  sqlite.pragma("wal_autocheckpoint = 0");
  const look = sqlite.prepare<[], { log: number; checkpointed: number }>("PRAGMA wal_checkpoint(NOOP)");
  const hold = reader.prepare("BEGIN");
  const read = reader.prepare("SELECT 1 FROM sqlite_schema LIMIT 1");
  const letGo = reader.prepare("COMMIT");
  const pageBytes = sqlite.pragma("page_size", { simple: true }) as number;
  const maxPages = maxWalBytes / pageBytes;
  wal.noteUse(0);
  let commits = 0;

  function copy(): void {
    hold.run();
    read.get();
    sqlite.pragma("synchronous = OFF");
    try {
      sqlite.pragma("wal_checkpoint(PASSIVE)");
    } finally {
      sqlite.pragma("synchronous = NORMAL");
    }
  }

  /** From here on the log is held, and grows: it has what the store may not have. A restart carries it over anew. */
  function fail(error: unknown, done: () => void): void {
    counters.increment("store.checkpoints_failed");
    log.sampled("store.checkpoint", "the write-ahead log could not be carried into the store", { error });
    done();
  }

  return {
    carryOver(done) {
      commits += 1;
      if (commits % lookEvery !== 0 || reader.inTransaction) return done();
      const pages = look.get();
      if (pages !== undefined) wal.noteUse(pages.log * (pageBytes + frameHeaderBytes));
      if (pages === undefined || pages.log - pages.checkpointed < maxPages) return done();
      wal.syncNow((walError) => {
        if (walError !== null) return fail(walError, done);
        try {
          copy();
        } catch (error) {
          // SQLite has not taken anything for carried over.
          if (reader.inTransaction) letGo.run();
          return fail(error, done);
        }
        return fdatasync(file, (error) => {
          if (error !== null) return fail(error, done);
          letGo.run();
          return done();
        });
      });
    },
    close: () => closeSync(file),
  };
}
