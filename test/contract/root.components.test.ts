import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connectMqtt, logIn, openInbox, type Api, type Inbox } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// /sensors and /actors: one shape, documented alike, and what each publishes.

let gateway: LocalGateway;
let api: Api;
let deviceId: string;
let inbox: Inbox;
let clock = Date.parse("2026-01-14T10:00:00Z");

beforeAll(async () => {
  gateway = await startLocalGateway({ now: () => clock });
  api = await logIn(gateway.url);
  deviceId = await createDevice();
  const client = await connectMqtt(gateway.mqttUrl);
  inbox = await openInbox(client, "lambdaiot");
});
afterAll(() => gateway.close());

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const unknownId = "550e8400-e29b-41d4-a716-446655440000";

async function createDevice(): Promise<string> {
  const device = { name: "Room", description: "", location: "", status_id: 1 };
  return (await api("POST", "/devices", device)).body.id;
}

describe.each([
  { kind: "sensor", other: "actor" },
  { kind: "actor", other: "sensor" },
])("$kind", ({ kind, other }) => {
  const path = `/${kind}s`;
  const fields = { name: "Temperature", type: "temp", data_type_id: 1 };
  const create = async (more: object = {}): Promise<string> => {
    const { status, body } = await api("POST", path, { device_id: deviceId, ...fields, ...more });
    expect(status).toBe(201);
    return body.id;
  };

  test("POST answers 201 with the id, and nothing else", async () => {
    const { status, body } = await api("POST", path, { device_id: deviceId, ...fields });
    expect(status).toBe(201);
    expect(body).toEqual({ id: expect.stringMatching(uuid) });
    expect((await api("GET", `/${other}s/${body.id}`)).status).toBe(404);
  });

  test("POST takes the device's id in upper case, and any data type from 1", async () => {
    const id = await create({ device_id: deviceId.toUpperCase(), data_type_id: 77 });
    expect((await api("GET", `${path}/${id}`)).body).toMatchObject({ device_id: deviceId, data_type_id: 77 });
  });

  test.each([
    ["no device", { device_id: undefined }, "device_id is required"],
    ["no name", { name: undefined }, "name is required"],
    ["no type", { type: undefined }, "type is required"],
    ["no data type", { data_type_id: undefined }, "data_type_id is required"],
    ["a device that is not there", { device_id: unknownId }, "device not found"],
    ["a device id that is none", { device_id: "SC-TEMP-001" }, "device_id must be a UUID"],
    ["a device id that is a number", { device_id: 1 }, "device_id must be a UUID"],
    ["an empty name", { name: "" }, "name must not be empty"],
    ["an empty type", { type: "" }, "type must not be empty"],
    ["a name of 256 characters", { name: "n".repeat(256) }, "name must not be longer than 255 characters"],
    ["data type 0", { data_type_id: 0 }, "data_type_id must be an integer of 1 or more"],
    ["data type 1.5", { data_type_id: 1.5 }, "data_type_id must be an integer of 1 or more"],
    ["a data type that is a string", { data_type_id: "1" }, "data_type_id must be an integer of 1 or more"],
  ])("POST answers 400 to %s, and creates nothing", async (_, wrong, error) => {
    const before = (await api("GET", path)).body.length;
    const { status, body } = await api("POST", path, { device_id: deviceId, ...fields, ...wrong });
    expect({ status, body }).toEqual({ status: 400, body: { error } });
    expect((await api("GET", path)).body).toHaveLength(before);
  });

  test("GET lists all, a bare array, oldest first, each with the documented fields", async () => {
    const first = await create();
    clock += 1_000;
    const [second, third] = [await create(), await create()];
    const { status, body } = await api("GET", path);
    expect(status).toBe(200);
    expect(body.map(({ id }: { id: string }) => id).slice(-3)).toEqual([first, second, third]);
    const at = new Date(clock).toISOString().replace(".000Z", "Z");
    expect(body.at(-1)).toEqual({ id: third, device_id: deviceId, ...fields, created_at: at, updated_at: at });
  });

  test("GET by id answers 200 with the documented fields, for an id in upper case too", async () => {
    const id = await create();
    const { status, body } = await api("GET", `${path}/${id.toUpperCase()}`);
    expect(status).toBe(200);
    const at = new Date(clock).toISOString().replace(".000Z", "Z");
    expect(body).toEqual({ id, device_id: deviceId, ...fields, created_at: at, updated_at: at });
  });

  test("PUT answers 200 with its message and changes what is given alone", async () => {
    const id = await create();
    const before = (await api("GET", `${path}/${id}`)).body;
    clock += 60_000;
    const { status, body } = await api("PUT", `${path}/${id}`, { name: "Renamed" });
    expect({ status, body }).toEqual({ status: 200, body: { message: `${kind} updated` } });
    const updated_at = new Date(clock).toISOString().replace(".000Z", "Z");
    expect((await api("GET", `${path}/${id}`)).body).toEqual({ ...before, name: "Renamed", updated_at });
  });

  test("PUT takes all fields, and none, and moves it to another device", async () => {
    const id = await create();
    const all = { device_id: await createDevice(), name: "n", type: "t", data_type_id: 3 };
    expect((await api("PUT", `${path}/${id}`, all)).status).toBe(200);
    expect((await api("PUT", `${path}/${id}`, {})).status).toBe(200);
    expect((await api("GET", `${path}/${id}`)).body).toMatchObject(all);
  });

  test.each([
    ["a device that is not there", { device_id: unknownId }, "device not found"],
    ["a device id that is none", { device_id: "x" }, "device_id must be a UUID"],
    ["an empty name", { name: "" }, "name must not be empty"],
    ["data type 0 beside a good name", { name: "x", data_type_id: 0 }, "data_type_id must be an integer of 1 or more"],
  ])("PUT answers 400 to %s, and changes nothing", async (_, wrong, error) => {
    const id = await create();
    const { status, body } = await api("PUT", `${path}/${id}`, wrong);
    expect({ status, body }).toEqual({ status: 400, body: { error } });
    expect((await api("GET", `${path}/${id}`)).body).toMatchObject({ device_id: deviceId, ...fields });
  });

  test("DELETE answers 200 with its message, once", async () => {
    const id = await create();
    const { status, body } = await api("DELETE", `${path}/${id}`);
    expect({ status, body }).toEqual({ status: 200, body: { message: `${kind} deleted` } });
    expect((await api("DELETE", `${path}/${id}`)).status).toBe(404);
    expect((await api("GET", path)).body.some((entry: { id: string }) => entry.id === id)).toBe(false);
  });

  const command = kind === "sensor" ? "trigger" : "write";
  const calls = [
    ["GET", "", undefined],
    ["PUT", "", { name: "x" }],
    ["DELETE", "", undefined],
    ["POST", `/${command}`, { action: "read" }],
  ] as const;

  test.each(calls)("%s :id%s answers 404 where it is not there", async (method, suffix, input) => {
    const { status, body } = await api(method, `${path}/${unknownId}${suffix}`, input);
    expect({ status, body }).toEqual({ status: 404, body: { error: `${kind} not found` } });
  });

  test.each(["1", "SC-TEMP-001", unknownId.replaceAll("-", ""), `${unknownId}0`, "%00", "%ZZ"])(
    "every method answers 400 to the id %s",
    async (id) => {
      for (const [method, suffix, input] of calls) {
        const { status, body } = await api(method, `${path}/${id}${suffix}`, input);
        expect({ method, status, body }).toEqual({ method, status: 400, body: { error: `invalid ${kind} id` } });
      }
    },
  );
});

