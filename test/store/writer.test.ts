import { closeSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import Sqlite, { type Database } from "better-sqlite3";
import { afterEach, beforeEach, expect, test } from "vitest";
import { DoubtError } from "../../src/core/errors.ts";
import { createCounters, type Counters } from "../../src/counters.ts";
import { createLog } from "../../src/log.ts";
import { createWriter, type Writer } from "../../src/store/writer.ts";
import { makeFolder } from "../support/gateway.ts";

// On a real file: what is committed is what another connection sees.

let sqlite: Database;
let reader: Database;
let counters: Counters;
let writer: Writer;
let path = "";
let remove = (): void => undefined;

const log = createLog({ level: "error", write: () => undefined });

function open(): Database {
  const opened = new Sqlite(path, { timeout: 0 });
  opened.pragma("journal_mode = WAL");
  opened.pragma("synchronous = FULL");
  return opened;
}

beforeEach(() => {
  const made = makeFolder();
  remove = made.remove;
  path = join(made.folder, "store.db");
  sqlite = open();
  sqlite.exec("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT NOT NULL UNIQUE) STRICT");
  reader = open();
  counters = createCounters();
  writer = createWriter(sqlite, { maxPending: 100, log, counters });
});

afterEach(() => {
  sqlite.close();
  reader.close();
  remove();
});

const insert = (value: string) => () =>
  Number(sqlite.prepare("INSERT INTO t (v) VALUES (?)").run(value).lastInsertRowid);
/** What others see. */
const committed = (): string[] => reader.prepare<[], string>("SELECT v FROM t ORDER BY id").pluck().all();
const unavailable = expect.objectContaining({ name: "DomainError", code: "unavailable" }) as unknown;

test("a work's promise settles after its commit, with what the work returned", async () => {
  const promise = writer.submit(insert("a"));
  expect(committed()).toEqual([]);
  expect(await promise).toBe(1);
  expect(committed()).toEqual(["a"]);
});

test("works run and settle in the order in which they were submitted", async () => {
  const settled: string[] = [];
  const names = Array.from({ length: 50 }, (_, i) => `n${i}`);
  await Promise.all(names.map((name) => writer.submit(insert(name)).then(() => settled.push(name))));
  expect(settled).toEqual(names);
  expect(committed()).toEqual(names);
});

test("what is submitted together shares one commit; a lone work has its own", async () => {
  await Promise.all(["a", "b", "c"].map((name) => writer.submit(insert(name))));
  expect(counters.get("store.commits")).toBe(1);
  await writer.submit(insert("d"));
  expect(counters.get("store.commits")).toBe(2);
});

test("more than a thousand works are spread over several commits", async () => {
  const roomy = createWriter(sqlite, { maxPending: 10_000, log, counters });
  await Promise.all(Array.from({ length: 2_500 }, (_, i) => roomy.submit(insert(`n${i}`))));
  expect(counters.get("store.commits")).toBe(3);
  expect(committed()).toHaveLength(2_500);
});

test("a work that fails harms no other one of its commit", async () => {
  const wrong = new Error("no such thing");
  const results = await Promise.allSettled([
    writer.submit(insert("a")),
    writer.submit(() => {
      throw wrong;
    }),
    writer.submit(insert("a")),
    writer.submit(insert("b")),
  ]);
  expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "rejected", "fulfilled"]);
  expect(results[1]).toEqual({ status: "rejected", reason: wrong });
  expect(results[2]).toMatchObject({ reason: { code: "SQLITE_CONSTRAINT_UNIQUE" } });
  expect(committed()).toEqual(["a", "b"]);
  expect(writer.isHealthy()).toBe(true);
});

test("a work that throws after it has written takes back its own writes alone", async () => {
  const results = await Promise.allSettled([
    writer.submit(insert("before")),
    writer.submit(() => {
      insert("half")();
      throw new Error("changed my mind");
    }),
    writer.submit(insert("after")),
  ]);
  expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  expect(committed()).toEqual(["before", "after"]);
});

