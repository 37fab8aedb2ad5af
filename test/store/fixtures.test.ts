import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { brotliDecompressSync } from "node:zlib";
import Sqlite from "better-sqlite3";
import { migrations } from "embedded:migrations";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { addExact, addPacked, roundSum, type ExactSum, type SumRest } from "../../src/core/exact-sum.ts";
import { connectFrame, idFrame, openWire, publishFrame } from "../mqtt/gate-wire.ts";
import { connectListener, connectMqtt, createApi, until, type Api } from "../support/client.ts";
import { makeFolder, startLocalGateway, type LocalGateway } from "../support/gateway.ts";
import { openReceiver, signAsLibrary, status, type Receiver } from "../webhooks/receiver.ts";
import { addReading, call, day, hour, readAll, toMessage, toText } from "./fixtures/asking.ts";
import type { Expected, Kept } from "./fixtures/expected.ts";
import { schemaOf, versions } from "./fixtures/versions.ts";

// Stores that gateways of earlier versions have left behind (see fixtures/make.ts), opened by today's: everything that was
// in them is there and goes on. The tests of one store share its gateway, and come one after the other.

const fixture = (name: string): string => new URL(`fixtures/${name}.br`, import.meta.url).pathname;
const unpack = (name: string): Buffer => brotliDecompressSync(readFileSync(fixture(name)));

test("every schema before the newest has its store", () => {
  const isThere = (name: string): boolean =>
    versions.some(
      (version) =>
        schemaOf(version.name) === name &&
        [`${version.name}.db`, `${version.name}.json`].every((file) => existsSync(fixture(file))),
    );
  const missing = migrations.slice(0, -1).filter(({ name }) => !isThere(name));
  const toDo = (name: string): string =>
    `name the last version with ${name} in test/store/fixtures/versions.ts, and run node test/store/fixtures/make.ts ${name}`;
  expect(missing.map(({ name }) => toDo(name))).toEqual([]);
});

