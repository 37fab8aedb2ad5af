import type { MqttClient } from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connectMqtt, logIn, openInbox, until, type Answer, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// One model, two dialects: whatever is made, sent or changed by one door is the same behind the other.

const env = { LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000", LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000" };
const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const start = Date.parse("2026-02-06T20:00:00.125Z");
const now = "2026-02-06T20:00:00.125Z";
let clock = start;

let gateway: LocalGateway;
let api: Api;
let client: MqttClient;

beforeAll(async () => {
  gateway = await startLocalGateway({
    env: { ...env, LAMBDAIOT_MQTT_DEVICE_CHECK_INTERVAL: "86400" },
    now: () => clock,
  });
  api = await logIn(gateway.url);
  client = await connectMqtt(gateway.mqttUrl);
});
afterAll(async () => {
  await client.endAsync();
  await gateway.close();
});

const publish = (body: object, topic = "lambdaiot") => client.publishAsync(topic, JSON.stringify(body), { qos: 1 });
const shown = ({ status, body }: Answer) => ({ status, body });

/** A device by any of the doors: its UUID, and the id under which /v1 shows it. */
interface Made {
  uuid: string;
  id: string;
}

let count = 0;
const doors: [string, () => Promise<Made>][] = [
  [
    "made at the root",
    async () => {
      const body = { name: "Room", description: "", location: "Floor 1", status_id: 2 };
      const { id } = (await api("POST", "/devices", body)).body;
      const sensor = { device_id: id, name: "Temperature", type: "temperature", data_type_id: 2 };
      await api("POST", "/sensors", sensor);
      await api("POST", "/sensors", { ...sensor, name: "Humidity", type: "humidity" });
      return { uuid: id, id };
    },
  ],
  [
    "made under /v1",
    async () => {
      const body = { name: "Room", type: "temperature", location: "Floor 1" };
      const { id } = (await api("POST", "/v1/devices", body)).body;
      await api("POST", "/sensors", { device_id: id, name: "Humidity", type: "humidity", data_type_id: 2 });
      return { uuid: id, id };
    },
  ],
  [
    "made under /v1 with an id of its own",
    async () => {
      const body = { id: `SC-TEMP-${(count += 1)}`, name: "Room", type: "temperature", location: "Floor 1" };
      const { uuid: device_id, id } = (await api("POST", "/v1/devices", body)).body;
      await api("POST", "/sensors", { device_id, name: "Humidity", type: "humidity", data_type_id: 2 });
      return { uuid: device_id, id };
    },
  ],
  [
    "announced over MQTT",
    async () => {
      const id = `00000000-0000-4000-8000-${String((count += 1)).padStart(12, "0")}`;
      await publish(
        {
          device: { id, name: "Room", description: "", location: "Floor 1" },
          sensors: [
            { name: "Temperature", type: "temperature", data_type_id: 2 },
            { name: "Humidity", type: "humidity", data_type_id: 2 },
          ],
        },
        "lambdaiot/discovery",
      );
      return { uuid: id, id };
    },
  ],
];