test("deleting a sensor takes its readings along", async () => {
  const fields = { device_id: deviceId, name: "Gone", type: "t", data_type_id: 2 };
  const { body: sensor } = await api("POST", "/sensors", fields);
  const { body: reading } = await api("POST", "/sensor-readings", { sensor_id: sensor.id, value: 1 });
  expect((await api("DELETE", `/sensors/${sensor.id}`)).status).toBe(200);
  expect((await api("GET", `/sensor-readings/${reading.id}`)).status).toBe(404);
  expect((await api("PUT", `/sensor-readings/${reading.id}`, { value: 2 })).status).toBe(404);
  expect((await api("GET", `/sensor-readings?sensor_id=${sensor.id}`)).body).toEqual([]);
});

describe("how long a sensor's readings are kept", () => {
  const fields = { name: "Temperature", type: "temp", data_type_id: 1 };
  const get = async (path: string) => (await api("GET", path)).body;

  test("is set with it or later, shown where it is set, and taken back with null", async () => {
    const { body } = await api("POST", "/sensors", { device_id: deviceId, ...fields, retention_days: 30 });
    const path = `/sensors/${body.id}`;
    expect(await get(path)).toMatchObject({ retention_days: 30 });
    expect((await get("/sensors")).at(-1)).toMatchObject({ id: body.id, retention_days: 30 });
    expect((await api("PUT", path, { name: "Other" })).status).toBe(200);
    expect(await get(path)).toMatchObject({ name: "Other", retention_days: 30 });
    expect((await api("PUT", path, { retention_days: 0 })).status).toBe(200);
    expect(await get(path)).toMatchObject({ retention_days: 0 });
    expect((await api("PUT", path, { retention_days: null })).status).toBe(200);
    expect(await get(path)).not.toHaveProperty("retention_days");
  });

  test.each([-1, 1.5, "30", 36_501])("is not %j", async (retention_days) => {
    const { body } = await api("POST", "/sensors", { device_id: deviceId, ...fields });
    const { status, body: error } = await api("PUT", `/sensors/${body.id}`, { retention_days });
    expect({ status, error }).toEqual({
      status: 400,
      error: { error: expect.stringContaining("retention_days") as string },
    });
  });

  test("is nothing that an actor has", async () => {
    const { body } = await api("POST", "/actors", { device_id: deviceId, ...fields, retention_days: 30 });
    expect((await api("PUT", `/actors/${body.id}`, { retention_days: 30 })).status).toBe(200);
    expect(await get(`/actors/${body.id}`)).not.toHaveProperty("retention_days");
  });
});