test("a work that meets a damaged page fails alone, in its turn, whatever shares its transaction", async () => {
  sqlite.exec("CREATE TABLE damaged (v TEXT); INSERT INTO damaged VALUES ('x')");
  const page = sqlite.prepare<[], number>("SELECT rootpage FROM sqlite_schema WHERE name = 'damaged'").pluck().get();
  sqlite.pragma("wal_checkpoint(TRUNCATE)");
  sqlite.close();
  reader.close();
  const file = openSync(path, "r+");
  writeSync(file, Buffer.alloc(4_096, 0x5a), 0, 4_096, ((page as number) - 1) * 4_096);
  closeSync(file);
  sqlite = open();
  reader = open();
  writer = createWriter(sqlite, { maxPending: 100, log, counters });

  const settled: string[] = [];
  const submit = async (name: string, work: () => unknown): Promise<void> => {
    try {
      await writer.submit(work);
      settled.push(name);
    } catch (error) {
      settled.push(`${name}: ${(error as { code?: string }).code}`);
    }
  };
  const look = () => sqlite.prepare("SELECT v FROM damaged").get();
  await Promise.all([
    submit("first", look),
    submit("a", insert("a")),
    submit("half", () => {
      insert("half")();
      look();
    }),
    submit("b", insert("b")),
    submit("again", insert("a")),
    submit("last", look),
    submit("c", insert("c")),
  ]);
  expect(settled).toEqual([
    "first: SQLITE_CORRUPT",
    "a",
    "half: SQLITE_CORRUPT",
    "b",
    "again: SQLITE_CONSTRAINT_UNIQUE",
    "last: SQLITE_CORRUPT",
    "c",
  ]);
  expect(committed()).toEqual(["a", "b", "c"]);
  expect(writer.isHealthy()).toBe(true);
});

test("a full disk fails what it hits, acknowledges nothing of it, and is over when there is room", async () => {
  await writer.submit(insert("kept"));
  const pages = sqlite.pragma("page_count", { simple: true }) as number;
  sqlite.pragma(`max_page_count = ${pages}`);
  const big = "x".repeat(100_000);
  const results = await Promise.allSettled([
    writer.submit(insert("small")),
    writer.submit(insert(big)),
    writer.submit(insert("small too")),
  ]);
  expect(results.map((result) => (result.status === "rejected" ? (result.reason as unknown) : "stored"))).toEqual([
    unavailable,
    unavailable,
    unavailable,
  ]);
  expect(committed()).toEqual(["kept"]);
  expect(writer.isHealthy()).toBe(false);
  expect(counters.get("store.commits_failed")).toBe(1);

  sqlite.pragma("max_page_count = 1000000");
  await Promise.all([writer.submit(insert(big)), writer.submit(insert("small"))]);
  expect(committed()).toEqual(["kept", big, "small"]);
  expect(writer.isHealthy()).toBe(true);
});

test("a full disk in the middle of a statement that SQLite undoes alone fails the commit as well", async () => {
  const pages = sqlite.pragma("page_count", { simple: true }) as number;
  sqlite.pragma(`max_page_count = ${pages}`);
  // Several rows in one statement have a journal of their own.
  const rows = sqlite.prepare(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO t (v) SELECT hex(randomblob(500)) FROM n",
  );
  const results = await Promise.allSettled([writer.submit(insert("a")), writer.submit(() => rows.run())]);
  expect(results).toEqual([
    { status: "rejected", reason: unavailable },
    { status: "rejected", reason: unavailable },
  ]);
  expect(sqlite.inTransaction).toBe(false);
  expect(committed()).toEqual([]);
});

test("a COMMIT that fails rejects everything of it", async () => {
  sqlite.pragma("foreign_keys = ON");
  sqlite.exec("CREATE TABLE child (parent INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)");
  // A deferred key is looked at by COMMIT.
  const orphan = () => sqlite.exec("INSERT INTO child VALUES (4711)");
  const results = await Promise.allSettled([writer.submit(insert("a")), writer.submit(orphan)]);
  expect(results).toEqual([
    { status: "rejected", reason: unavailable },
    { status: "rejected", reason: unavailable },
  ]);
  expect(committed()).toEqual([]);
  expect(await writer.submit(insert("b"))).toBeGreaterThan(0);
  expect(committed()).toEqual(["b"]);
});