describe.each(doors)("a device %s", (_, make) => {
  let device: Made;
  let sensors: string[];
  beforeAll(async () => {
    clock = start;
    device = await make();
    const list = (await api("GET", "/sensors")).body as { id: string; device_id: string }[];
    sensors = list.filter(({ device_id }) => device_id === device.uuid).map(({ id }) => id);
  });

  const v1 = async () => (await api("GET", `/v1/devices/${device.id}`)).body;
  const root = async () => (await api("GET", `/devices/${device.uuid}`)).body;

  test("is the same one by its UUID and by the id that /v1 shows", async () => {
    expect(device.uuid).toMatch(uuid);
    const detail = await v1();
    expect(detail).toMatchObject({ id: device.id, uuid: device.uuid, name: "Room", location: "Floor 1" });
    expect((await api("GET", `/v1/devices/${device.uuid.toUpperCase()}`)).body).toEqual(detail);
    expect(await root()).toMatchObject({ id: device.uuid, name: "Room", location: "Floor 1" });
    const inRootList = (await api("GET", "/devices")).body.filter(({ id }: { id: string }) => id === device.uuid);
    const inList = (await api("GET", "/v1/devices?limit=100")).body.devices.filter(
      ({ id }: { id: string }) => id === device.id,
    );
    expect([inRootList.length, inList.length]).toEqual([1, 1]);
  });

  test("is 400 at the root by anything but its UUID", async () => {
    const id = device.id === device.uuid ? "SC-TEMP-0" : device.id;
    for (const method of ["GET", "PUT", "DELETE"] as const)
      expect(shown(await api(method, `/devices/${id}`, method === "PUT" ? {} : undefined))).toEqual({
        status: 400,
        body: { error: "invalid device id" },
      });
  });

  test("was made at one time, on both APIs", async () => {
    const detail = await v1();
    expect(detail).toMatchObject({ createdAt: now });
    const { created_at, updated_at } = await root();
    expect({ created_at, updated_at }).toEqual({ created_at: detail.createdAt, updated_at: detail.updatedAt });
  });

  test("has the same sensors, the first one the primary", async () => {
    const detail = await v1();
    expect(detail.type).toBe("temperature");
    expect(detail.sensors.map(({ id, type }: { id: string; type: string }) => [id, type])).toEqual([
      [sensors[0], "temperature"],
      [sensors[1], "humidity"],
    ]);
  });

  test("is found by the type of any of its sensors", async () => {
    for (const type of ["temperature", "humidity"]) {
      const { devices } = (await api("GET", `/v1/devices?limit=100&type=${type}`)).body;
      expect(devices.map(({ id }: { id: string }) => id)).toContain(device.id);
    }
  });

  test("has the same readings, by whichever door they came", async () => {
    const [primary = "", second = ""] = sensors;
    await api("POST", `/v1/data/${device.id}`, { timestamp: "2026-02-06T19:00:00+00:00", value: 1 });
    await api("POST", "/sensor-readings", { sensor_id: primary, value: 2, value_at: "2026-02-06T20:30:00.5+01:00" });
    await publish({ type: "sensor_reading", sensor_id: primary, value: "3.5", value_at: "2026-02-06T19:45:00Z" });
    await publish({ type: "sensor_reading", sensor_id: second, value: true, value_at: "2026-02-06T19:50:00Z" });
    await api("POST", `/v1/data/${device.id}?sensor=${second}`, { timestamp: "2026-02-06T19:55:00Z", value: 60 });

    const atRoot = async (sensor: string) =>
      (await api("GET", `/sensor-readings?sensor_id=${sensor}`)).body.map(
        ({ value, value_at }: { value: number; value_at: string }) => ({ timestamp: value_at, value }),
      );
    const expected = [
      { timestamp: "2026-02-06T19:45:00Z", value: 3.5 },
      { timestamp: "2026-02-06T19:30:00.500Z", value: 2 },
      { timestamp: "2026-02-06T19:00:00Z", value: 1 },
    ];
    const both = [
      { timestamp: "2026-02-06T19:55:00Z", value: 60 },
      { timestamp: "2026-02-06T19:50:00Z", value: 1 },
    ];
    expect(await atRoot(primary)).toEqual(expected);
    expect((await api("GET", `/v1/data/${device.id}`)).body).toEqual({ deviceId: device.id, data: expected, total: 3 });
    expect((await api("GET", `/v1/data/${device.uuid}?sensor=${primary.toUpperCase()}`)).body.data).toEqual(expected);
    expect(await atRoot(second)).toEqual(both);
    expect((await api("GET", `/v1/data/${device.id}?sensor=${second}`)).body.data).toEqual(both);
    // Nothing aggregates across sensors.
    expect((await api("GET", `/v1/data/${device.id}?aggregation=max`)).body.data).toMatchObject([
      { value: 3.5, count: 3 },
    ]);
    const detail = await v1();
    expect(detail).toMatchObject({ lastReading: "2026-02-06T19:55:00Z", lastSeen: now });
    expect(detail.sensors).toMatchObject([
      { lastReading: "2026-02-06T19:45:00Z", lastValue: 3.5 },
      { lastReading: "2026-02-06T19:55:00Z", lastValue: 60 },
    ]);
  });

  test("has no sensor of another device", async () => {
    const { id } = (await api("POST", "/v1/devices", { name: "n", type: "t" })).body;
    const notFound = { status: 404, body: { error: { code: "NOT_FOUND", message: "sensor not found", details: {} } } };
    expect(shown(await api("GET", `/v1/data/${id}?sensor=${sensors[0]}`))).toEqual(notFound);
    const point = { timestamp: "2026-02-06T20:00:00Z", value: 1 };
    expect(shown(await api("POST", `/v1/data/${id}?sensor=${sensors[0]}`, point))).toEqual(notFound);
  });

  test("does not change a sensor's unit in silence", async () => {
    const point = { timestamp: "2026-02-06T18:00:00Z", value: 5, unit: "°C" };
    expect((await api("POST", `/v1/data/${device.id}`, point)).status).toBe(201);
    expect((await api("POST", `/v1/data/${device.id}`, { ...point, unit: "K" })).status).toBe(400);
    const other = await api("POST", `/v1/data/${device.id}?sensor=${sensors[1]}`, { ...point, unit: "%" });
    expect(other.body.unit).toBe("%");
    expect((await v1()).sensors).toMatchObject([{ unit: "°C" }, { unit: "%" }]);
    expect((await api("GET", `/v1/data/${device.id}?limit=1`)).body.data).toMatchObject([{ unit: "°C" }]);
  });

  test("is online while an ok device, offline while pending, lost or disabled: each status_id has one word", async () => {
    for (const [status_id, word] of [
      [2, "offline"],
      [1, "online"],
      [3, "offline"],
      [1, "online"],
      [4, "offline"],
      [1, "online"],
    ] as const) {
      expect((await api("PUT", `/devices/${device.uuid}`, { status_id })).status).toBe(200);
      expect((await v1()).status).toBe(word);
      for (const status of ["online", "offline", "error"]) {
        const { devices } = (await api("GET", `/v1/devices?limit=100&status=${status}`)).body;
        expect(devices.some(({ id }: { id: string }) => id === device.id)).toBe(status === word);
      }
    }
  });

  test("is disabled and enabled by the words of /v1: each word that may be said has one status_id", async () => {
    await api("PUT", `/devices/${device.uuid}`, { status_id: 1 });
    expect((await api("PUT", `/v1/devices/${device.id}`, { status: "offline" })).body.status).toBe("offline");
    expect((await root()).status_id).toBe(4);
    expect((await api("PUT", `/v1/devices/${device.id}`, { status: "online" })).body.status).toBe("online");
    expect((await root()).status_id).toBe(1);
    for (const status_id of [2, 3]) {
      await api("PUT", `/devices/${device.uuid}`, { status_id });
      await api("PUT", `/v1/devices/${device.id}`, { status: "online" });
      expect((await root()).status_id).toBe(status_id); // nobody is found by saying so
    }
  });

  test("is in error while it reports a fault, whatever its status_id, but for disabled", async () => {
    const respond = (status: string) => publish({ type: "device_check_response", device_id: device.uuid, status });
    await api("PUT", `/devices/${device.uuid}`, { status_id: 1 });
    await respond("error");
    expect([(await v1()).status, (await root()).status_id]).toEqual(["error", 1]);
    const listed = (await api("GET", "/v1/devices?limit=100&status=error")).body;
    expect(listed).toMatchObject({ devices: [{ id: device.id, status: "error" }], total: 1 });
    await api("PUT", `/v1/devices/${device.id}`, { status: "offline" });
    expect([(await v1()).status, (await root()).status_id]).toEqual(["offline", 4]);
    await api("PUT", `/v1/devices/${device.id}`, { status: "online" });
    await respond("ok");
    expect([(await v1()).status, (await root()).status_id]).toEqual(["online", 1]);
    await respond("lost");
    expect([(await v1()).status, (await root()).status_id]).toEqual(["offline", 3]);
    await respond("pending");
    expect([(await v1()).status, (await root()).status_id]).toEqual(["offline", 2]);
  });

  test("is in error while an alert of severity critical is active, and of no other", async () => {
    await api("PUT", `/devices/${device.uuid}`, { status_id: 1 });
    const rule = async (severity: string) =>
      (await api("POST", "/v1/alerts/rules", { deviceId: device.id, condition: "gt", threshold: 100, severity })).body;
    await rule("warning");
    await rule("critical");
    const send = (seconds: number, value: number) =>
      publish({ type: "sensor_reading", sensor_id: sensors[0], value, value_at: `2026-02-06T20:00:0${seconds}Z` });
    await send(1, 101);
    await until(async () => (await v1()).status === "error");
    expect((await root()).status_id).toBe(1);
    const { alerts } = (await api("GET", `/v1/alerts?deviceId=${device.uuid}&status=active`)).body;
    expect(alerts.map(({ deviceId }: { deviceId: string }) => deviceId)).toEqual([device.id, device.id]);
    await send(2, 99);
    await until(async () => (await v1()).status === "online");
  });

  test("changes on both APIs at once", async () => {
    clock = start + 60_000;
    await api("PUT", `/v1/devices/${device.id}`, { name: "By v1", location: "Cellar" });
    expect(await root()).toMatchObject({
      name: "By v1",
      location: "Cellar",
      updated_at: "2026-02-06T20:01:00.125Z",
    });
    await api("PUT", `/devices/${device.uuid}`, { name: "By root" });
    await api("PUT", `/sensors/${sensors[1]}`, { type: "pressure" });
    const detail = await v1();
    expect(detail).toMatchObject({ name: "By root", location: "Cellar" });
    expect(detail.sensors[1].type).toBe("pressure");
    clock = start;
  });

  test("has another primary sensor when its first is deleted", async () => {
    await api("DELETE", `/sensors/${sensors[0]}`);
    expect((await api("GET", `/v1/data/${device.id}?limit=2`)).body).toMatchObject({
      data: [
        { timestamp: "2026-02-06T19:55:00Z", value: 60 },
        { timestamp: "2026-02-06T19:50:00Z", value: 1 },
      ],
    });
  });

  test("is gone on both APIs at once", async () => {
    const [here, there] = [`/v1/devices/${device.id}`, `/devices/${device.uuid}`];
    expect((await api("DELETE", count % 2 === 0 ? here : there)).status).toBe(200);
    expect([(await api("GET", here)).status, (await api("GET", there)).status]).toEqual([404, 404]);
  });
});

