import { closeSync, fdatasyncSync, openSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "./client.ts";
import { makeFolder, startGateway, startLoad, startScript } from "./processes.ts";
import { atMost, median, quantile, type Figure } from "./report.ts";
import { logIn } from "./rest.ts";
import { slowDown } from "./slow-disk.ts";
import { makeStore } from "./store.ts";

// One device that waits for each PUBACK, beside what the disk needs for its part of it; and what a disk as slow as an SD
// card does to everybody else.

/** Many and short: the disk's mood changes within a second. */
const rounds = 20;
const messagesOfRound = 100;
const warmUps = 10;

/** A frame of the write-ahead log: a page and its header. */
const frameBytes = 4_096 + 24;
/** SQLite begins the log anew after so many, so most commits write over what is there already. */
const framesOfLog = 1_000;

/** Writes frames as commits do, one after the other, and waits for the disk each time. @returns milliseconds of the waits */
function openDisk(folder: string): Disposable & { measure(): number[] } {
  const file = openSync(`${folder}/frames`, "w");
  writeSync(file, Buffer.alloc(framesOfLog * frameBytes, 1));
  fdatasyncSync(file);
  const frame = Buffer.alloc(frameBytes, 2);
  let next = 0;
  return {
    measure: () =>
      Array.from({ length: messagesOfRound }, () => {
        writeSync(file, frame, 0, frameBytes, (next++ % framesOfLog) * frameBytes);
        const start = performance.now();
        fdatasyncSync(file);
        return performance.now() - start;
      }),
    [Symbol.dispose]: () => closeSync(file),
  };
}

const show = (what: string, latencies: number[]): Figure => ({
  what,
  measured: `${quantile(latencies, 0.5).toFixed(2)} / ${quantile(latencies, 0.99).toFixed(2)} ms`,
});

async function measureQuickDisk(): Promise<Figure[]> {
  using folder = makeFolder();
  const sensorIds = await makeStore(folder.path, 1);
  await using gateway = await startGateway(folder.path);
  await using aedes = await startScript("bare-aedes.ts");
  await using load = await startLoad();
  using disk = openDisk(folder.path);
  const waits: number[] = [];
  const pubacks: number[] = [];
  const bare: number[] = [];
  const ratios: number[] = [];
  // The first rounds are for the compilers to warm up, and for the log to reach its size.
  for (let round = -warmUps; round < rounds; round++) {
    const order = {
      topic: "lambdaiot",
      connections: 1,
      inFlight: 1,
      messages: messagesOfRound,
      sensorIds,
      isTimed: true,
      firstValue: (round + warmUps) * messagesOfRound,
    };
    const { latencies } = await load.run({ ...order, port: gateway.mqttPort });
    const ofBare = await load.run({ ...order, port: aedes.hello });
    const ofDisk = disk.measure();
    if (round < 0) continue;
    pubacks.push(...latencies);
    waits.push(...ofDisk);
    bare.push(...ofBare.latencies);
    ratios.push(quantile(latencies, 0.5) / quantile(ofDisk, 0.5));
  }
  return [
    show("latency: PUBLISH to PUBACK, p50 / p99", pubacks),
    show("latency: one fdatasync after as many bytes, p50 / p99", waits),
    show("latency: PUBLISH to PUBACK of bare Aedes, p50 / p99", bare),
    atMost("latency: PUBACK ÷ fdatasync, p50", median(ratios), 1.5),
  ];
}

const slowMs = 30;
const readingsPerSecond = 500;
/** The gateway tells of the last five seconds, and the first ones are for the compilers. */
const windowMs = 5_000;
const windows = 3;
const readEveryMs = 20;
/** One after the other, before the many. */
const messagesAlone = 100;

const loopLag = (metrics: string): number =>
  1_000 * Number(/^nodejs_eventloop_lag_p99_seconds (\S+)$/m.exec(metrics)?.[1]);

async function measureSlowDisk(): Promise<Figure[]> {
  const slow = slowDown(slowMs);
  if ("reason" in slow) return [{ what: "latency: on a slow disk", measured: `skipped: ${slow.reason}` }];

  using folder = makeFolder();
  const sensorIds = await makeStore(folder.path, 100, 1_000);
  await using gateway = await startGateway(folder.path, slow);
  await using load = await startLoad();
  using client = createClient(gateway.url, await logIn(gateway.url));
  const order = { port: gateway.mqttPort, topic: "lambdaiot", sensorIds, isTimed: true };
  const alone = await load.run({ ...order, connections: 1, inFlight: 1, messages: messagesAlone, firstValue: 0 });
  const messages = (readingsPerSecond * (windows + 1) * windowMs) / 1_000;
  const many = { connections: 10, inFlight: 100, perSecond: readingsPerSecond };
  const running = load.run({ ...order, ...many, messages, firstValue: messagesAlone });
  const reads: number[] = [];
  const lags: number[] = [];
  const begin = performance.now();
  for (let window = 0; window <= windows; window++) {
    const ofWindow: number[] = [];
    for (let i = 0; performance.now() < begin + (window + 1) * windowMs - 100; i++) {
      const { ms } = await client.get(`/sensor-readings?sensor_id=${sensorIds[i % sensorIds.length]}&limit=100`);
      ofWindow.push(ms);
      await sleep(Math.max(0, readEveryMs - ms));
    }
    if (window === 0) continue;
    reads.push(...ofWindow);
    lags.push(loopLag((await client.get("/metrics")).body));
  }
  const { latencies } = await running;
  const on = `with fsync at ${slowMs} ms`;
  return [
    atMost(`latency: PUBACK ÷ fdatasync ${on}, p50`, quantile(alone.latencies, 0.5) / slowMs, 1.5),
    show(`latency: PUBACK ${on}, ${readingsPerSecond} readings/s, p50 / p99`, latencies),
    atMost(`latency: event loop late ${on}, p99`, Math.max(...lags), 10, "ms"),
    atMost(`latency: REST read of 100 ${on}, p99`, quantile(reads, 0.99), 20, "ms"),
  ];
}

export const measureLatency = async (): Promise<Figure[]> => [
  ...(await measureQuickDisk()),
  ...(await measureSlowDisk()),
];
