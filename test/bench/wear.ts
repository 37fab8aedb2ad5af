import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import Sqlite from "better-sqlite3";
import { copyDataset, openDataset } from "./dataset.ts";
import { startMosquitto } from "./mosquitto.ts";
import { makeFolder, startGateway, startLoad, startScript, type Program } from "./processes.ts";
import { inform, type Figure } from "./report.ts";
import { makeStore } from "./store.ts";

// Bytes that reach the disk for a stored reading, as the kernel counts them for each process: pages made dirty, so that
// four bytes in a page count the whole of it. A process is counted up to its end, which carries the write-ahead log over.

const runs = [
  { perSecond: 1, seconds: 20 },
  { perSecond: 10, seconds: 20 },
  { perSecond: 100, seconds: 20 },
  { perSecond: 1_000, seconds: 10 },
];
const topic = "lambdaiot";
/** After the start, until what it writes of itself is written. */
const settleMs = 1_500;

const writtenBy = (pid: number | "self"): number =>
  Number(/^write_bytes: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, "utf8"))?.[1]);

/**
 * Ends a process, and tells what it has written in all. The kernel adds a child's count to its parent's when the child is
 * gone; the parent writes nothing meanwhile.
 */
async function endAndCount(program: Program): Promise<number> {
  const before = writtenBy("self");
  await program[Symbol.asyncDispose]();
  return writtenBy("self") - before;
}

interface Stack {
  port: number;
  programs: Program[];
}

/** Bytes that a stack has written for each of `messages` readings. */
async function countBytes({ port, programs }: Stack, run: (typeof runs)[0], sensorIds: string[]): Promise<number> {
  const { perSecond, seconds } = run;
  await using load = await startLoad();
  await sleep(settleMs);
  const pids = programs.map(({ child }) => child.pid as number);
  const before = pids.map(writtenBy);
  const messages = perSecond * seconds;
  const order = { topic, connections: Math.min(10, perSecond), inFlight: 100, messages, perSecond, sensorIds };
  await load.run({ ...order, port, isTimed: true, firstValue: 0 });
  await sleep(settleMs);
  let bytes = 0;
  for (const [i, program] of programs.entries())
    bytes += await queue.run(async () => (await endAndCount(program)) - (before[i] as number));
  return bytes / messages;
}

/** What a process wrote is told apart from what others did only if one ends at a time. */
const queue = (() => {
  let last: Promise<unknown> = Promise.resolve();
  return {
    run<T>(work: () => Promise<T>): Promise<T> {
      const result = last.then(work);
      last = result.catch(() => undefined);
      return result;
    },
  };
})();

async function countOurs(run: (typeof runs)[0]): Promise<number> {
  using folder = makeFolder();
  const sensorIds = await queue.run(() => makeStore(folder.path, 100));
  await using gateway = await startGateway(folder.path);
  return await countBytes({ port: gateway.mqttPort, programs: [gateway] }, run, sensorIds);
}

async function countUsual(run: (typeof runs)[0]): Promise<number | undefined> {
  using folder = makeFolder();
  await using mosquitto = await startMosquitto(folder.path);
  if (mosquitto === undefined) return undefined;
  const { port } = mosquitto;
  await using subscriber = await startScript("subscriber.ts", [
    `mqtt://127.0.0.1:${port}`,
    topic,
    `${folder.path}/subscriber.db`,
  ]);
  const sensorIds = Array.from({ length: 100 }, () => crypto.randomUUID());
  return await countBytes({ port, programs: [subscriber, mosquitto] }, run, sensorIds);
}

/** What sealing adds, once for each reading: a store where it is due, until it is done. */
async function countSealing(): Promise<number> {
  using folder = makeFolder();
  copyDataset(await openDataset({ sensors: 100, days: 36.5, waiting: 140_000 }), folder.path);
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
  return (await queue.run(() => endAndCount(gateway))) / (before - after);
}

export async function measureWear(): Promise<Figure[]> {
  if (process.platform !== "linux") return [{ what: "wear: the kernel does not count it here", measured: "skipped" }];
  const sealing = await countSealing();
  const figures = [inform("wear: written once for each reading when it is sealed, included below", sealing, "B")];
  const measure = async (run: (typeof runs)[0]): Promise<Figure[]> => {
    const [ours, usual] = await Promise.all([countOurs(run), countUsual(run)]);
    const rows = [inform(`wear: a reading at ${run.perSecond.toLocaleString("en")}/s`, ours + sealing, "B")];
    if (usual !== undefined)
      rows.push(
        inform(`wear: mosquitto + Node subscriber + SQLite at ${run.perSecond.toLocaleString("en")}/s`, usual, "B"),
      );
    return rows;
  };
  // Slow ones leave the machine to each other; the fastest has it to itself.
  const slow = await Promise.all(runs.slice(0, -1).map(measure));
  return [...figures, ...slow.flat(), ...(await measure(runs.at(-1) as (typeof runs)[0]))];
}
