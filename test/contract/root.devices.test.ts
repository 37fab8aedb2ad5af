import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createApi, logIn, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// /devices, as the Lambda document has it.

let gateway: LocalGateway;
let api: Api;
let clock = Date.parse("2026-01-14T10:00:00Z");

beforeAll(async () => {
  gateway = await startLocalGateway({ now: () => clock });
  api = await logIn(gateway.url);
});
afterAll(() => gateway.close());

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const unknownId = "550e8400-e29b-41d4-a716-446655440000";
const room = { name: "Room Sensor", description: "Living room", location: "Floor 1", status_id: 1 };

const create = async (fields: object = {}): Promise<string> => {
  const { status, body } = await api("POST", "/devices", { ...room, ...fields });
  expect(status).toBe(201);
  return body.id;
};

describe("POST /devices", () => {
  test("answers 201 with the id, and nothing else", async () => {
    const { status, body } = await api("POST", "/devices", room);
    expect(status).toBe(201);
    expect(body).toEqual({ id: expect.stringMatching(uuid) });
  });

  test.each([1, 2, 3, 4])("takes status %d", async (status_id) => {
    expect((await api("GET", `/devices/${await create({ status_id })}`)).body.status_id).toBe(status_id);
  });

  test("takes empty descriptions and locations, and gives every text back as it came", async () => {
    const texts = { name: "Ovën 🔥 <b>\"'", description: "", location: "a\0b\nc" };
    expect((await api("GET", `/devices/${await create(texts)}`)).body).toMatchObject(texts);
  });

  test("sets no field that is not the caller's to set", async () => {
    const id = await create({ id: unknownId, created_at: "2001-01-01T00:00:00Z", editedFields: ["name"], pk: 1 });
    expect(id).not.toBe(unknownId);
    expect((await api("GET", `/devices/${id}`)).body.created_at).toBe("2026-01-14T10:00:00Z");
  });

  test.each([
    ["no name", { name: undefined }, "name is required"],
    ["no description", { description: undefined }, "description is required"],
    ["no location", { location: undefined }, "location is required"],
    ["no status", { status_id: undefined }, "status_id is required"],
    ["an empty name", { name: "" }, "name must not be empty"],
    ["a name of 256 characters", { name: "n".repeat(256) }, "name must not be longer than 255 characters"],
    ["a name that is null", { name: null }, "name must be a string"],
    ["a location that is a list", { location: [] }, "location must be a string"],
    ["status 0", { status_id: 0 }, "status_id must be an integer from 1 to 4"],
    ["status 5", { status_id: 5 }, "status_id must be an integer from 1 to 4"],
    ["status 1.5", { status_id: 1.5 }, "status_id must be an integer from 1 to 4"],
    ["a status that is a string", { status_id: "1" }, "status_id must be an integer from 1 to 4"],
  ])("answers 400 to %s, and creates nothing", async (_, fields, error) => {
    const before = (await api("GET", "/devices")).body.length;
    const { status, body } = await api("POST", "/devices", { ...room, ...fields });
    expect({ status, body }).toEqual({ status: 400, body: { error } });
    expect((await api("GET", "/devices")).body).toHaveLength(before);
  });
});

describe("GET /devices", () => {
  test("answers everybody on the local network, a bare array, oldest first, each with the documented fields", async () => {
    const first = await create({ name: "list-1" });
    clock += 1_000;
    const second = await create({ name: "list-2" });
    const third = await create({ name: "list-3" }); // in the same millisecond
    const { status, body } = await createApi(gateway.url)("GET", "/devices");
    expect(status).toBe(200);
    expect(body.map(({ id }: { id: string }) => id).slice(-3)).toEqual([first, second, third]);
    expect(body.at(-1)).toEqual({
      id: third,
      ...room,
      name: "list-3",
      created_at: "2026-01-14T10:00:01Z",
      updated_at: "2026-01-14T10:00:01Z",
    });
    for (const device of body) expect(Object.keys(device)).toEqual(Object.keys(body[0]));
  });
});

describe("GET /devices/:id", () => {
  test("answers 200 with the documented fields", async () => {
    const id = await create();
    const { status, body } = await api("GET", `/devices/${id}`);
    expect(status).toBe(200);
    const at = new Date(clock).toISOString().replace(".000Z", "Z");
    expect(body).toEqual({ id, ...room, created_at: at, updated_at: at });
  });

  test("shows a fraction of a second only where there is one", async () => {
    clock = Date.parse("2026-01-14T10:00:05Z");
    const whole = await create();
    clock += 7;
    const fractional = await create();
    expect((await api("GET", `/devices/${whole}`)).body.created_at).toBe("2026-01-14T10:00:05Z");
    expect((await api("GET", `/devices/${fractional}`)).body.created_at).toBe("2026-01-14T10:00:05.007Z");
  });

  test("takes an id in upper case, and answers in lower case", async () => {
    const id = await create();
    const { status, body } = await api("GET", `/devices/${id.toUpperCase()}`);
    expect({ status, id: body.id }).toEqual({ status: 200, id });
  });
});

