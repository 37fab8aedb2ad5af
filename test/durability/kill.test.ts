import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import Sqlite from "better-sqlite3";
import { afterAll, expect, test } from "vitest";
import { connectMqtt, logIn, until, type Api } from "../support/client.ts";
import { bundle, makeFolder, startBuiltGateway, testEnv, type BuiltGateway } from "../support/gateway.ts";
import { createRandom, seed } from "../support/random.ts";
import type { PublisherOptions } from "./publisher.ts";
import { readReadings } from "../support/stored.ts";

const topic = "lambdaiot";
const killsUnderLoad = 20;
const killsAtStart = 4;
const connections = 20;
const restLoops = 4;

const random = createRandom(seed);

const { folder, remove } = makeFolder();
let gateway: BuiltGateway | undefined;
afterAll(async () => {
  await gateway?.stop("SIGKILL");
  remove();
});

/** Announces a device with `count` sensors, and returns their ids. */
async function announce({ mqttUrl }: BuiltGateway, api: Api, count: number): Promise<string[]> {
  const client = await connectMqtt(mqttUrl);
  const sensors = Array.from({ length: count }, (_, i) => ({ name: `sensor ${i}`, type: "test", data_type_id: 2 }));
  const announcement = { mac_address: "02:00:00:00:00:01", device: { name: "fleet" }, sensors };
  await client.publishAsync(`${topic}/discovery`, JSON.stringify(announcement), { qos: 1 });
  await client.endAsync();
  const { body } = await api("GET", "/sensors");
  return (body as { id: string }[]).map(({ id }) => id);
}

