import { execFileSync, spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { endWith, makeFolder, startGateway } from "./processes.ts";
import { median, type Figure } from "./report.ts";

// What the gateway takes while nothing happens, and how soon it is there, beside Node itself.

const rounds = 5;
const settleMs = 1_500;

const bareServer = `
  require("node:http").createServer((_, response) => response.end("ok"))
    .listen(0, "127.0.0.1", function () { console.log(this.address().port); });
`;

const readMemory = (pid: number): number =>
  Number(execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" })) / 1_024;

interface Sample {
  ms: number;
  mebibytes: number;
}

async function measureGateway(folder: string): Promise<Sample> {
  const start = performance.now();
  await using gateway = await startGateway(folder);
  const { ok } = await fetch(`${gateway.url}/health`);
  const ms = performance.now() - start;
  if (!ok) throw new Error("not healthy");
  await sleep(settleMs);
  return { ms, mebibytes: readMemory(gateway.child.pid as number) };
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
  return { ms, mebibytes: readMemory(node.child.pid as number) };
}

export async function measureFootprint(): Promise<Figure[]> {
  using folder = makeFolder();
  await fetch("data:,"); // loads fetch
  const first = await measureGateway(folder.path);
  const ours: Sample[] = [];
  const bare: Sample[] = [];
  for (let round = 0; round < rounds; round++) {
    ours.push(await measureGateway(folder.path));
    bare.push(await measureNode());
  }
  const of = (samples: Sample[], key: keyof Sample): number => median(samples.map((sample) => sample[key]));
  return [
    { what: "footprint: idle memory", measured: `${of(ours, "mebibytes").toFixed(0)} MiB` },
    { what: "footprint: idle memory of bare Node", measured: `${of(bare, "mebibytes").toFixed(0)} MiB` },
    { what: "footprint: start to first answer", measured: `${of(ours, "ms").toFixed(0)} ms` },
    { what: "footprint: the first start, with a new store", measured: `${first.ms.toFixed(0)} ms` },
    { what: "footprint: start to first answer of bare Node", measured: `${of(bare, "ms").toFixed(0)} ms` },
  ];
}
