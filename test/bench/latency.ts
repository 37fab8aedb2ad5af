import { closeSync, fdatasyncSync, openSync, writeSync } from "node:fs";
import { makeFolder, startGateway, startLoad } from "./processes.ts";
import { quantile, type Figure } from "./report.ts";
import { makeStore } from "./store.ts";

// One device that waits for each PUBACK, beside what the disk needs for its part of it.

const messages = 1_500;

function measureDisk(folder: string): number[] {
  const file = openSync(`${folder}/append`, "w");
  const page = Buffer.alloc(4_096, 1);
  const latencies: number[] = [];
  for (let i = 0; i < messages; i++) {
    writeSync(file, page);
    const start = performance.now();
    fdatasyncSync(file);
    latencies.push(performance.now() - start);
  }
  closeSync(file);
  return latencies;
}

const figure = (what: string, latencies: number[]): Figure => ({
  what,
  measured: `${quantile(latencies, 0.5).toFixed(2)} / ${quantile(latencies, 0.99).toFixed(2)} ms`,
});

export async function measureLatency(): Promise<Figure[]> {
  using folder = makeFolder();
  const sensorIds = await makeStore(folder.path, 1);
  await using gateway = await startGateway(folder.path);
  await using load = await startLoad();
  const order = { port: gateway.mqttPort, topic: "lambdaiot", connections: 1, inFlight: 1, messages, sensorIds };
  await load.run({ ...order, isTimed: true, firstValue: 0 });
  const { latencies } = await load.run({ ...order, isTimed: true, firstValue: messages });
  return [
    figure("latency: PUBLISH to PUBACK, p50 / p99", latencies),
    figure("latency: one fdatasync after 4 KiB, p50 / p99", measureDisk(folder.path)),
  ];
}