function startPublisher(options: PublisherOptions) {
  const acknowledged = new Set<number>();
  const child = spawn(process.execPath, [join(import.meta.dirname, "publisher.ts"), JSON.stringify(options)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  let published: number | undefined;
  createInterface(child.stdout).on("line", (line) => {
    if (line.startsWith("published ")) published = Number(line.slice("published ".length));
    else acknowledged.add(Number(line));
  });
  return {
    acknowledged,
    /** Lets it have everything acknowledged. @returns how many it has published */
    async finish(): Promise<number> {
      const closed = once(child, "close");
      child.stdin.end();
      await closed;
      if (published === undefined) throw new Error("the publisher ended without its count");
      return published;
    },
    kill: () => child.kill("SIGKILL"),
  };
}

/**
 * Users that send one reading after the other, half of them with a time of its own. One with a time is sent again until it
 * is answered: the same sensor, time and value is the same reading. One without would be another, and is given up.
 */
function startRestLoops(api: Api, sensorIds: string[]) {
  const created = new Map<number, number>();
  const refused: unknown[] = [];
  const stopping = new AbortController();
  const loops = Array.from({ length: restLoops }, async (_, loop) => {
    for (let count = 0; !stopping.signal.aborted; count++) {
      const value = -(loop * 1_000_000 + count) - 0.25;
      const reading = {
        sensor_id: sensorIds[loop],
        value,
        ...(count % 2 === 1 && { value_at: new Date().toISOString() }),
      };
      for (let isDone = false; !isDone && !stopping.signal.aborted;) {
        // undefined: no answer, the gateway is gone
        const answer = await api("POST", "/sensor-readings", reading).catch(() => undefined);
        if (answer?.status === 201) created.set(answer.body.id as number, value);
        else if (answer !== undefined) refused.push(answer);
        isDone = answer !== undefined || reading.value_at === undefined;
        if (answer === undefined) await sleep(20);
      }
      await sleep(2);
    }
  });
  return {
    created,
    refused,
    async stop() {
      stopping.abort();
      await Promise.all(loops);
    },
  };
}

interface Stored {
  integrity: unknown;
  /** By id. */
  values: Map<number, number>;
  twice: number[];
}

/** What the store holds, as any other program would see it. */
function look(path: string): Stored {
  const sqlite = new Sqlite(path, { readonly: true });
  try {
    const rows = readReadings(path);
    const times = Map.groupBy(rows, ({ value }) => value);
    return {
      integrity: sqlite.pragma("integrity_check", { simple: true }),
      values: new Map(rows.map(({ id, value }) => [id, value])),
      twice: [...times].filter(([, same]) => same.length > 1).map(([value]) => value),
    };
  } finally {
    sqlite.close();
  }
}

function countBlocks(path: string): unknown {
  const sqlite = new Sqlite(path, { readonly: true });
  try {
    return sqlite.prepare("SELECT count(*) FROM blocks").pluck().get();
  } finally {
    sqlite.close();
  }
}

/** Starts the gateway and kills it before it says anything, wherever it is by then. */
async function killAtStart(env: Record<string, string>): Promise<void> {
  const child = spawn(process.execPath, [bundle], {
    cwd: folder,
    env: { ...testEnv, LAMBDAIOT_DATABASE_PATH: join(folder, "lambdaiot.db"), ...env },
    stdio: "ignore",
  });
  const exited = once(child, "exit");
  await sleep(50 + random() * 400);
  child.kill("SIGKILL");
  await exited;
}

test(
  "what was acknowledged is there once after every kill -9, over MQTT and over REST",
  { timeout: 180_000 },
  async () => {
    // Who is killed while starting leaves its temporary files behind: here they go with the folder.
    gateway = await startBuiltGateway({ folder, env: { TMPDIR: folder } });
    // Clients find it again where it was.
    const env = {
      TMPDIR: folder,
      // So few that kills come while readings are moved into blocks, too.
      LAMBDAIOT_DATABASE_MAX_RECENT_READINGS: "1000",
      LAMBDAIOT_MQTT_RESEND_WINDOW: "500",
      LAMBDAIOT_SERVER_PORT: new URL(gateway.url).port,
      LAMBDAIOT_MQTT_PORT: new URL(gateway.mqttUrl).port,
    };
    const api = await logIn(gateway.url);
    const sensorIds = await announce(gateway, api, 8);
    const { mqttUrl: url, storePath } = gateway;
    const publisher = startPublisher({ url, topic, sensorIds, connections, window: 6 });
    const rest = startRestLoops(api, sensorIds);
    try {
      await until(() => publisher.acknowledged.size > 0 && rest.created.size > 0);
      const startKills = new Set(Array.from({ length: killsAtStart }, (_, i) => 2 + i * 5));
      for (let kill = 1; kill <= killsUnderLoad; kill++) {
        const before = publisher.acknowledged.size;
        await sleep(20 + random() * 600);
        // Not a kill of an idle gateway: its devices are back and are being answered.
        await until(() => publisher.acknowledged.size > before);
        await gateway.stop("SIGKILL");
        if (startKills.has(kill)) await killAtStart(env);

        const acknowledged = [...publisher.acknowledged];
        const created = [...rest.created];
        gateway = await startBuiltGateway({ folder, env });
        const { integrity, values, twice } = look(storePath);
        const stored = new Set(values.values());
        // And as its users see it, the last ones before the kill.
        const seen = await Promise.all(created.slice(-5).map(([id]) => api("GET", `/sensor-readings/${id}`)));
        expect({
          seed,
          kill,
          integrity,
          twice,
          lostOverMqtt: acknowledged.filter((value) => !stored.has(value)),
          lostOverRest: created.filter(([id, value]) => values.get(id) !== value),
          seen: seen.map(({ body }) => [body.id, body.value]),
          refused: rest.refused,
        }).toEqual({
          seed,
          kill,
          integrity: "ok",
          twice: [],
          lostOverMqtt: [],
          lostOverRest: [],
          seen: created.slice(-5),
          refused: [],
        });
      }
      await rest.stop();
      const published = await publisher.finish();
      const { integrity, values, twice } = look(storePath);
      const overMqtt = [...values.values()].filter((value) => value > 0);
      // Nothing is left unacknowledged now, so nothing may be missing.
      expect({ integrity, twice, acknowledged: publisher.acknowledged.size, stored: overMqtt.length }).toEqual({
        integrity: "ok",
        twice: [],
        acknowledged: published,
        stored: published,
      });
      expect(countBlocks(storePath)).toBeGreaterThan(0);
      console.log(
        `seed ${seed}: ${killsUnderLoad} kills under load and ${killsAtStart} at the start; ` +
          `${publisher.acknowledged.size} values acknowledged over MQTT, ${rest.created.size} over REST; none lost, none twice`,
      );
    } finally {
      publisher.kill();
      await rest.stop();
    }
  },
);
