import { execFileSync, spawn } from "node:child_process";
import { statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { bundleCapBytes } from "../../build.mjs";
import { copyDataset, openDataset } from "./dataset.ts";
import { bundle, endWith, makeFolder, startGateway } from "./processes.ts";
import { atMost, inform, median, type Figure } from "./report.ts";
import { makeStore } from "./store.ts";

// What the gateway takes while nothing happens, and how soon it is there, beside Node itself; it knows a thousand devices
// with three sensors each.

const devices = 1_000;
const sensorsOfDevice = 3;

const rounds = 5;
const settleMs = 1_500;

const bareServer = `
  require("node:http").createServer((_, response) => response.end("ok"))
    .listen(0, "127.0.0.1", function () { console.log(this.address().port); });
`;

const readMemory = (pid: number): number =>
  (Number(execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" })) * 1_024) / 1e6;

interface Sample {
  ms: number;
  megabytes: number;
}

async function measureGateway(folder: string): Promise<Sample> {
  const start = performance.now();
  await using gateway = await startGateway(folder);
  const { ok } = await fetch(`${gateway.url}/health`);
  const ms = performance.now() - start;
  if (!ok) throw new Error("not healthy");
  await sleep(settleMs);
  return { ms, megabytes: readMemory(gateway.child.pid as number) };
}

async function measureNode(): Promise<Sample> {
  const start = performance.now();
  const child = spawn(process.execPath, ["-e", bareServer], { stdio: ["ignore", "pipe", "inherit"] });
  await using node = endWith(child);
  const port = await new Promise<string>((resolve) =>
    child.stdout.once("data", (data: Buffer) => resolve(data.toString().trim())),
  );
  await fetch(`http://127.0.0.1:${port}/health`);
  const ms = performance.now() - start;
  await sleep(settleMs);
  return { ms, megabytes: readMemory(node.child.pid as number) };
}

export async function measureFootprint(): Promise<Figure[]> {
  using empty = makeFolder();
  using folder = makeFolder();
  using largeFolder = makeFolder();
  await fetch("data:,"); // loads fetch
  const first = await measureGateway(empty.path);
  await makeStore(folder.path, sensorsOfDevice * devices, 10, { sensorsOfDevice });
  await measureGateway(folder.path); // sums up what is new
  const ours: Sample[] = [];
  const bare: Sample[] = [];
  for (let round = 0; round < rounds; round++) {
    ours.push(await measureGateway(folder.path));
    bare.push(await measureNode());
  }
  const large: Sample[] = [];
  copyDataset(await openDataset({ sensors: 100, days: 365 }), largeFolder.path);
  for (let round = 0; round < 3; round++) large.push(await measureGateway(largeFolder.path));
  const of = (samples: Sample[], key: keyof Sample): number => median(samples.map((sample) => sample[key]));
  const more = (key: keyof Sample): number => of(ours, key) - of(bare, key);
  return [
    inform(`footprint: idle memory, ${devices.toLocaleString("en")} devices`, of(ours, "megabytes"), "MB"),
    inform("footprint: idle memory, an empty store", first.megabytes, "MB"),
    inform("footprint: idle memory, 10,000,000 readings", of(large, "megabytes"), "MB"),
    inform("footprint: idle memory of bare Node", of(bare, "megabytes"), "MB"),
    atMost("footprint: idle memory − bare Node", more("megabytes"), 60, "MB"),
    inform("footprint: start to first answer", of(ours, "ms"), "ms"),
    inform("footprint: the first start, with a new store", first.ms, "ms"),
    inform("footprint: start to first answer, 10,000,000 readings", of(large, "ms"), "ms"),
    inform("footprint: start to first answer of bare Node", of(bare, "ms"), "ms"),
    atMost("footprint: start to first answer − bare Node", more("ms"), 250, "ms"),
    atMost("footprint: the bundle", statSync(bundle).size / 1e6, bundleCapBytes / 1e6, "MB"),
  ];
}
