import Sqlite from "better-sqlite3";
import { afterAll, beforeAll, expect, test } from "vitest";
import { connectMqtt, logIn, type Api } from "../support/client.ts";
import { makeFolder, startLocalGateway, type LocalGateway } from "../support/gateway.ts";
import { readReadings } from "../support/stored.ts";

// What cannot be stored, in one transaction with what can: a sensor is deleted while its device announces it anew and sends
// readings. (The writer's own side of it is in test/store/writer.test.ts.)

const rounds = 30;

const { folder, remove } = makeFolder();
let gateway: LocalGateway;
let api: Api;
beforeAll(async () => {
  gateway = await startLocalGateway({ folder });
  api = await logIn(gateway.url);
});
afterAll(async () => {
  await gateway.close();
  remove();
});

const announcement = (last: number) =>
  JSON.stringify({ mac_address: `02:00:00:00:00:0${last}`, device: { name: `${last}` }, sensors: [{ name: "s" }] });

test("devices that are deleted amid their readings cost nobody else a reading, and every message is acknowledged", async () => {
  const client = await connectMqtt(gateway.mqttUrl);
  const say = (topic: string, payload: string) => client.publishAsync(topic, payload, { qos: 1 });
  await say("lambdaiot/discovery", announcement(1));
  await say("lambdaiot/discovery", announcement(2));
  const sensors = (await api("GET", "/sensors")).body as { id: string; device_id: string }[];
  const [good, doomed] = sensors as [(typeof sensors)[0], (typeof sensors)[0]];
  const reading = (sensor_id: string, value: number): string =>
    JSON.stringify({ type: "sensor_reading", sensor_id, value });

  /** Deletes, and has the device speak and announce itself before, meanwhile and after. */
  async function bother(round: number): Promise<void> {
    const deleted = new AbortController();
    const path = round % 2 === 0 ? `/devices/${doomed.device_id}` : `/sensors/${doomed.id}`;
    const deletion = api("DELETE", path).finally(() => deleted.abort());
    while (!deleted.signal.aborted)
      await Promise.all([
        say("lambdaiot", reading(doomed.id, -1)),
        ...(round % 3 === 0 ? [say("lambdaiot/discovery", announcement(2))] : []),
        say("lambdaiot", reading(doomed.id, -2)),
      ]);
    expect((await deletion).status).toBe(200);
    await say("lambdaiot", reading(doomed.id, -3));
  }

  for (let round = 0; round < rounds; round++) {
    const commitsBefore = gateway.app.counters.get("store.commits");
    const answers = await Promise.all([
      ...Array.from({ length: 10 }, (_, i) => say("lambdaiot", reading(good.id, round * 100 + i))),
      bother(round),
      ...Array.from({ length: 10 }, (_, i) => say("lambdaiot", reading(good.id, round * 100 + 50 + i))),
    ]);
    expect(answers).toHaveLength(21);
    expect(gateway.app.counters.get("store.commits")).toBeGreaterThan(commitsBefore);
    await say("lambdaiot/discovery", announcement(2));
  }
  expect(client.connected).toBe(true);
  await client.endAsync();
  const values = readReadings(gateway.storePath)
    .map(({ value }) => value)
    .filter((value) => value >= 0);
  const sqlite = new Sqlite(gateway.storePath, { readonly: true });
  const orphans = sqlite.pragma("foreign_key_check");
  sqlite.close();
  const expected = Array.from({ length: rounds }, (_, round) =>
    [0, 50].flatMap((first) => Array.from({ length: 10 }, (__, i) => round * 100 + first + i)),
  ).flat();
  expect({ values, orphans }).toEqual({ values: expected, orphans: [] });
  expect(gateway.app.counters.get("mqtt.rejected.unknown_sensor")).toBeGreaterThan(0);
  expect(gateway.log()).not.toMatch(/ error |hook failed/);
});
