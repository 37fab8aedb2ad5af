import { existsSync, mkdirSync } from "node:fs";
import { dirname, resolve } from "node:path";
import Sqlite, { type Database } from "better-sqlite3";
import { drizzle } from "drizzle-orm/better-sqlite3";
import { StartError } from "../core/errors.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import { loadAddon } from "./addon.ts";
import { checkOrigin, migrate } from "./migrations.ts";
import { createCheckpointer } from "./checkpoint.ts";
import { createReadings, type Readings } from "./readings.ts";
import { createSightings, type Sightings } from "./sightings.ts";
import { createSources, type Sources } from "./sources.ts";
import { openWal, type Durability } from "./wal.ts";
import { createWriter, type Writer } from "./writer.ts";

export type Db = ReturnType<typeof connect>;

export interface Store {
  db: Db;
  readings: Readings;
  sources: Sources;
  sightings: Sightings;
  writer: Writer;
  /** The store's file, absolute. */
  path: string;
  durability: Durability;
  /** Has `listener` called after each commit that has stored readings, with their number. */
  onStored(listener: (count: number) => void): void;
  /** True where the store answers a query and its last commit went through. */
  isHealthy(): boolean;
  /** Settles what was submitted, brings the write-ahead log into the store's file and lets go of both. */
  close(): Promise<void>;
}

export interface StoreOptions {
  path: string;
  maxPendingWrites: number;
  /** Readings that wait in memory before the older half of them is sealed; by default 131,072. */
  maxRecentReadings?: number;
  /** How long the write-ahead log becomes before it is carried into the store; by default 16 MiB. */
  maxWalBytes?: number;
  /** Default `full`. */
  durability?: Durability;
  log: Log;
  counters: Counters;
}

/** How long a statement waits for another process's lock before it gives up: the event loop stands still meanwhile. */
const lockWaitMs = 100;

/**
 * Opens the store at `path`, creates it where there is none, and migrates it.
 * @throws {StartError} one line for each way in which a file can be unusable: in use, read-only, not a database, another
 * program's, a newer version's, damaged.
 */
export function openStore({
  path: givenPath,
  maxPendingWrites,
  maxRecentReadings = 131_072,
  maxWalBytes = 16 * 1024 * 1024,
  durability = "full",
  log,
  counters,
}: StoreOptions): Store {
  const path = resolve(givenPath);
  const folder = dirname(path);
  const opened: Database[] = [];
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const nativeBinding = loadAddon(folder);
    const open = (file: string, { readonly = false } = {}) => {
      const sqlite = new Sqlite(file, {
        readonly,
        timeout: lockWaitMs,
        ...(nativeBinding && { nativeBinding: nativeBinding as unknown as string }),
      });
      opened.push(sqlite);
      return sqlite;
    };
    const lock = takeLock(open(`${path}-lock`));
    if (existsSync(`${path}-wal`)) {
      // Somebody was killed here. The last connection that may write carries the log over when it closes, and that of
      // another program or a newer version is not ours to carry.
      const look = open(path, { readonly: true });
      checkOrigin(look, path);
      look.close();
    }
    const sqlite = open(path);
    checkOrigin(sqlite, path);
    setPragmas(sqlite);
    migrate(sqlite, path, log);
    probeWrite(sqlite);
    const db = connect(sqlite);
    const readings = createReadings(sqlite, { maxRecent: maxRecentReadings });
    const sightings = createSightings(sqlite);
    const sources = createSources(sqlite);
    const wal = openWal(`${path}-wal`, durability, { log, counters });
    const reader = open(path, { readonly: true });
    const checkpointer = createCheckpointer({ sqlite, reader, path, maxWalBytes, wal, log, counters });
    let toldId = readings.lastId();
    let onStored = (_count: number): void => undefined;
    const writer = createWriter(sqlite, {
      maxPending: maxPendingWrites,
      participant: {
        ...readings,
        undo(mark) {
          readings.undo(mark);
          sources.forget();
        },
        beforeCommit() {
          readings.beforeCommit();
          wal.makeRoom();
        },
        volatileChanges: sightings.changes,
        announce() {
          const count = readings.lastId() - toldId;
          if (count === 0) return;
          toldId += count;
          onStored(count);
        },
      },
      sync: wal.sync,
      carryOver: checkpointer.carryOver,
      log,
      counters,
    });
    const ping = sqlite.prepare("SELECT 1 FROM sqlite_schema LIMIT 1");
    return {
      db,
      readings,
      sources,
      sightings,
      writer,
      path,
      durability,
      onStored: (listener) => void (onStored = listener),
      isHealthy() {
        if (!sqlite.open || !writer.isHealthy()) return false;
        try {
          ping.get();
          return true;
        } catch (error) {
          log.sampled("store.ping", "the store does not answer", { error });
          return false;
        }
      },
      async close() {
        if (!sqlite.open) return;
        await writer.close();
        wal.close();
        reader.close();
        try {
          sqlite.pragma("wal_checkpoint(TRUNCATE)");
        } catch (error) {
          // Nothing is lost: what the log holds is carried over at the next start.
          log.warn("the write-ahead log could not be carried into the store", { error });
        }
        sqlite.close();
        checkpointer.close();
        lock.close();
      },
    };
  } catch (error) {
    for (const sqlite of opened.toReversed()) sqlite.close();
    throw explain(error, path);
  }
}