describe.each(versions)("the store of $name", ({ name, hasChecksums = false }) => {
  const schema = 1 + migrations.findIndex((migration) => migration.name === schemaOf(name));
  const expected = JSON.parse(unpack(`${name}.json`).toString()) as Expected;
  const { v1, broker } = expected;
  const own = makeFolder();
  const path = join(own.folder, "lambdaiot.db");
  const env = {
    LAMBDAIOT_SERVER_JWT_SECRET: expected.secret,
    LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000",
    // What is a year old is still wanted, and nobody is missed.
    LAMBDAIOT_RETENTION_RAW_DAYS: "0",
    LAMBDAIOT_RETENTION_ROLLUP_DAYS: "0",
    LAMBDAIOT_MQTT_DEVICE_CHECK_INTERVAL: "86400",
  };
  let clock = expected.stoppedAt;
  let receiver: Receiver;
  let gateway: LocalGateway;
  let api: Api;

  beforeAll(async () => {
    receiver = await openReceiver(status(204));
    writeFileSync(path, unpack(`${name}.db`));
    if (v1 !== undefined) moveReceiver(path, v1.receiver, new URL(receiver.url).origin);
    gateway = await startLocalGateway({ env, folder: own.folder, now: () => clock });
    api = createApi(gateway.url, expected.token);
  });
  afterAll(async () => {
    await gateway.close();
    await receiver.close();
    own.remove();
  });

  test("gives the answers that it gave then", async () => {
    const answers: Expected["answers"] = {};
    for (const asked of Object.keys(expected.answers)) answers[asked] = await call<unknown>(api, "GET", asked);
    // There may be more in them by now. The receiver has moved.
    const given = JSON.stringify(expected.answers).replaceAll(v1?.receiver ?? "no", new URL(receiver.url).origin);
    expect(answers).toMatchObject(JSON.parse(given) as object);
  });

  test("has every reading with its id, its time and its value, and none that was deleted", async () => {
    expect(await readAll(api)).toEqual(expected.readings);
    for (const [id, at, value] of Object.values(expected.readings).flat().slice(0, 30))
      expect((await api("GET", `/sensor-readings/${id}`)).body).toMatchObject({ id, value, value_at: toShort(at) });
    for (const id of [...expected.deleted, 1_000_000])
      expect((await api("GET", `/sensor-readings/${id}`)).status).toBe(404);
    expect((await api("GET", `/devices/${expected.gone.deviceId}`)).status).toBe(404);
    expect((await api("GET", `/sensors/${expected.gone.sensorId}`)).status).toBe(404);
  });

  test("knows each sensor's newest reading", async () => {
    const { devices } = await call<{ devices: { id: string }[] }>(api, "GET", "/v1/devices");
    const newest: Record<string, unknown> = {};
    for (const { id } of devices) {
      const { sensors } = await call<{ sensors: Shown[] }>(api, "GET", `/v1/devices/${id}`);
      for (const sensor of sensors) newest[sensor.id] = [sensor.lastReading, sensor.lastValue];
    }
    const wanted = Object.entries(expected.readings).map(([id, [first]]) => [
      id,
      first === undefined ? [null, null] : [toShort(first[1]), first[2]],
    ]);
    expect(newest).toEqual(Object.fromEntries(wanted));
  });

  test("sums up hours and days as its readings do by brute force", async () => {
    // The background work may be amid bringing them on.
    const { rollups, byHand } = await until(() => {
      const stored = readRollups(path);
      const found = { ...stored, byHand: sumUp(expected.readings, stored.upTo) };
      return isDeepStrictEqual(found.rollups, found.byHand) && found;
    });
    expect(rollups).toEqual(byHand);
    for (const { id, device_id } of await call<{ id: string; device_id: string }[]>(api, "GET", "/sensors")) {
      const readings = expected.readings[id] as Kept[];
      if (readings.length === 0) continue;
      const data = `/v1/data/${device_id}?sensor=${id}&aggregation`;
      const ofAll = await Promise.all(
        ["count", "sum", "min", "max", "avg"].map(
          async (aggregation) => (await call<Series>(api, "GET", `${data}=${aggregation}`)).data[0]?.value,
        ),
      );
      const { count, sum, min, max } = sumOf(readings);
      expect(ofAll).toEqual([count, sum, min, max, sum / count]);
      const from = expected.stoppedAt - 500 * day; // a century has too many hours
      const byHour = (await call<Series>(api, "GET", `${data}=sum&interval=1h&from=${toText(from)}`)).data;
      expect(byHour.map((point) => [Date.parse(point.timestamp), point.value, point.count])).toEqual(
        groupBy(
          readings.filter(([, at]) => at >= from),
          hour,
        ).map(([at, group]) => [at, sumOf(group).sum, group.length]),
      );
    }
  });

  test("lets in who could log in, and nobody else", async () => {
    for (const [i, { username, email, password }] of expected.users.entries()) {
      const login = { email: email?.toUpperCase() ?? username.toUpperCase(), password };
      const { body } = await api("POST", "/v1/auth/login", login);
      expect(body.user).toMatchObject({ username, role: i === 0 ? "admin" : "member" });
    }
    const [{ username, password }] = expected.users as [Expected["users"][0]];
    expect((await api("POST", "/login", { username, password })).status).toBe(200);
    expect((await api("POST", "/login", { username, password: `${password}!` })).status).toBe(401);
    expect((await api("POST", "/register", { username: "ADA", password: "secret123" })).status).toBe(409);
  });

  test.runIf(v1)("knows its API key, and what was bought with how much is left of it", async () => {
    const { apiKey, purchase } = v1 as NonNullable<typeof v1>;
    expect((await createApi(gateway.url, apiKey)("GET", "/v1/devices")).status).toBe(200);
    const again = await api(
      "POST",
      "/v1/products/prod_raw_streams/purchase",
      { deviceId: purchase.deviceId, quantity: 3 },
      { "Idempotency-Key": purchase.idempotencyKey },
    );
    expect(again).toMatchObject({ status: 201, body: { accessKey: purchase.accessKey } });
    const buyer = createApi(gateway.url, purchase.accessKey);
    expect((await buyer("GET", `/v1/data/${purchase.deviceId}`)).body.data).toHaveLength(2);
    expect((await buyer("GET", `/v1/data/${purchase.deviceId}`)).status).toBe(403);
  });

  test.runIf(v1)("delivers what waited for its receiver, once, and nothing again", async () => {
    const { deliveries, signedWith } = v1 as NonNullable<typeof v1>;
    expect(deliveries.delivered).not.toEqual([]);
    expect(deliveries.pending).not.toEqual([]);
    clock += hour;
    const requests = await receiver.count(deliveries.pending.length);
    expect(requests).toHaveLength(deliveries.pending.length);
    expect(new Set(requests.map(({ headers }) => headers["webhook-id"]))).toEqual(new Set(deliveries.pending));
    for (const request of requests)
      expect(request.headers["webhook-signature"]).toBe(signAsLibrary(request, signedWith));
  });

  test.runIf(v1)("ends an alert that was active, and the device's error with it", async () => {
    const { deviceId } = (v1 as NonNullable<typeof v1>).purchase;
    const active = async () => (await call<{ alerts: unknown[] }>(api, "GET", "/v1/alerts?status=active")).alerts;
    const device = `/v1/devices/${deviceId}`;
    expect(await active()).toMatchObject([{ deviceId }]);
    expect((await api("GET", device)).body.status).toBe("error");
    await api("POST", `/v1/data/${deviceId}`, { timestamp: new Date(clock).toISOString(), value: 21, unit: "°C" });
    await until(async () => (await active()).length === 0);
    expect((await api("GET", device)).body.status).toBe("online");
  });

  test.runIf(broker)(
    "has its sessions with what waits for them, its retained messages and its devices' tokens",
    async () => {
      const { sleeper, retained, device } = broker as NonNullable<typeof broker>;
      const back = await connectListener(gateway.mqttUrl, { clientId: sleeper.clientId, clean: false });
      await until(() => back.graded.length >= sleeper.waiting.length);
      // Those of QoS 2 are taken when they are released, after others that came later.
      expect(back.graded.toSorted()).toEqual(sleeper.waiting.toSorted());
      expect(back.graded.filter(isOfQos1)).toEqual(sleeper.waiting.filter(isOfQos1));
      const anybody = await connectListener(gateway.mqttUrl);
      await anybody.client.subscribeAsync("home/#", { qos: 1 });
      await anybody.client.publishAsync("home/now", "live", { qos: 1 });
      await until(() => anybody.heard.includes("home/now live"));
      expect(anybody.heard).toEqual([...retained, "home/now live"]);
      await until(() => back.heard.includes("home/now live")); // still subscribed, as it was

      await expect(connectMqtt(gateway.mqttUrl, { username: device.id, password: `${device.token}x` })).rejects.toThrow(
        "Bad username",
      );
      const credentials = { username: device.id, password: device.token };
      const awake = await connectListener(gateway.mqttUrl, { clientId: "gate", clean: false, ...credentials });
      await until(() => awake.heard.length > 0);
      const [command = ""] = awake.heard.map((message) => message.slice(message.indexOf("{")));
      expect(JSON.parse(command)).toMatchObject({
        type: "actor_command",
        actor_id: device.actorId,
        action: device.action,
      });
      // Nobody else may speak for it.
      await anybody.client.publishAsync("lambdaiot", toMessage(device.sensorId, 5), { qos: 1 });
      await awake.client.publishAsync("lambdaiot", toMessage(device.sensorId, 6), { qos: 1 });
      const { body } = await api("GET", `/sensor-readings?sensor_id=${device.sensorId}`);
      expect((body as { value: number }[]).map(({ value }) => value)).toEqual([6, 1]);
      for (const { client } of [back, anybody, awake]) await client.endAsync();
    },
  );

  test.runIf(broker)("knows a message of QoS 2 that it has not released", async () => {
    const { clientId, messageId, payload } = (broker as NonNullable<typeof broker>).unreleased;
    const wire = await openWire(gateway.mqttUrl);
    wire.send(connectFrame({ clientId, isClean: false }));
    await wire.next(0x20);
    const before = await countReadings(api);
    wire.send(markDup(publishFrame("lambdaiot", payload, 2, messageId)));
    await wire.next(0x50);
    wire.send(idFrame(0x62, messageId));
    await wire.next(0x70);
    await wire.end();
    expect(await countReadings(api)).toBe(before);
  });

  test.runIf(hasChecksums)("knows a message that is sent again", async () => {
    const { clientId, messageId, payload } = expected.resend;
    const before = await countReadings(api);
    const wire = await openWire(gateway.mqttUrl);
    wire.send(connectFrame({ clientId }), markDup(publishFrame("lambdaiot", payload, 1, messageId)));
    await wire.next(0x40);
    expect(await countReadings(api)).toBe(before);
    wire.send(publishFrame("lambdaiot", payload, 1, messageId)); // without the mark it is another one
    await until(() => wire.received.filter(([first]) => first === 0x40).length === 2);
    await wire.end();
    expect(await countReadings(api)).toBe(before + 1);
  });

  test("goes on: readings get ids that nothing has had, and old ones can be changed and deleted", async () => {
    const [[sensorId, [first, second]]] = Object.entries(expected.readings) as [[string, [Kept, Kept]]];
    const highest = Math.max(
      ...Object.values(expected.readings)
        .flat()
        .map(([id]) => id),
      ...expected.deleted,
    );
    const id = await addReading(api, sensorId, 1.5, clock);
    expect(id).toBeGreaterThan(highest);
    await call(api, "PUT", `/sensor-readings/${first[0]}`, { body: { value: 99.5 } });
    await call(api, "DELETE", `/sensor-readings/${second[0]}`);
    const after = (await readAll(api))[sensorId] as Kept[];
    expect(after).toContainEqual([first[0], first[1], 99.5]);
    expect(after.map(([kept]) => kept)).not.toContain(second[0]);
  });

  test("is sound, of the newest schema, and was copied before", async () => {
    const before = await readAll(api);
    await gateway.close();
    expect(inspect(path)).toEqual({
      integrity: "ok",
      broken: [],
      schema: migrations.length,
      tables: await listNewTables(),
    });
    expect(inspect(`${path}-schema-${schema}.bak`)).toMatchObject({ integrity: "ok", broken: [], schema });
    gateway = await startLocalGateway({ env, folder: own.folder, now: () => clock });
    api = createApi(gateway.url, expected.token);
    expect(await readAll(api)).toEqual(before);
  });
});

