import { closeSync, openSync, readdirSync, readFileSync, statSync, writeSync } from "node:fs";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import Sqlite from "better-sqlite3";
import { readingsOfEach } from "../../src/core/rounds.ts";
import { createReadings } from "../../src/store/readings.ts";
import { openDataset } from "./dataset.ts";
import { startMosquitto } from "./mosquitto.ts";
import { makeFolder, startGateway, startLoad, startScript, type Program } from "./processes.ts";
import { inform, type Figure } from "./report.ts";
import { slowDown } from "./slow-disk.ts";
import { makeStore } from "./store.ts";

// Bytes that reach the disk for a stored reading, as the kernel counts them for each process: pages made dirty, so that
// four bytes in a page count the whole of it. What comes with each reading is counted while readings come at a steady rate;
// what comes seldom is counted for its share of them.

interface Run {
  perSecond: number;
  seconds: number;
  /** How long each wait for the disk takes; absent: as long as it does here. */
  syncMs?: number;
}

/** A minute: what is written once a minute is in it once. */
const slowRuns: Run[] = [1, 10, 100].map((perSecond) => ({ perSecond, seconds: 60 }));
const fastRuns: Run[] = [
  { perSecond: 1_000, seconds: 10 },
  { perSecond: 1_000, seconds: 10, syncMs: 10 },
];
const topic = "lambdaiot";
const sensors = 100;
const firstTime = Date.parse("2026-01-14T10:00:00Z");
/** After the start, until what it writes of itself is written. */
const settleMs = 1_500;

/** How many pages of the log are carried over at a time: `database.max_wal`, and SQLite's own limit. */
const pagesOfLog = { ours: 4_096, usual: 1_000 };

const writtenBy = (pid: number | "self"): number =>
  Number(/^write_bytes: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, "utf8"))?.[1]);

/** What a process wrote is told apart from what others did only if one ends at a time. */
const queue = (() => {
  let last: Promise<unknown> = Promise.resolve();
  return {
    run<T>(work: () => T | Promise<T>): Promise<T> {
      const result = last.then(work);
      last = result.catch(() => undefined);
      return result;
    },
  };
})();

/**
 * Ends a process, and tells what it has written in all. The kernel adds a child's count to its parent's when the child is
 * gone; the parent writes nothing meanwhile.
 */
const endAndCount = (program: Program): Promise<number> =>
  queue.run(async () => {
    const before = writtenBy("self");
    await program[Symbol.asyncDispose]();
    return writtenBy("self") - before;
  });

interface Stack {
  port: number;
  programs: Program[];
  /** The store, of which `pagesOfLog` are carried over at a time. */
  path: string;
  pagesOfLog: number;
  sensorIds: string[];
  firstValue: number;
}

/** How much of what is carried over at a time the log has gathered. */
function readFill({ path, pagesOfLog }: Stack): number {
  const sqlite = new Sqlite(path);
  const [{ log, checkpointed }] = sqlite.pragma("wal_checkpoint(NOOP)") as [{ log: number; checkpointed: number }];
  sqlite.close();
  return (log - checkpointed) / pagesOfLog;
}

/** Bytes that a stack has written for each reading. Ends it. */
async function countBytes(stack: Stack, { perSecond, seconds }: Run): Promise<number> {
  const { port, programs, sensorIds, firstValue } = stack;
  await using load = await startLoad();
  await sleep(settleMs);
  const count = (): number => programs.reduce((sum, { child }) => sum + writtenBy(child.pid as number), 0);
  const before = count();
  const messages = perSecond * seconds;
  const order = { port, topic, connections: Math.min(10, perSecond), inFlight: 100, messages, perSecond, sensorIds };
  await load.run({ ...order, isTimed: true, firstValue });
  await sleep(settleMs);
  const after = count();
  const share = await queue.run(() => readFill(stack));
  let atEnd = -after;
  for (const program of programs) atEnd += await endAndCount(program);
  // A stop carries the log over, however little there is in it.
  return (after - before + atEnd * share) / messages;
}

/**
 * A copy, written page by page: of what is written in one piece, the kernel counts all as written when a part of it
 * changes later on.
 */