test("more than maxPending waiting works are refused at once, and counted; the others are stored", async () => {
  const results = await Promise.allSettled(Array.from({ length: 103 }, (_, i) => writer.submit(insert(`n${i}`))));
  expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(100);
  expect(results.slice(100)).toEqual(Array.from({ length: 3 }, () => ({ status: "rejected", reason: unavailable })));
  expect(counters.get("store.writes_refused")).toBe(3);
  expect(committed()).toHaveLength(100);
  await writer.submit(insert("room again"));
});

test("the disk is waited for where something is written that it is to have, and not for what is in memory alone", async () => {
  sqlite.pragma("temp_store = MEMORY");
  sqlite.exec("CREATE TEMP TABLE seen (at INTEGER)");
  const note = sqlite.prepare("INSERT INTO temp.seen VALUES (1)");
  let notes = 0;
  let syncs = 0;
  const nothing = (): void => undefined;
  const memory = { mark: nothing, hasChanged: () => false, undo: nothing, beforeCommit: nothing, settle: nothing };
  const sparing = createWriter(sqlite, {
    maxPending: 100,
    participant: { ...memory, volatileChanges: () => notes },
    sync(done) {
      syncs += 1;
      done(null);
    },
    log,
    counters,
  });
  const see = (): void => void (notes += note.run().changes);
  await sparing.submit(see);
  expect(syncs).toBe(0);
  await Promise.all([sparing.submit(see), sparing.submit(insert("a"))]);
  expect(syncs).toBe(1);
  expect(sqlite.prepare("SELECT count(*) FROM temp.seen").pluck().get()).toBe(2);
});

test("while another connection has the lock, works wait and the event loop goes on", async () => {
  reader.exec("BEGIN IMMEDIATE");
  let isSettled = false;
  const waiting = writer.submit(insert("a")).then((id) => {
    isSettled = true;
    return id;
  });
  // Several tries of the writer pass by; this timer would not if one of them stood still for the lock.
  while (counters.get("store.busy") < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  const later = writer.submit(insert("b"));
  expect(isSettled).toBe(false);
  reader.exec("ROLLBACK");
  expect(await Promise.all([waiting, later])).toEqual([1, 2]);
  expect(committed()).toEqual(["a", "b"]);
  expect(writer.isHealthy()).toBe(true);
});

test("a drain settles after all that was submitted before it, also where the line is full", async () => {
  await writer.drain();
  const settled: string[] = [];
  const works = Array.from({ length: 100 }, (_, i) => writer.submit(insert(`n${i}`)).then(() => settled.push(`n${i}`)));
  await writer.drain();
  expect(settled).toHaveLength(100);
  await Promise.all(works);
});

test("closing stores what waits, however much it is, and takes nothing more", async () => {
  const works = Array.from({ length: 100 }, (_, i) => writer.submit(insert(`n${i}`)));
  await writer.close();
  expect(committed()).toHaveLength(100);
  await Promise.all(works);
  await expect(writer.submit(insert("late"))).rejects.toEqual(unavailable);
  expect(committed()).toHaveLength(100);
});

test("closing waits for a lock that another connection holds", async () => {
  reader.exec("BEGIN IMMEDIATE");
  const work = writer.submit(insert("a"));
  const closed = writer.close();
  while (counters.get("store.busy") < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  reader.exec("ROLLBACK");
  await closed;
  await work;
  expect(committed()).toEqual(["a"]);
});

test("after a sync that failed nothing is committed before the log is carried over, which a reader may hold up", async () => {
  let failing = true;
  const sync = (done: (error: Error | null) => void): void => done(failing ? new Error("EIO") : null);
  const doubtful = createWriter(sqlite, { maxPending: 100, sync, log, counters });
  reader.exec("BEGIN");
  expect(committed()).toEqual([]);
  await expect(doubtful.submit(insert("in doubt"))).rejects.toBeInstanceOf(DoubtError);
  expect(doubtful.isHealthy()).toBe(false);
  failing = false;
  const next = doubtful.submit(insert("next"));
  // Whoever reads as of before the doubt keeps the log from being carried over.
  await expect.poll(() => counters.get("store.busy")).toBeGreaterThan(2);
  expect(sqlite.prepare("SELECT v FROM t").pluck().all()).toEqual(["in doubt"]);
  reader.exec("COMMIT");
  await next;
  expect(doubtful.isHealthy()).toBe(true);
  expect(committed()).toEqual(["in doubt", "next"]);
});