describe("PUT /devices/:id", () => {
  test("answers 200 with its message and changes what is given alone", async () => {
    const id = await create();
    const before = (await api("GET", `/devices/${id}`)).body;
    clock += 60_000;
    const { status, body } = await api("PUT", `/devices/${id.toUpperCase()}`, { location: "Attic" });
    expect({ status, body }).toEqual({ status: 200, body: { message: "device updated" } });
    const after = (await api("GET", `/devices/${id}`)).body;
    expect(after).toEqual({
      ...before,
      location: "Attic",
      updated_at: new Date(clock).toISOString().replace(".000Z", "Z"),
    });
  });

  test("takes all fields, and none", async () => {
    const id = await create();
    const all = { name: "n", description: "d", location: "l", status_id: 4 };
    expect((await api("PUT", `/devices/${id}`, all)).status).toBe(200);
    expect((await api("PUT", `/devices/${id}`, {})).status).toBe(200);
    expect((await api("GET", `/devices/${id}`)).body).toMatchObject(all);
  });

  test("leaves the id and the creation time alone", async () => {
    const id = await create();
    const before = (await api("GET", `/devices/${id}`)).body;
    const wish = { id: unknownId, created_at: "2001-01-01T00:00:00Z" };
    expect((await api("PUT", `/devices/${id}`, wish)).status).toBe(200);
    expect((await api("GET", `/devices/${id}`)).body.created_at).toBe(before.created_at);
    expect((await api("GET", `/devices/${unknownId}`)).status).toBe(404);
  });

  test.each([
    ["an empty name", { name: "" }, "name must not be empty"],
    ["a name that is null", { name: null }, "name must be a string"],
    ["status 5", { status_id: 5 }, "status_id must be an integer from 1 to 4"],
    [
      "a good field beside a bad one",
      { location: "Cellar", status_id: "ok" },
      "status_id must be an integer from 1 to 4",
    ],
  ])("answers 400 to %s, and changes nothing", async (_, fields, error) => {
    const id = await create();
    const { status, body } = await api("PUT", `/devices/${id}`, fields);
    expect({ status, body }).toEqual({ status: 400, body: { error } });
    expect((await api("GET", `/devices/${id}`)).body).toMatchObject(room);
  });
});

describe("DELETE /devices/:id", () => {
  test("answers 200 with its message, and takes sensors, actors and readings along", async () => {
    const device_id = await create();
    const other = await create();
    const component = { name: "Part", type: "part", data_type_id: 2 };
    const { body: sensor } = await api("POST", "/sensors", { device_id, ...component });
    const { body: actor } = await api("POST", "/actors", { device_id, ...component });
    const { body: kept } = await api("POST", "/sensors", { device_id: other, ...component });
    const { body: reading } = await api("POST", "/sensor-readings", { sensor_id: sensor.id, value: 1 });
    const { body: keptReading } = await api("POST", "/sensor-readings", { sensor_id: kept.id, value: 2 });

    const { status, body } = await api("DELETE", `/devices/${device_id.toUpperCase()}`);
    expect({ status, body }).toEqual({ status: 200, body: { message: "device deleted" } });

    for (const path of [
      `/devices/${device_id}`,
      `/sensors/${sensor.id}`,
      `/actors/${actor.id}`,
      `/sensor-readings/${reading.id}`,
    ])
      expect({ path, status: (await api("GET", path)).status }).toEqual({ path, status: 404 });
    expect((await api("GET", `/sensor-readings?sensor_id=${sensor.id}`)).body).toEqual([]);
    const all = (await api("GET", "/sensor-readings?limit=1000")).body.map(({ id }: { id: number }) => id);
    expect(all).toContain(keptReading.id);
    expect(all).not.toContain(reading.id);
    expect((await api("POST", "/sensor-readings", { sensor_id: sensor.id, value: 3 })).status).toBe(400);
    expect((await api("DELETE", `/devices/${device_id}`)).status).toBe(404);
  });
});

describe("ids", () => {
  const calls = [
    ["GET", undefined],
    ["PUT", { name: "x" }],
    ["DELETE", undefined],
  ] as const;

  test.each(calls)("%s answers 404 to a device that is not there", async (method, fields) => {
    const { status, body } = await api(method, `/devices/${unknownId}`, fields);
    expect({ status, body }).toEqual({ status: 404, body: { error: "device not found" } });
  });

  test.each([
    "1",
    "SC-TEMP-001",
    unknownId.replaceAll("-", ""),
    `${unknownId}0`,
    unknownId.replace("0", "g"),
    `{${unknownId}}`,
    `urn:uuid:${unknownId}`,
    "%00",
    "%ZZ",
    "..%2f..%2fetc%2fpasswd",
  ])("every method answers 400 to the id %s", async (id) => {
    for (const [method, fields] of calls) {
      const { status, body } = await api(method, `/devices/${id}`, fields);
      expect({ method, status, body }).toEqual({ method, status: 400, body: { error: "invalid device id" } });
    }
  });
});