interface Shown {
  id: string;
  lastReading: string | null;
  lastValue: number | null;
}

interface Series {
  data: { timestamp: string; value: number; count: number }[];
}

const toShort = (at: number): string => new Date(at).toISOString().replace(".000Z", "Z");

const markDup = (frame: Buffer): Buffer => {
  frame[0] = (frame[0] as number) | 0x08;
  return frame;
};

const isOfQos1 = (message: string): boolean => message.startsWith("1 ");

/** Where nobody listens any more, somebody else may by now. */
function moveReceiver(path: string, from: string, to: string): void {
  const sqlite = new Sqlite(path);
  sqlite.prepare("UPDATE webhooks SET url = replace(url, ?, ?)").run(from, to);
  sqlite.close();
}

const countReadings = async (api: Api): Promise<number> => Object.values(await readAll(api)).flat().length;

interface Sums {
  count: number;
  sum: number;
  min: number;
  max: number;
}

function sumOf(readings: readonly Kept[]): Sums {
  const values = readings.map(([, , value]) => value);
  const sum: ExactSum = [];
  for (const value of values) addExact(sum, value);
  return { count: values.length, sum: roundSum(sum), min: Math.min(...values), max: Math.max(...values) };
}

const groupBy = (readings: readonly Kept[], width: number): [number, Kept[]][] =>
  [...Map.groupBy(readings, ([, at]) => Math.floor(at / width) * width)].toSorted(([a], [b]) => a - b);

