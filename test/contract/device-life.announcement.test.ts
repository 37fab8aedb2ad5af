import type { MqttClient } from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connectMqtt, logIn, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// A device announces itself on {topic}/discovery; REST shows what came of it. A PUBACK means committed, so nothing here
// has to be waited for.

let gateway: LocalGateway;
let api: Api;
let clock = Date.parse("2026-01-14T10:00:00Z");

beforeAll(async () => {
  gateway = await startLocalGateway({ now: () => clock });
  api = await logIn(gateway.url);
});
afterAll(() => gateway.close());

const find = async (path: string) => (await api("GET", path)).body;
const ofDevice = async (kind: "sensors" | "actors", deviceId: string) =>
  (await find(`/${kind}`)).filter((entry: { device_id: string }) => entry.device_id === deviceId);

/** A MAC address that no other test has, and the id that follows from it is asked of the gateway. */
let lastMac = 0;
const newMac = (): string => (++lastMac).toString(16).padStart(12, "0");

describe.each([
  ["TCP", () => gateway.mqttUrl],
  ["WebSocket", () => `${gateway.url.replace("http", "ws")}/mqtt`],
])("over %s", (transport, urlOf) => {
  let client: MqttClient;
  beforeAll(async () => {
    client = await connectMqtt(urlOf());
  });
  afterAll(() => client.endAsync());

  const announce = (body: object | string) =>
    client.publishAsync("lambdaiot/discovery", typeof body === "string" ? body : JSON.stringify(body), { qos: 1 });

  /** Announces a device that is new, and finds it. */
  async function announceNew(body: { device?: object; sensors?: object[]; actors?: object[] } = {}) {
    const before = new Set((await find("/devices")).map(({ id }: { id: string }) => id));
    const announcement = { mac_address: newMac(), ...body };
    await announce(announcement);
    const [device] = (await find("/devices")).filter(({ id }: { id: string }) => !before.has(id));
    return { device, announcement, id: device.id as string };
  }

  const room = { name: "Room Sensor", description: "Living room", location: "Floor 1" };
  const temperature = { name: "Temperature", type: "temperature", data_type_id: 2 };
  const humidity = { name: "Humidity", type: "humidity", data_type_id: 2 };
  const led = { name: "LED", type: "led", data_type_id: 1 };

  test("a device, its sensors and its actors come into being, with the ids that follow from the MAC address", async () => {
    if (transport === "WebSocket") await api("DELETE", "/devices/3814fb88-565c-5dc8-9b91-60d4002b6edc");
    await announce({
      mac_address: "AA:BB:CC:DD:EE:FF",
      device: { ...room, status_id: 4 },
      sensors: [temperature, humidity],
      actors: [led],
    });
    const at = new Date(clock).toISOString().replace(".000Z", "Z");
    const times = { created_at: at, updated_at: at };
    const id = "3814fb88-565c-5dc8-9b91-60d4002b6edc";
    // The status in an announcement is ignored: a device that speaks is well.
    expect(await find(`/devices/${id}`)).toEqual({ id, ...room, status_id: 1, ...times });
    const [sensor, second, ...moreSensors] = await ofDevice("sensors", id);
    expect(sensor).toEqual({ id: "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947", device_id: id, ...temperature, ...times });
    expect(second).toMatchObject(humidity);
    const [actor, ...moreActors] = await ofDevice("actors", id);
    expect(actor).toEqual({ id: "6cc20cc6-7740-5548-8444-6a33cf4271fd", device_id: id, ...led, ...times });
    expect([moreSensors, moreActors]).toEqual([[], []]);
  });

  test.each(["aabbccddeeff", "aa-bb-cc-dd-ee-ff", "AABB.CCDD.EEFF", "AA:BB:CC:DD:EE:FF"])(
    "the MAC address %s means the same device",
    async (mac_address) => {
      const before = (await find("/devices")).length;
      await announce({ mac_address, device: { name: `Known as ${mac_address}` } });
      const devices = await find("/devices");
      expect(devices).toHaveLength(before);
      expect(await find("/devices/3814fb88-565c-5dc8-9b91-60d4002b6edc")).toMatchObject({
        name: `Known as ${mac_address}`,
      });
    },
  );

  test("ids of its own are kept, whatever their version and case", async () => {
    const own = (n: number): string => `${transport === "TCP" ? "1" : "2"}000000${n}-E29B-41D4-A716-446655440000`;
    await announce({
      mac_address: newMac(),
      device: { id: own(1), ...room },
      sensors: [{ id: own(2), ...temperature }],
      actors: [{ id: own(3), ...led }],
    });
    const id = own(1).toLowerCase();
    expect(await find(`/devices/${own(1)}`)).toMatchObject({ id, ...room });
    expect(await find(`/sensors/${own(2)}`)).toMatchObject({ id: own(2).toLowerCase(), device_id: id });
    expect(await find(`/actors/${own(3)}`)).toMatchObject({ id: own(3).toLowerCase(), device_id: id });
  });

  test("an announcement of a MAC address alone is enough", async () => {
    const { device, announcement, id } = await announceNew();
    expect(device).toMatchObject({ name: announcement.mac_address, description: "", location: "", status_id: 1 });
    expect([await ofDevice("sensors", id), await ofDevice("actors", id)]).toEqual([[], []]);
  });

  test("an equal announcement changes nothing, hours later too", async () => {
    const body = { device: room, sensors: [temperature, humidity], actors: [led] };
    const { device, announcement, id } = await announceNew(body);
    const [sensors, actors] = [await ofDevice("sensors", id), await ofDevice("actors", id)];
    clock += 3_600_000;
    await announce(announcement);
    expect(await find(`/devices/${id}`)).toEqual(device);
    expect(await ofDevice("sensors", id)).toEqual(sensors);
    expect(await ofDevice("actors", id)).toEqual(actors);
  });

  test("what has changed is changed, what is new is added, and what is as it was stays untouched", async () => {
    const { device, announcement, id } = await announceNew({ device: room, sensors: [temperature, humidity] });
    const [sensor0, sensor1] = await ofDevice("sensors", id);
    clock += 60_000;
    const updated_at = new Date(clock).toISOString().replace(".000Z", "Z");
    await announce({
      ...announcement,
      device: { ...room, location: "Attic" },
      sensors: [temperature, { ...humidity, name: "Air humidity", type: "rh" }, { ...temperature, name: "Outside" }],
      actors: [led],
    });
    expect(await find(`/devices/${id}`)).toEqual({ ...device, location: "Attic", updated_at });
    const [now0, now1, now2, ...more] = await ofDevice("sensors", id);
    expect(now0).toEqual(sensor0);
    expect(now1).toEqual({ ...sensor1, name: "Air humidity", type: "rh", updated_at });
    expect(now2).toMatchObject({ name: "Outside", created_at: updated_at });
    expect(more).toEqual([]);
    expect(await ofDevice("actors", id)).toMatchObject([led]);
  });

  test("what a user has set over REST survives the next announcement; the rest still follows it", async () => {
    const { announcement, id } = await announceNew({ device: room, sensors: [temperature], actors: [led] });
    const [sensor] = await ofDevice("sensors", id);
    const [actor] = await ofDevice("actors", id);
    await api("PUT", `/devices/${id}`, { name: "Grandma's room" });
    await api("PUT", `/sensors/${sensor.id}`, { name: "By the window", data_type_id: 1 });
    await api("PUT", `/actors/${actor.id}`, { type: "lamp" });
    await announce({
      ...announcement,
      device: { ...room, description: "Rebuilt" },
      sensors: [{ ...temperature, type: "temp" }],
      actors: [{ ...led, name: "New LED" }],
    });
    expect(await find(`/devices/${id}`)).toMatchObject({ name: "Grandma's room", description: "Rebuilt" });
    expect(await find(`/sensors/${sensor.id}`)).toMatchObject({ name: "By the window", type: "temp", data_type_id: 1 });
    expect(await find(`/actors/${actor.id}`)).toMatchObject({ name: "New LED", type: "lamp" });
  });

  test("what is no longer announced becomes inactive, keeps its readings, and comes back", async () => {
    const body = { device: room, sensors: [temperature, humidity], actors: [led] };
    const { announcement, id } = await announceNew(body);
    const [, sensor] = await ofDevice("sensors", id);
    const [actor] = await ofDevice("actors", id);
    expect(sensor).not.toHaveProperty("active");
    await api("POST", "/sensor-readings", { sensor_id: sensor.id, value: 55 });

    await announce({ ...announcement, sensors: [temperature], actors: [] });
    expect(await find(`/sensors/${sensor.id}`)).toMatchObject({ ...humidity, active: false });
    expect(await find(`/actors/${actor.id}`)).toMatchObject({ ...led, active: false });
    expect((await ofDevice("sensors", id))[0]).not.toHaveProperty("active");
    expect(await find(`/sensor-readings?sensor_id=${sensor.id}`)).toMatchObject([{ value: 55 }]);

    await announce(announcement);
    expect(await find(`/sensors/${sensor.id}`)).not.toHaveProperty("active");
    expect(await find(`/actors/${actor.id}`)).not.toHaveProperty("active");
    expect(await find(`/sensor-readings?sensor_id=${sensor.id}`)).toMatchObject([{ value: 55 }]);
  });

  test("a device cannot take over another one's sensor or actor; the rest of its announcement counts", async () => {
    const owner = await announceNew({ sensors: [temperature], actors: [led] });
    const [sensor] = await ofDevice("sensors", owner.id);
    const [actor] = await ofDevice("actors", owner.id);
    const thief = await announceNew({
      sensors: [{ id: sensor.id, name: "Mine now", type: "stolen" }, humidity],
      actors: [{ id: actor.id.toUpperCase(), name: "Mine too", type: "stolen" }],
    });
    expect(await find(`/sensors/${sensor.id}`)).toEqual(sensor);
    expect(await find(`/actors/${actor.id}`)).toEqual(actor);
    expect(await ofDevice("sensors", thief.id)).toMatchObject([humidity]);
    expect(await ofDevice("actors", thief.id)).toEqual([]);
    expect(gateway.app.counters.get("mqtt.foreign_components")).toBeGreaterThanOrEqual(2);
  });

  test.each([
    [2, 1],
    [3, 1],
    [4, 4],
  ])("a device of status %d has status %d after its announcement", async (before, after) => {
    const { announcement, id } = await announceNew({ device: room });
    await api("PUT", `/devices/${id}`, { status_id: before });
    await announce({ ...announcement, device: { ...room, status_id: 1 } });
    expect((await find(`/devices/${id}`)).status_id).toBe(after);
  });

  test("a device that was deleted is new when it announces itself again", async () => {
    const { announcement, id } = await announceNew({ device: room, sensors: [temperature] });
    const [sensor] = await ofDevice("sensors", id);
    await api("POST", "/sensor-readings", { sensor_id: sensor.id, value: 1 });
    await api("DELETE", `/devices/${id}`);
    await announce(announcement);
    expect((await find(`/devices/${id}`)).id).toBe(id);
    expect((await find(`/sensors/${sensor.id}`)).id).toBe(sensor.id);
    expect(await find(`/sensor-readings?sensor_id=${sensor.id}`)).toEqual([]);
  });

  test.each([
    ["broken JSON", '{"mac_address":'],
    ["an array", "[]"],
    ["neither MAC address nor id", { device: { name: "Nobody" } }],
    ["a MAC address that is none", { mac_address: "00:11:22:33:44" }],
    ["an id that is none", { mac_address: "0123456789ab", device: { id: "SC-TEMP-001" } }],
    ["sensors that are no list", { mac_address: "0123456789ab", sensors: {} }],
    ["a sensor id that is none", { mac_address: "0123456789ab", sensors: [{ id: "x" }] }],
    ["data type 0", { mac_address: "0123456789ab", actors: [{ data_type_id: 0 }] }],
    ["a name that is a number", { mac_address: "0123456789ab", device: { name: 1 } }],
  ])("%s is acknowledged, counted, and changes nothing", async (_, body) => {
    const rejectedBefore = countRejected();
    const before = await find("/devices");
    await announce(body);
    expect(await find("/devices")).toEqual(before);
    expect(countRejected()).toBe(rejectedBefore + 1);
    expect(client.connected).toBe(true);
  });
});

function countRejected(): number {
  const { counters } = gateway.app;
  return counters.get("mqtt.rejected.not_json") + counters.get("mqtt.rejected.bad_announcement");
}