test("a device is connected while the connection over which it spoke is open", async () => {
  const { id, sensors } = (await api("POST", "/v1/devices", { name: "n", type: "t" })).body;
  const connected = async () => (await api("GET", `/v1/devices/${id}`)).body.connected;
  expect(await connected()).toBe(false);
  const own = await connectMqtt(gateway.mqttUrl);
  await own.publishAsync("lambdaiot", JSON.stringify({ type: "sensor_reading", sensor_id: sensors[0].id, value: 1 }), {
    qos: 1,
  });
  expect(await connected()).toBe(true);
  await own.endAsync();
  await until(async () => (await connected()) === false);
  expect((await api("GET", `/v1/devices/${id}`)).body.status).toBe("online"); // it is not lost yet
});

test("what is sent over /v1 is not sent on over MQTT, and devices are known by their UUID there", async () => {
  const inbox = await openInbox(client, "lambdaiot/#");
  const { uuid: device_id } = (await api("POST", "/v1/devices", { id: "quiet", name: "n", type: "t" })).body;
  await api("POST", "/v1/data/quiet", { timestamp: "2026-02-06T20:00:00Z", value: 1 });
  await publish({ type: "device_check_response", device_id, status: "ok" });
  await inbox.next((body) => body["device_id"] === device_id);
  expect(inbox.messages.map(({ body }) => body["type"])).toEqual(["device_check_response"]);
});