describe("POST /sensors/:id/trigger", () => {
  let sensorId: string;
  beforeAll(async () => {
    const fields = { device_id: deviceId, name: "Triggered", type: "t", data_type_id: 2 };
    sensorId = (await api("POST", "/sensors", fields)).body.id;
  });

  test.each([
    ["without a body", undefined, "read"],
    ["with an empty object", {}, "read"],
    ["with an action", { action: "calibrate" }, "calibrate"],
  ])("%s answers 202 and publishes the documented message", async (_, input, action) => {
    clock += 1_000;
    const requested_at = new Date(clock).toISOString().replace(".000Z", "Z");
    const { status, body } = await api("POST", `/sensors/${sensorId.toUpperCase()}/trigger`, input);
    expect({ status, body }).toEqual({ status: 202, body: { status: "published", topic: "lambdaiot" } });
    const message = await inbox.next((m) => m["requested_at"] === requested_at);
    expect(message).toEqual({ type: "sensor_trigger", sensor_id: sensorId, action, requested_at });
  });

  test.each([
    ["an action that is a number", { action: 1 }, "action must be a string"],
    ["an empty action", { action: "" }, "action must not be empty"],
    ["broken JSON", "{", "invalid JSON"],
  ])("answers 400 to %s, and publishes nothing", async (_, input, error) => {
    const before = inbox.messages.length;
    const { status, body } = await api("POST", `/sensors/${sensorId}/trigger`, input);
    expect({ status, body }).toEqual({ status: 400, body: { error } });
    await expectNothingNewBut(before);
  });
});

describe("POST /actors/:id/write", () => {
  let actorId: string;
  beforeAll(async () => {
    const fields = { device_id: deviceId, name: "LED", type: "led", data_type_id: 1 };
    actorId = (await api("POST", "/actors", fields)).body.id;
  });

  test.each([
    ["no value", {}],
    ["a number", { value: 21.5 }],
    ["a boolean", { value: false }],
    ["zero", { value: 0 }],
    ["an empty string", { value: "" }],
    ["null", { value: null }],
    ["a list", { value: [1, [2, "three"]] }],
    ["an object", { value: { r: 255, g: 0, nested: { deep: true } } }],
  ])("with %s answers 202 and publishes the documented message", async (_, input) => {
    clock += 1_000;
    const requested_at = new Date(clock).toISOString().replace(".000Z", "Z");
    const { status, body } = await api("POST", `/actors/${actorId}/write`, { action: "set", ...input });
    expect({ status, body }).toEqual({ status: 202, body: { status: "published", topic: "lambdaiot" } });
    const message = await inbox.next((m) => m["requested_at"] === requested_at);
    expect(message).toEqual({ type: "actor_command", actor_id: actorId, action: "set", ...input, requested_at });
  });

  test.each([
    ["no body", undefined, "Content-Type must be application/json"],
    ["no action", { value: 1 }, "action is required"],
    ["an empty action", { action: "" }, "action must not be empty"],
    ["an action that is null", { action: null }, "action must be a string"],
  ])("answers 400 to %s, and publishes nothing", async (_, input, error) => {
    const before = inbox.messages.length;
    const { status, body } = await api("POST", `/actors/${actorId}/write`, input);
    expect({ status, body }).toEqual({ status: 400, body: { error } });
    await expectNothingNewBut(before);
  });
});

/** A ping goes the same way as a command would: when it is there, a command would have been. */
async function expectNothingNewBut(before: number): Promise<void> {
  clock += 1_000;
  const { timestamp } = (await api("GET", "/mqttping")).body;
  await inbox.next((m) => m["timestamp"] === timestamp);
  expect(inbox.messages.slice(before).map(({ body }) => body["type"])).toEqual(["ping"]);
}
