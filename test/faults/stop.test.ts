import { once } from "node:events";
import Sqlite from "better-sqlite3";
import { afterEach, expect, test } from "vitest";
import { openClient, publishFrame } from "../mqtt/gate-wire.ts";
import { connectMqtt, logIn, until } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { readReadings } from "../support/stored.ts";

// Ends that are not as they should be. (SIGTERM under load, alone, is in test/durability/shutdown.test.ts.)

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

async function start() {
  const { folder, remove } = makeFolder();
  const gateway = await startBuiltGateway({ folder });
  cleanUps.push(remove, () => gateway.stop("SIGKILL"));
  const api = await logIn(gateway.url);
  const device = await api("POST", "/devices", { name: "d", description: "", location: "", status_id: 1 });
  const input = { device_id: device.body.id as string, name: "s", type: "t", data_type_id: 2 };
  return { gateway, sensorId: (await api("POST", "/sensors", input)).body.id as string };
}

const reading = (sensor_id: string, value: number): string =>
  JSON.stringify({ type: "sensor_reading", sensor_id, value });

const look = ({ storePath }: BuiltGateway) => {
  const sqlite = new Sqlite(storePath, { readonly: true });
  const integrity = sqlite.pragma("integrity_check", { simple: true });
  sqlite.close();
  return { values: readReadings(storePath).map(({ value }) => value), integrity };
};

test("a second and a third SIGTERM, and SIGINT, change nothing of an end that is under way", async () => {
  const { gateway, sensorId } = await start();
  const acknowledged: number[] = [];
  const load = [1, 2, 3].map(async (n) => {
    const client = await connectMqtt(gateway.mqttUrl);
    client.on("error", () => undefined);
    const cut = new Promise<void>((resolve) => void client.once("close", () => resolve()));
    for (let value = n * 1_000_000; client.connected; value += 20) {
      const batch = Array.from({ length: 20 }, (_, i) =>
        client.publishAsync("lambdaiot", reading(sensorId, value + i), { qos: 1 }).then(
          () => acknowledged.push(value + i),
          () => undefined,
        ),
      );
      await Promise.race([cut, Promise.all(batch)]);
    }
    client.end(true);
  });
  await until(() => acknowledged.length > 500);
  const exited = once(gateway.process, "exit");
  for (const signal of ["SIGTERM", "SIGTERM", "SIGINT", "SIGTERM"] as const) {
    gateway.process.kill(signal);
    await new Promise(setImmediate);
  }
  expect(await exited).toEqual([0, null]);
  await Promise.all(load);
  const { values, integrity } = look(gateway);
  const stored = new Set(values);
  expect({
    integrity,
    lost: acknowledged.filter((value) => !stored.has(value)),
    twice: values.length - stored.size,
  }).toEqual({
    integrity: "ok",
    lost: [],
    twice: 0,
  });
});

test("an end that hangs comes all the same, and what was not stored was not acknowledged", async () => {
  const { gateway, sensorId } = await start();
  const wire = await openClient(gateway.mqttUrl);
  wire.send(publishFrame("lambdaiot", reading(sensorId, 1), 1, 1));
  await wire.next(0x40);
  const other = new Sqlite(gateway.storePath);
  other.exec("BEGIN IMMEDIATE"); // for longer than the gateway waits
  wire.send(publishFrame("lambdaiot", reading(sensorId, 2), 1, 2));
  const exited = once(gateway.process, "exit");
  gateway.process.kill("SIGTERM");
  const [code] = await exited;
  expect([0, 1]).toContain(code);
  expect(wire.received.filter((packet) => packet[0] === 0x40)).toHaveLength(1);
  other.exec("ROLLBACK");
  other.close();
  expect(look(gateway)).toEqual({ values: [1], integrity: "ok" });
});
