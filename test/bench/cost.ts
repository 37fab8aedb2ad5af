import { fileURLToPath } from "node:url";
import { build, type BuildOptions, type Plugin } from "esbuild";
import { bundleOptions, hostTarget } from "../../build.mjs";
import type { LoadOrder } from "./load.ts";
import { makeFolder, startGateway, startLoad, type Gateway } from "./processes.ts";
import { rate, ratio, type Figure } from "./report.ts";
import { logIn } from "./rest.ts";
import { makeStore } from "./store.ts";

// What identities, topic rules, the gate and the persistence cost: the ingest rate of devices with tokens and sessions to
// keep, beside that of a gateway from the same sources without all that.

const rounds = 7;
const messages = 40_000;
const devices = 10;

const replaced = /^\.\/mqtt\/(?:gate|acl|login|persistence)\.ts$/;

/** Builds the gateway with `plain.ts` in place of the four modules. */
async function buildPlain(folder: string): Promise<string> {
  const outfile = `${folder}/plain.mjs`;
  const plain: Plugin = {
    name: "plain",
    setup({ onResolve }) {
      onResolve({ filter: replaced }, () => ({ path: fileURLToPath(new URL("plain.ts", import.meta.url)) }));
    },
  };
  const options = bundleOptions([hostTarget]) as BuildOptions;
  await build({ ...options, outfile, plugins: [plain, ...(options.plugins ?? [])] });
  return outfile;
}

type Parties = Pick<LoadOrder, "sensorIds" | "logins">;

/** The store's devices, a token for each where wanted, and their sensors in the order in which connections get them. */
export async function readParties({ url }: Gateway, hasTokens: boolean): Promise<Parties> {
  const headers = { Authorization: `Bearer ${await logIn(url)}` };
  const sensors = (await (await fetch(`${url}/sensors`, { headers })).json()) as { id: string; device_id: string }[];
  const byDevice = Map.groupBy(sensors, ({ device_id }) => device_id);
  const logins: { username: string; password: string }[] = [];
  for (const username of hasTokens ? byDevice.keys() : []) {
    const response = await fetch(`${url}/v1/devices/${username}/token`, { method: "POST", headers });
    logins.push({ username, password: ((await response.json()) as { token: string }).token });
  }
  const lists = [...byDevice.values()];
  const sensorIds = sensors.map((_, n) => lists[n % devices]?.[Math.floor(n / devices)]?.id as string);
  return { sensorIds, logins: hasTokens ? logins : undefined };
}

export async function measureCost(): Promise<Figure[]> {
  using folder = makeFolder();
  using plainFolder = makeFolder();
  await makeStore(folder.path, 10 * devices);
  await makeStore(plainFolder.path, 10 * devices);
  await using gateway = await startGateway(folder.path);
  await using plain = await startGateway(plainFolder.path, { file: await buildPlain(plainFolder.path) });
  await using load = await startLoad();
  const parties = { ours: await readParties(gateway, true), plain: await readParties(plain, false) };

  let firstValue = 0;
  const run = async (port: number, { sensorIds, logins }: Parties): Promise<number> => {
    const order = { topic: "lambdaiot", connections: devices, inFlight: 100, messages, isTimed: true, isKept: true };
    const { seconds } = await load.run({ ...order, port, sensorIds, logins, firstValue });
    firstValue += messages;
    return messages / seconds;
  };
  const ours: number[] = [];
  const without: number[] = [];
  // The first rounds are for the compilers to warm up.
  for (let round = -1; round <= rounds; round++) {
    const rates = [await run(gateway.mqttPort, parties.ours), await run(plain.mqttPort, parties.plain)] as const;
    if (round <= 0) continue;
    ours.push(rates[0]);
    without.push(rates[1]);
  }
  // What would not be stored would cost nothing.
  for (const { url } of [gateway, plain]) {
    const headers = { Authorization: `Bearer ${await logIn(url)}` };
    const readings = (await (await fetch(`${url}/sensor-readings?limit=100`, { headers })).json()) as unknown[];
    if (readings.length !== 100) throw new Error("the readings were not stored");
  }
  return [
    rate("cost: ingest with identities, rules, gate, persistence", ours, "/s"),
    rate("cost: the same gateway without them", without, "/s"),
    ratio("cost: with ÷ without", ours, without, 0.85),
  ];
}
