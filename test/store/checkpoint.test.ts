import { readdirSync, readlinkSync, statSync } from "node:fs";
import Sqlite from "better-sqlite3";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openTestStore, type TestStore } from "../support/store.ts";

// The write-ahead log is carried into the store while the gateway runs.

let t: TestStore;
beforeEach(() => {
  t = openTestStore();
  t.store.db.$client.exec("CREATE TABLE filling (id INTEGER PRIMARY KEY, v BLOB NOT NULL)");
});
afterEach(() => t.close());

const megabyte = 1024 * 1024;
const walBytes = (): number => statSync(`${t.store.path}-wal`).size;

async function fill(commits: number): Promise<void> {
  for (let n = 0; n < commits; n++)
    await t.commit(({ db }) => db.$client.prepare("INSERT INTO filling (v) VALUES (randomblob(100000))").run());
}

test("the log does not grow past its limit, and everything is in the store", async () => {
  await fill(800); // 80 MB
  expect(walBytes()).toBeLessThan(24 * megabyte);
  expect(statSync(t.store.path).size).toBeGreaterThan(20 * megabyte);
  expect(t.counters.get("store.checkpoints_failed")).toBe(0);
  const other = new Sqlite(t.store.path, { readonly: true });
  expect(other.prepare("SELECT count(*) FROM filling").pluck().get()).toBe(800);
  expect(other.pragma("integrity_check", { simple: true })).toBe("ok");
  other.close();
});

test("the log's file grows ahead of what is written, and not with each commit", async () => {
  const sizes = new Set<number>();
  const write = (): Promise<unknown> =>
    t.commit(({ db }) => db.$client.prepare("INSERT INTO filling (v) VALUES (randomblob(100))").run());
  await write();
  for (let n = 0; n < 200; n++) {
    await write();
    sizes.add(walBytes());
  }
  // 200 commits of a page or two.
  expect(Math.max(...sizes)).toBeGreaterThan(200 * 4_120);
  expect(sizes.size).toBeLessThan(40);
});

test("whoever reads for long holds the log up, and loses nothing of what was there when it began", async () => {
  await fill(10);
  const other = new Sqlite(t.store.path, { readonly: true });
  other.exec("BEGIN");
  expect(other.prepare("SELECT count(*) FROM filling").pluck().get()).toBe(10);
  await fill(500);
  expect(other.prepare("SELECT count(*) FROM filling").pluck().get()).toBe(10);
  expect(walBytes()).toBeGreaterThan(48 * megabyte);
  other.close();
  await fill(300);
  // It begins anew at its start; the file is cut back to its limit then.
  expect(walBytes()).toBeLessThan(33 * megabyte);
  expect(t.read(({ db }) => db.$client.prepare("SELECT count(*) FROM filling").pluck().get())).toBe(810);
});

test("nothing of the store stays open when it is closed", async () => {
  const { path } = t.store;
  await fill(50);
  await t.store.close();
  const open = readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return []; // the one that lists them
    }
  });
  expect(open.filter((file) => file.startsWith(path))).toEqual([]);
});