function copyByPages(from: string, to: string): void {
  const pageBytes = 4_096;
  const bytes = readFileSync(from);
  const file = openSync(to, "w", 0o600);
  for (let at = 0; at < bytes.length; at += pageBytes)
    writeSync(file, bytes, at, Math.min(pageBytes, bytes.length - at), at);
  closeSync(file);
}

function copyFolder(from: string, to: string): void {
  for (const name of readdirSync(from))
    if (statSync(`${from}/${name}`).isFile()) copyByPages(`${from}/${name}`, `${to}/${name}`);
}

interface Prepared {
  path: string;
  sensorIds: string[];
  firstValue: number;
}

/** A store whose log has been carried over once, and has the length that it keeps. */
async function prepareOurs(folder: string): Promise<Prepared> {
  const sensorIds = await makeStore(folder, sensors);
  const { child, mqttPort: port } = await startGateway(folder);
  await using load = await startLoad();
  // One by one, so that each is a page of the log.
  const messages = pagesOfLog.ours + 100;
  await load.run({ port, topic, connections: 1, inFlight: 1, messages, sensorIds, isTimed: true, firstValue: 0 });
  child.kill("SIGKILL"); // or the log would be gone
  await once(child, "exit");
  return { path: folder, sensorIds, firstValue: messages };
}

/** A file with readings of some weeks already: as in operation, each sensor's are in a page of the index of their own. */
function prepareUsual(folder: string): Prepared {
  const sensorIds = Array.from({ length: sensors }, () => crypto.randomUUID());
  const sqlite = new Sqlite(`${folder}/subscriber.db`);
  sqlite.exec(
    `CREATE TABLE readings (id INTEGER PRIMARY KEY, sensor_id TEXT NOT NULL, value_at TEXT NOT NULL, value REAL NOT NULL);
     CREATE INDEX readings_sensor_time ON readings (sensor_id, value_at)`,
  );
  const insert = sqlite.prepare("INSERT INTO readings (sensor_id, value_at, value) VALUES (?, ?, ?)");
  const ofEach = 2_000;
  sqlite.transaction(() => {
    for (let i = 0; i < ofEach; i++) {
      const at = new Date(firstTime - (ofEach - i) * 600_000).toISOString();
      for (const id of sensorIds) insert.run(id, at, 20 + (i % 100) / 100);
    }
  })();
  sqlite.close();
  return { path: folder, sensorIds, firstValue: 0 };
}

/** What slows a run's programs down, if anything. */
function byOf({ syncMs }: Run): string[] {
  const slow = syncMs === undefined ? { by: [] } : slowDown(syncMs);
  return "by" in slow ? slow.by : [];
}

async function countOurs({ path, ...prepared }: Prepared, run: Run): Promise<number> {
  using folder = makeFolder();
  await queue.run(() => copyFolder(path, folder.path));
  await using gateway = await startGateway(folder.path, { by: byOf(run) });
  const stack = { port: gateway.mqttPort, programs: [gateway], path: `${folder.path}/lambdaiot.db` };
  return await countBytes({ ...stack, ...prepared, pagesOfLog: pagesOfLog.ours }, run);
}

async function countUsual({ path, ...prepared }: Prepared, run: Run): Promise<number | undefined> {
  using folder = makeFolder();
  await queue.run(() => copyFolder(path, folder.path));
  await using mosquitto = await startMosquitto(folder.path);
  if (mosquitto === undefined) return undefined;
  const { port } = mosquitto;
  const file = `${folder.path}/subscriber.db`;
  await using subscriber = await startScript("subscriber.ts", [`mqtt://127.0.0.1:${port}`, topic, file], {
    by: byOf(run),
  });
  const stack = { port, programs: [subscriber, mosquitto], path: file };
  return await countBytes({ ...stack, ...prepared, pagesOfLog: pagesOfLog.usual }, run);
}

