import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { Agent, get } from "node:http";
import { makeFolder, receive, startGateway, startScript } from "./processes.ts";
import { rate, ratio, type Figure } from "./report.ts";
import { makeStore, untilRolledUp } from "./store.ts";

// Reads of the newest 100 readings of a sensor out of a million, with a token, over keep-alive connections.

const connections = 16;

type Load = (url: string, token: string, seconds: number) => Promise<number>;

/** Requests per second by wrk, on one thread. */
const runWrk: Load = async (url, token, seconds) => {
  const args = ["-t1", `-c${connections}`, `-d${seconds}s`, "-H", `Authorization: Bearer ${token}`, url];
  const wrk = spawn("wrk", args, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  wrk.stdout.on("data", (chunk: Buffer) => void (output += chunk.toString()));
  await once(wrk, "close");
  const match = /Requests\/sec:\s+([\d.]+)/.exec(output);
  if (match === null || output.includes("Non-2xx")) throw new Error(`wrk failed:\n${output}`);
  return Number(match[1]);
};

/** The same where wrk is absent. It takes as much of the machine as what it measures, so ratios come out higher. */
const runClient: Load = async (url, token, seconds) => {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const end = performance.now() + seconds * 1_000;
  let answered = 0;
  const request = (): Promise<void> =>
    new Promise((resolve, reject) => {
      get(url, { agent, headers: { Authorization: `Bearer ${token}` } }, (response) => {
        if (response.statusCode !== 200) reject(new Error(`status ${response.statusCode}`));
        response.resume();
        response.once("end", resolve);
      }).once("error", reject);
    });
  const askOn = async (): Promise<void> => {
    while (performance.now() < end) {
      await request();
      answered += 1;
    }
  };
  await Promise.all(Array.from({ length: connections }, askOn));
  agent.destroy();
  return answered / seconds;
};

export async function logIn(url: string): Promise<string> {
  const post = (path: string): Promise<Response> =>
    fetch(url + path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ username: "bench", password: "bench-password" }),
    });
  await post("/register");
  return ((await (await post("/login")).json()) as { token: string }).token;
}

export async function measureRest({ rounds = 5, roundSeconds = 2, readingsOfEach = 10_000 } = {}): Promise<Figure[]> {
  const hasWrk = spawnSync("wrk", ["-v"]).error === undefined;
  const run = hasWrk ? runWrk : runClient;
  using folder = makeFolder();
  const sensorIds = await makeStore(folder.path, 100, readingsOfEach);
  await using gateway = await startGateway(folder.path);
  const token = await logIn(gateway.url);
  await untilRolledUp(folder.path);
  const path = `/sensor-readings?sensor_id=${sensorIds[42]}&limit=100`;
  const body = await (await fetch(gateway.url + path, { headers: { Authorization: `Bearer ${token}` } })).text();
  if ((JSON.parse(body) as unknown[]).length !== 100) throw new Error("not a hundred readings");

  await using hono = await startScript("bare-hono.ts");
  const listening = receive<number>(hono.child);
  hono.child.send(body);
  const honoUrl = `http://127.0.0.1:${await listening}`;

  const ours: number[] = [];
  const bare: number[] = [];
  // The first round is for the compilers to warm up.
  for (let round = 0; round <= rounds; round++) {
    const rates = [
      await run(gateway.url + path, token, roundSeconds),
      await run(honoUrl + path, token, roundSeconds),
    ] as const;
    if (round === 0) continue;
    ours.push(rates[0]);
    bare.push(rates[1]);
  }
  const by = hasWrk ? "wrk" : "a Node client, wrk is not installed";
  return [
    rate(`rest: 100 of ${(100 * readingsOfEach).toLocaleString("en")} readings (by ${by})`, ours, "/s"),
    rate(`rest: bare Hono, the same ${(body.length / 1_000).toFixed(1)} kB`, bare, "/s"),
    ratio("rest: readings ÷ bare Hono", ours, bare, 0.3),
  ];
}