/** Readings up to that id, by width, sensor and start, as {@link readRollups} has them. */
function sumUp(readings: Expected["readings"], upTo: number): Record<string, Sums> {
  const sums: Record<string, Sums> = {};
  for (const [sensorId, ofSensor] of Object.entries(readings)) {
    const summedUp = ofSensor.filter(([id]) => id <= upTo);
    for (const width of [hour, day])
      for (const [at, group] of groupBy(summedUp, width)) sums[`${width} ${sensorId} ${at}`] = sumOf(group);
  }
  return sums;
}

/** The sums as they are stored, and the reading up to which they are. */
function readRollups(path: string): { rollups: Record<string, Sums>; upTo: number } {
  const sqlite = new Sqlite(path, { readonly: true });
  try {
    return sqlite.transaction(() => {
      const progress = sqlite.prepare<[name: string], number>("SELECT value FROM progress WHERE name = ?").pluck();
      const upTo = progress.get("rollups") ?? 0;
      const rows = sqlite
        .prepare<[], Sums & { key: string; rest: SumRest }>(
          `SELECT r.width || ' ' || s.id || ' ' || r.start_at AS key, r.count, r.sum, r.sum_rest AS rest, r.min, r.max
           FROM rollups r JOIN sensors s ON s.pk = r.sensor_pk`,
        )
        .all();
      const sums = rows.map(({ key, sum, rest, ...others }) => {
        const exact: ExactSum = [];
        addPacked(exact, sum, rest);
        return [key, { ...others, sum: roundSum(exact) }];
      });
      return { rollups: Object.fromEntries(sums) as Record<string, Sums>, upTo };
    })();
  } finally {
    sqlite.close();
  }
}

/** The tables and indexes of a store that has never been another one. */
async function listNewTables(): Promise<unknown> {
  const own = makeFolder();
  const path = join(own.folder, "lambdaiot.db");
  await (await startLocalGateway({ folder: own.folder })).close();
  const { tables } = inspect(path);
  own.remove();
  return tables;
}

function inspect(path: string) {
  const sqlite = new Sqlite(path, { readonly: true });
  try {
    return {
      integrity: sqlite.pragma("integrity_check", { simple: true }),
      broken: sqlite.pragma("foreign_key_check"),
      schema: sqlite.pragma("user_version", { simple: true }),
      tables: sqlite.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY name").all(),
    };
  } finally {
    sqlite.close();
  }
}