const connect = (sqlite: Database) => drizzle(sqlite);

/**
 * One gateway a store: a lock on a file of its own, held by the operating system for the life of the process, so that a
 * `kill -9` leaves nothing behind to clean up. The store itself stays open to other programs that read it.
 */
function takeLock(lock: Database): Database {
  try {
    lock.pragma("journal_mode = MEMORY"); // nothing of it is worth a file
    lock.exec("BEGIN EXCLUSIVE");
  } catch (error) {
    throw isSqliteError(error, "SQLITE_BUSY")
      ? new StartError(`${lock.name.slice(0, -"-lock".length)} is in use by another lambdaiot; stop that one first`)
      : error;
  }
  return lock;
}

function setPragmas(sqlite: Database): void {
  // So that pages that deletions free can be given back to the disk. Takes effect only before the first table is made.
  sqlite.pragma("auto_vacuum = INCREMENTAL");
  // Readers never wait for the writer, and a commit appends to one file.
  sqlite.pragma("journal_mode = WAL");
  // COMMIT does not wait for the disk: the writer does, with a thread of its own and in the same way (see openWal), before
  // a commit counts. An acknowledgement means committed, through a power cut too, and the event loop never stands still
  // for it. What SQLite syncs by itself then is the log before it is carried into the store, and the store after that.
  sqlite.pragma("synchronous = NORMAL");
  // Rows never refer to something that is gone.
  sqlite.pragma("foreign_keys = ON");
  // A log that a long read had let grow is cut back to 32 MiB once it is carried over.
  sqlite.pragma(`journal_size_limit = ${32 * 1024 * 1024}`);
  // 16 MiB of pages in memory: the upper levels of every index, on a machine with 512 MB.
  sqlite.pragma("cache_size = -16384");
  // Sorting never writes beside the store, and sightings.ts not at all.
  sqlite.pragma("temp_store = MEMORY");
}

/** A read-only folder or a full disk shows at the first write only: make one now, while there is somebody to tell. */
function probeWrite(sqlite: Database): void {
  const version = sqlite.pragma("user_version", { simple: true }) as number;
  sqlite.transaction(() => sqlite.pragma(`user_version = ${version}`)).immediate();
}

export const isSqliteError = (error: unknown, code: string): boolean =>
  error instanceof Sqlite.SqliteError && (error.code === code || error.code.startsWith(`${code}_`));

/** The line that a person gets to read, for errors whose own text would not say what to do. */
function explain(error: unknown, path: string): Error {
  if (error instanceof StartError) return error;
  if (isSqliteError(error, "SQLITE_NOTADB"))
    return new StartError(`${path} is not a SQLite database; move it away or choose another database.path`);
  if (isSqliteError(error, "SQLITE_CORRUPT"))
    return new StartError(`${path} is damaged; restore a backup, or move it away to start anew`);
  if (isSqliteError(error, "SQLITE_BUSY"))
    return new StartError(`${path} is locked by another program; close it first`);
  if (isSqliteError(error, "SQLITE_FULL")) return new StartError(`no room on the disk for ${path}`);
  if (
    isSqliteError(error, "SQLITE_READONLY") ||
    isSqliteError(error, "SQLITE_CANTOPEN") ||
    isSqliteError(error, "SQLITE_IOERR")
  )
    return new StartError(`${path} cannot be written; check the folder's owner and permissions`);
  const code = (error as NodeJS.ErrnoException).code;
  if (code !== undefined && /^E[A-Z]+$/.test(code))
    return new StartError(`${path} cannot be opened: ${(error as Error).message}`);
  if (error instanceof Sqlite.SqliteError)
    return new StartError(`${path} cannot be used: ${error.message}; restore a backup, or move it away to start anew`);
  return error as Error;
}
