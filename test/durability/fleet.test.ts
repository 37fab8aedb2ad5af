import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, expect, test } from "vitest";
import { readMemory } from "../hostile/good-device.ts";
import { logIn } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { readReadings } from "../support/stored.ts";
import type { FleetOptions } from "./fleet.ts";

// A thousand devices that come at once, send ten readings a second each, and all come back at once when the gateway was
// killed. For three seconds here; LAMBDAIOT_TEST_FLEET_SECONDS=60 for a minute.

const seconds = Number(process.env["LAMBDAIOT_TEST_FLEET_SECONDS"] ?? 3);
const connections = 1_000;
const perSecond = 10;
const killAfterSeconds = Math.max(1, Math.round(seconds / 10));

const { folder, remove } = makeFolder();
let gateway: BuiltGateway | undefined;
afterAll(async () => {
  await gateway?.stop("SIGKILL");
  remove();
});

function startFleet(options: FleetOptions) {
  const child = spawn(process.execPath, [join(import.meta.dirname, "fleet.ts"), JSON.stringify(options)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    async ask(command: string): Promise<Record<string, number>> {
      child.stdin.write(`${command}\n`);
      const { value, done } = await lines.next();
      if (done === true) throw new Error("the fleet ended");
      return JSON.parse(value) as Record<string, number>;
    },
    async end(): Promise<void> {
      const exited = once(child, "exit");
      child.stdin.end();
      await exited;
    },
    kill: () => child.kill("SIGKILL"),
  };
}

test(
  `a thousand connections at once, ${perSecond} readings a second each for ${seconds} s, and all of them again after a kill -9`,
  { timeout: (3 * seconds + 90) * 1_000 },
  async () => {
    const limits = {
      TMPDIR: folder,
      LAMBDAIOT_MQTT_MAX_CONNECTIONS_PER_ADDRESS: "2000", // all of them come from this machine
      LAMBDAIOT_MQTT_MAX_CONNECTIONS: "2000",
    };
    gateway = await startBuiltGateway({ folder, env: limits });
    const api = await logIn(gateway.url);
    const sensorIds: string[] = [];
    for (let i = 0; i < 100; i++) {
      const device = await api("POST", "/devices", { name: `${i}`, description: "", location: "", status_id: 1 });
      const input = { device_id: device.body.id as string, name: "s", type: "t", data_type_id: 2 };
      sensorIds.push((await api("POST", "/sensors", input)).body.id as string);
    }
    const port = Number(new URL(gateway.mqttUrl).port);
    const env = { ...limits, LAMBDAIOT_SERVER_PORT: new URL(gateway.url).port, LAMBDAIOT_MQTT_PORT: String(port) };
    const fleet = startFleet({ port, connections, perSecond, sensorIds });
    try {
      const empty = readMemory(gateway) ?? 0;
      const arrival = await fleet.ask("connect");
      expect(arrival["connected"]).toBe(connections);
      const idle = readMemory(gateway) ?? 0;
      const calm = await fleet.ask(`publish ${seconds}`);
      expect(calm).toMatchObject({ published: seconds * perSecond * connections, reconnects: 0 });
      expect(calm["acknowledged"]).toBe(calm["published"]);
      const busy = readMemory(gateway) ?? 0;

      // And the storm: all of them are thrown out amid their readings, and come back together.
      const stormy = fleet.ask(`publish ${killAfterSeconds + 1}`);
      await new Promise((resolve) => setTimeout(resolve, killAfterSeconds * 500));
      await gateway.stop("SIGKILL");
      gateway = await startBuiltGateway({ folder, env });
      const after = await stormy;
      expect(after["acknowledged"]).toBe(after["published"]);
      expect(after["reconnects"]).toBeGreaterThanOrEqual(connections);
      await fleet.end();

      const values = readReadings(gateway.storePath).map(({ value }) => value);
      const [stored, different] = [values.length, new Set(values).size];
      expect({ stored, different }).toEqual({ stored: after["published"], different: after["published"] });
      const perConnection = (memory: number): string => `${(((memory - empty) * 1_024) / connections).toFixed(0)} KiB`;
      console.log(
        `${connections} connections in ${arrival["ms"]} ms; ${calm["published"]} readings in ${seconds} s, the slowest ` +
          `PUBACK after ${calm["slowestMs"]} ms; ${after["published"]} with the storm (${after["reconnects"]} times back, the ` +
          `slowest PUBACK after ${after["slowestMs"]} ms): all acknowledged, each stored once. Memory ${empty.toFixed(0)} MiB ` +
          `without connections; ${perConnection(idle)} a connection when idle, ${perConnection(busy)} under load`,
      );
    } finally {
      fleet.kill();
    }
    expect(await gateway.stop()).toBe(0);
  },
);