/** What sealing adds, once for each reading: a store where it is due, until it is done. */
async function countSealing(): Promise<number> {
  using folder = makeFolder();
  copyByPages((await openDataset({ sensors, days: 36.5, waiting: 140_000 })).path, `${folder.path}/lambdaiot.db`);
  const sqlite = new Sqlite(`${folder.path}/lambdaiot.db`, { readonly: true });
  const count = sqlite.prepare<[], number>("SELECT sum(count) FROM arrivals").pluck();
  const before = count.get() as number;
  await using gateway = await startGateway(folder.path);
  let after = before;
  for (let last = -1; after === before || after !== last;) {
    last = after;
    await sleep(1_000);
    after = count.get() as number;
  }
  sqlite.close();
  return (await endAndCount(gateway)) / (before - after);
}

/** What a round of sums writes, of sensors with a month behind them: what a start does with them, and what without. */
async function countSums(): Promise<number> {
  const dataset = await openDataset({ sensors, days: 36.5, waiting: 0 });
  const start = async (readings: number): Promise<number> => {
    using folder = makeFolder();
    copyByPages(dataset.path, `${folder.path}/lambdaiot.db`);
    const lastId = addReadings(`${folder.path}/lambdaiot.db`, readings);
    await using gateway = await startGateway(folder.path);
    const sqlite = new Sqlite(`${folder.path}/lambdaiot.db`, { readonly: true });
    const done = sqlite.prepare<[], number>("SELECT value FROM progress WHERE name = 'rollups'").pluck();
    while ((done.get() ?? 0) < lastId) await sleep(100);
    await sleep(settleMs);
    sqlite.close();
    return await endAndCount(gateway);
  };
  return (await start(readingsOfEach)) - (await start(0));
}

/** Readings of this hour that are in no sum yet. @returns the last one's id */
function addReadings(path: string, ofEach: number): number {
  const sqlite = new Sqlite(path);
  const readings = createReadings(sqlite);
  const pks = sqlite.prepare<[], number>("SELECT pk FROM sensors").pluck().all();
  sqlite.transaction(() => {
    for (let i = 0; i < ofEach; i++)
      for (const pk of pks) readings.append(pk, firstTime + i * 10_000, 20 + (i % 100) / 100);
    readings.beforeCommit();
  })();
  sqlite.close();
  return readings.lastId();
}

/** An hour that ends amid a run would count in full. */
async function untilHourLasts(ms: number): Promise<void> {
  const hourMs = 3_600_000;
  const left = hourMs - (Date.now() % hourMs);
  if (left < ms) await sleep(left + settleMs);
}

export async function measureWear(): Promise<Figure[]> {
  if (process.platform !== "linux") return [{ what: "wear: the kernel does not count it here", measured: "skipped" }];
  const sealing = await countSealing();
  const sums = await countSums();
  const perRound = readingsOfEach * sensors;
  const figures = [
    inform("wear: written once for each reading when it is sealed, included below", sealing, "B"),
    inform(
      `wear: sums of ${sensors} sensors, each hour or ${perRound.toLocaleString("en")} readings, included below`,
      sums / 1_000,
      "kB",
    ),
  ];
  using ourFolder = makeFolder();
  using usualFolder = makeFolder();
  const ours = await prepareOurs(ourFolder.path);
  const usual = prepareUsual(usualFolder.path);

  const measure = async (run: Run): Promise<Figure[]> => {
    const { perSecond, seconds, syncMs } = run;
    const at = `${perSecond.toLocaleString("en")}/s${syncMs === undefined ? "" : `, an fdatasync taking ${syncMs} ms`}`;
    const slow = syncMs === undefined ? { by: [] } : slowDown(syncMs);
    if ("reason" in slow) return [{ what: `wear: a reading at ${at}`, measured: `skipped: ${slow.reason}` }];
    await untilHourLasts((seconds + 15) * 1_000);
    const [own, others] = await Promise.all([countOurs(ours, run), countUsual(usual, run)]);
    const rare = sealing + sums / Math.min(perRound, perSecond * 3_600);
    const rows = [inform(`wear: a reading at ${at}`, own + rare, "B")];
    if (others !== undefined) rows.push(inform(`wear: mosquitto + Node subscriber + SQLite at ${at}`, others, "B"));
    return rows;
  };
  // Slow ones leave the machine to each other; a fast one has it to itself.
  figures.push(...(await Promise.all(slowRuns.map(measure))).flat());
  for (const run of fastRuns) figures.push(...(await measure(run)));
  return figures;
}
