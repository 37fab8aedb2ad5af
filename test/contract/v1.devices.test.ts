import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { logIn, type Answer, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// GET, POST, PUT and DELETE /v1/devices.

const env = { LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000", LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000" };
const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const start = Date.parse("2026-02-06T20:00:00Z");
let clock = start;

let gateway: LocalGateway;
let api: Api;

beforeAll(async () => {
  gateway = await startLocalGateway({ env, now: () => clock });
  api = await logIn(gateway.url);
});
afterAll(() => gateway.close());

const shown = ({ status, body }: Answer) => ({ status, body });
const error = (status: number, code: string, details: unknown = expect.any(Object)) => ({
  status,
  body: { error: { code, message: expect.any(String), details } },
});
const notFound = { status: 404, body: { error: { code: "NOT_FOUND", message: "device not found", details: {} } } };
const invalid = (field: string) => error(400, "VALIDATION_ERROR", { field });

const create = async (fields: object = {}): Promise<Answer["body"]> => {
  const { status, body } = await api("POST", "/v1/devices", { name: "Sensor", type: "temperature", ...fields });
  expect(status).toBe(201);
  return body;
};
const idsOf = ({ body }: Answer): string[] => body.devices.map(({ id }: { id: string }) => id);

test("the document's sample list comes from a device made under that id, once it has sent something", async () => {
  const device = { id: "SC-TEMP-001", name: "Living Room Temperature", type: "temperature" };
  expect((await api("POST", "/v1/devices", device)).status).toBe(201);
  await api("POST", "/v1/data/SC-TEMP-001", { timestamp: "2026-02-06T20:00:00Z", value: 22.5, unit: "°C" });
  expect(shown(await api("GET", "/v1/devices"))).toEqual({
    status: 200,
    body: {
      devices: [{ ...device, status: "online", lastSeen: "2026-02-06T20:00:00Z" }],
      total: 1,
      limit: 50,
      offset: 0,
    },
  });
});

describe("POST /v1/devices", () => {
  test("answers 201 with the whole object: offline until it is heard, with a primary sensor of its type", async () => {
    const fields = { name: "Hall", type: "humidity", manufacturer: "Acme", model: "H-1", location: "Ground floor" };
    const { status, body } = await api("POST", "/v1/devices", fields);
    expect({ status, body }).toEqual({
      status: 201,
      body: {
        ...fields,
        id: expect.stringMatching(uuid),
        uuid: body.id,
        status: "offline",
        lastSeen: null,
        connected: false,
        lastReading: null,
        createdAt: "2026-02-06T20:00:00Z",
        updatedAt: "2026-02-06T20:00:00Z",
        sensors: [
          {
            id: expect.stringMatching(uuid),
            name: "Hall",
            type: "humidity",
            unit: null,
            active: true,
            lastReading: null,
            lastValue: null,
          },
        ],
        actors: [],
      },
    });
    expect(shown(await api("GET", `/v1/devices/${body.id}`))).toEqual({ status: 200, body });
  });

  test("needs a name and a type alone", async () => {
    expect(await create()).toMatchObject({ manufacturer: null, model: null, location: "" });
  });

  test.each(["a", "A.b_c-1", "x".repeat(64), "..", "__proto__", "42"])("takes %s for an id", async (id) => {
    const made = await create({ id });
    expect(made).toMatchObject({ id, uuid: expect.stringMatching(uuid) });
    // URLs resolve dot segments away, encoded or not: such a device is found by its UUID.
    const path = id === ".." ? made.uuid : encodeURIComponent(id);
    expect(shown(await api("GET", `/v1/devices/${path}`))).toEqual({ status: 200, body: made });
    expect(shown(await api("GET", `/v1/devices/${made.uuid.toUpperCase()}`))).toEqual({ status: 200, body: made });
  });

  test("takes a UUID for the device's own, in lower case", async () => {
    const id = "11111111-2222-7333-8444-ABCDEFABCDEF";
    expect(await create({ id })).toMatchObject({ id: id.toLowerCase(), uuid: id.toLowerCase() });
    expect((await api("GET", `/devices/${id}`)).body.id).toBe(id.toLowerCase());
    expect(shown(await api("POST", "/v1/devices", { id: id.toLowerCase(), name: "n", type: "t" }))).toEqual(
      error(409, "CONFLICT", {}),
    );
  });

  test("answers 409 CONFLICT to an id that is taken, be it another's UUID", async () => {
    const { uuid: taken } = await create({ id: "taken" });
    for (const id of ["taken", taken, taken.toUpperCase()])
      expect(shown(await api("POST", "/v1/devices", { id, name: "n", type: "t" }))).toEqual(error(409, "CONFLICT", {}));
    const { total } = (await api("GET", "/v1/devices")).body;
    expect((await create({ id: "TAKEN" })).id).toBe("TAKEN"); // letters count
    expect((await api("GET", "/v1/devices")).body.total).toBe(total + 1);
  });

  test("makes one device of ten requests for one id at once", async () => {
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => api("POST", "/v1/devices", { id: "race", name: "n", type: "t" })),
    );
    expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([201, ...Array(9).fill(409)]);
  });

  test.each([
    ["no name", { name: undefined }, "name", "name is required"],
    ["an empty name", { name: "" }, "name", "name must not be empty"],
    ["a name that is a number", { name: 1 }, "name", "name must be a string"],
    ["a name of 256 characters", { name: "n".repeat(256) }, "name", "name must not be longer than 255 characters"],
    ["no type", { type: undefined }, "type", "type is required"],
    ["an empty type", { type: "" }, "type", "type must not be empty"],
    ["a type that is null", { type: null }, "type", "type must be a string"],
    ["a manufacturer that is a number", { manufacturer: 1 }, "manufacturer", "manufacturer must be a string"],
    ["a model that is a list", { model: [] }, "model", "model must be a string"],
    ["a location that is an object", { location: {} }, "location", "location must be a string"],
    ["an empty id", { id: "" }, "id", expect.stringContaining("1 to 64 letters")],
    ["an id of 65 characters", { id: "x".repeat(65) }, "id", expect.stringContaining("1 to 64 letters")],
    ["an id with a slash", { id: "a/b" }, "id", expect.stringContaining("1 to 64 letters")],
    ["an id with a line break at its end", { id: "a\n" }, "id", expect.stringContaining("1 to 64 letters")],
    ["an id that is null", { id: null }, "id", "id must be a string"],
  ])("answers 400 to %s", async (_, fields, field, message) => {
    const { total } = (await api("GET", "/v1/devices")).body;
    const answer = await api("POST", "/v1/devices", { name: "Sensor", type: "temperature", ...fields });
    expect(shown(answer)).toEqual({
      status: 400,
      body: { error: { code: "VALIDATION_ERROR", message, details: { field } } },
    });
    expect((await api("GET", "/v1/devices")).body.total).toBe(total);
  });

  test("leaves fields alone that it does not know", async () => {
    expect(await create({ status: "online", uuid: "x", createdAt: "1999", secret: 1 })).toMatchObject({
      status: "offline",
      createdAt: "2026-02-06T20:00:00Z",
    });
  });
});

describe("GET /v1/devices", () => {
  let list: LocalGateway;
  let reader: Api;
  const ids = Array.from({ length: 105 }, (_, i) => `device-${String(i).padStart(3, "0")}`);
  beforeAll(async () => {
    list = await startLocalGateway({ env, now: () => clock });
    reader = await logIn(list.url);
    for (const [i, id] of ids.entries()) {
      await reader("POST", "/v1/devices", { id, name: id, type: ["temperature", "humidity", "co2"][i % 3] });
    }
    for (const id of ids.slice(0, 10)) {
      await reader("POST", `/v1/data/${id}`, { timestamp: "2026-02-06T20:00:00Z", value: 1 });
    }
    await reader("PUT", `/v1/devices/${ids[9]}`, { status: "offline" });
  });
  afterAll(() => list.close());

  test("returns 50 by default, 100 at most, oldest first, with the total of all", async () => {
    const { body } = await reader("GET", "/v1/devices");
    expect(body).toMatchObject({ total: 105, limit: 50, offset: 0 });
    expect(idsOf({ body } as Answer)).toEqual(ids.slice(0, 50));
    const all = await reader("GET", "/v1/devices?limit=1000");
    expect(all.body).toMatchObject({ total: 105, limit: 100, offset: 0 });
    expect(idsOf(all)).toEqual(ids.slice(0, 100));
  });

  test("pages with limit and offset without a gap or a repetition", async () => {
    const pages = await Promise.all(
      [0, 40, 80, 120].map((offset) => reader("GET", `/v1/devices?limit=40&offset=${offset}`)),
    );
    expect(pages.flatMap(idsOf)).toEqual(ids);
    expect(pages.map(({ body }) => [body.total, body.limit, body.offset])).toEqual(
      [0, 40, 80, 120].map((offset) => [105, 40, offset]),
    );
    expect((await reader("GET", "/v1/devices?limit=0")).body).toEqual({ devices: [], total: 105, limit: 0, offset: 0 });
    expect(idsOf(await reader("GET", `/v1/devices?offset=${"9".repeat(40)}`))).toEqual([]);
  });

  test("filters by status, in all three words, each device under one of them", async () => {
    const online = await reader("GET", "/v1/devices?status=online");
    expect(idsOf(online)).toEqual(ids.slice(0, 9));
    expect(online.body.total).toBe(9);
    const offline = await reader("GET", "/v1/devices?status=offline&limit=100");
    expect(idsOf(offline)).toEqual(ids.slice(9));
    expect(offline.body.total).toBe(96);
    expect((await reader("GET", "/v1/devices?status=error")).body).toMatchObject({ devices: [], total: 0 });
  });

  test("filters by type, together with the status", async () => {
    const humid = await reader("GET", "/v1/devices?type=humidity&limit=100");
    expect(idsOf(humid)).toEqual(ids.filter((_, i) => i % 3 === 1));
    expect(humid.body.total).toBe(35);
    expect(idsOf(await reader("GET", "/v1/devices?type=humidity&status=online"))).toEqual([ids[1], ids[4], ids[7]]);
    expect((await reader("GET", "/v1/devices?type=humid")).body).toMatchObject({ devices: [], total: 0 });
    expect((await reader("GET", "/v1/devices?type=")).body.total).toBe(0);
  });

  test.each([
    ["limit=-1", "limit"],
    ["limit=ten", "limit"],
    ["limit=1.5", "limit"],
    ["limit=", "limit"],
    ["limit=%2010", "limit"],
    ["offset=-1", "offset"],
    ["offset=1e3", "offset"],
    ["status=lost", "status"],
    ["status=ONLINE", "status"],
    ["status=", "status"],
    [`type=${"t".repeat(256)}`, "type"],
  ])("answers 400 to ?%s", async (query, field) => {
    expect(shown(await reader("GET", `/v1/devices?${query}`))).toEqual(invalid(field));
  });
});

describe("GET /v1/devices?include=lastReading", () => {
  let list: LocalGateway;
  let reader: Api;
  const readText = async (path: string): Promise<string> => {
    const response = await fetch(list.url + path, { headers: { Authorization: `Bearer ${reader.token}` } });
    return response.text();
  };
  const listed = async (query = ""): Promise<Answer["body"][]> =>
    (await reader("GET", `/v1/devices?include=lastReading&limit=100${query}`)).body.devices;
  const send = (id: string, timestamp: string, value: number, sensor = ""): Promise<Answer> =>
    reader("POST", `/v1/data/${id}${sensor && `?sensor=${sensor}`}`, { timestamp, value });

  beforeEach(async () => {
    clock = start;
    list = await startLocalGateway({ env, now: () => clock });
    reader = await logIn(list.url);
  });
  afterEach(() => list.close());

  test("adds to each device the time and the value of its newest reading, and to the list without it nothing", async () => {
    for (const id of ["one", "two"]) await reader("POST", "/v1/devices", { id, name: id, type: "temperature" });
    await send("one", "2026-02-06T19:59:58.250Z", -0.5);
    const one = '{"id":"one","name":"one","type":"temperature","status":"online","lastSeen":"2026-02-06T20:00:00Z"';
    const two = '{"id":"two","name":"two","type":"temperature","status":"offline","lastSeen":null';
    const end = '],"total":2,"limit":50,"offset":0}';
    expect(await readText("/v1/devices")).toBe(`{"devices":[${one}},${two}}${end}`);
    expect(await readText("/v1/devices?include=lastReading")).toBe(
      `{"devices":[${one},"lastReading":"2026-02-06T19:59:58.250Z","lastValue":-0.5},${two},"lastReading":null,"lastValue":null}${end}`,
    );
  });

  test("means the primary sensor, as the first one in the device's details has it", async () => {
    const { uuid: uuidOfOne } = (await reader("POST", "/v1/devices", { id: "one", name: "One", type: "t" })).body;
    const input = { device_id: uuidOfOne, name: "Second", type: "humidity", data_type_id: 2 };
    const { id: second } = (await reader("POST", "/sensors", input)).body;
    await send("one", "2026-02-06T19:00:00Z", 55, second);
    expect(await listed()).toMatchObject([{ id: "one", type: "t", lastReading: null, lastValue: null }]);
    await send("one", "2026-02-06T18:00:00Z", 20);
    const { sensors } = (await reader("GET", "/v1/devices/one")).body;
    const [{ lastReading, lastValue }] = sensors;
    expect([lastReading, lastValue]).toEqual(["2026-02-06T18:00:00Z", 20]);
    expect(await listed()).toMatchObject([{ id: "one", lastReading, lastValue }]);
  });

  test("follows each reading that comes, changes or goes, and no back-fill", async () => {
    await reader("POST", "/v1/devices", { id: "one", name: "One", type: "t" });
    const last = async () => (await listed()).map(({ lastReading, lastValue }) => [lastReading, lastValue]);
    await send("one", "2026-02-06T19:00:00Z", 1);
    await send("one", "2026-02-06T18:00:00Z", 2);
    expect(await last()).toEqual([["2026-02-06T19:00:00Z", 1]]);
    await send("one", "2026-02-06T19:00:00Z", 3); // of one instant the one that came last
    expect(await last()).toEqual([["2026-02-06T19:00:00Z", 3]]);
    const [{ id }] = (await reader("GET", "/sensor-readings?limit=1")).body;
    await reader("PUT", `/sensor-readings/${id}`, { value: 4, value_at: "2026-02-06T19:30:00Z" });
    expect(await last()).toEqual([["2026-02-06T19:30:00Z", 4]]);
    await reader("DELETE", `/sensor-readings/${id}`);
    expect(await last()).toEqual([["2026-02-06T19:00:00Z", 1]]);
  });

  test("goes with filters and pages, and with devices that have no sensor", async () => {
    for (const [i, id] of ["a", "b", "c", "d"].entries()) {
      await reader("POST", "/v1/devices", { id, name: id, type: i % 2 === 0 ? "t" : "u" });
      if (i < 3) await send(id, "2026-02-06T19:00:00Z", i);
    }
    const shed = { name: "Shed", description: "", location: "", status_id: 2 };
    expect((await reader("POST", "/devices", shed)).status).toBe(201);
    const values = (devices: Answer["body"][]) => devices.map(({ id, lastValue }) => [id, lastValue]);
    expect(values(await listed())).toEqual([
      ["a", 0],
      ["b", 1],
      ["c", 2],
      ["d", null],
      [expect.any(String), null],
    ]);
    expect(values(await listed("&type=t"))).toEqual([
      ["a", 0],
      ["c", 2],
    ]);
    expect(values(await listed("&type=u&status=offline"))).toEqual([["d", null]]);
    expect(values(await listed("&status=online&offset=1"))).toEqual([
      ["b", 1],
      ["c", 2],
    ]);
  });

  test("lists the oldest first by when they were made, whatever the clock has done", async () => {
    for (const [id, at] of [
      ["late", 2_000],
      ["early", 0],
      ["middle", 1_000],
      ["too", 1_000],
    ] as const) {
      clock = start + at;
      await reader("POST", "/v1/devices", { id, name: id, type: "t" });
    }
    expect((await listed()).map(({ id }) => id)).toEqual(["early", "middle", "too", "late"]);
    expect((await listed("&offset=2")).map(({ id }) => id)).toEqual(["too", "late"]);
  });

  test.each([
    "include=",
    "include=lastreading",
    "include=sensors",
    "include=lastReading,sensors",
    "include=%20lastReading",
  ])("answers 400 to ?%s", async (query) => {
    expect(shown(await reader("GET", `/v1/devices?${query}`))).toEqual({
      status: 400,
      body: {
        error: { code: "VALIDATION_ERROR", message: "include must be lastReading", details: { field: "include" } },
      },
    });
  });
});

describe("GET /v1/devices/{deviceId}", () => {
  test("answers 404 NOT_FOUND to an id that nobody has, 400 to one that nobody can have", async () => {
    for (const id of ["nobody", "550e8400-e29b-41d4-a716-446655440000", "%20", "a%2Fb", "%00"])
      expect(shown(await api("GET", `/v1/devices/${id}`))).toEqual(notFound);
    expect(shown(await api("GET", `/v1/devices/${"x".repeat(65)}`))).toEqual(invalid("deviceId"));
  });

  test("tells the last reading by its own time: back-fill does not change it", async () => {
    const { id } = await create();
    await api("POST", `/v1/data/${id}`, { timestamp: "2026-02-06T19:00:00Z", value: 20 });
    await api("POST", `/v1/data/${id}`, { timestamp: "2025-02-06T19:00:00Z", value: 10 });
    const { body } = await api("GET", `/v1/devices/${id}`);
    expect(body).toMatchObject({ lastReading: "2026-02-06T19:00:00Z", lastSeen: "2026-02-06T20:00:00Z" });
    expect(body.sensors).toMatchObject([{ lastReading: "2026-02-06T19:00:00Z", lastValue: 20 }]);
  });
});

describe("PUT /v1/devices/{deviceId}", () => {
  test("answers 200 with the whole object, changed where a field was given", async () => {
    const made = await create({ id: "put-1", location: "Attic" });
    clock = start + 1_500;
    const changes = { name: "New", manufacturer: "Acme", model: "M", location: "Cellar" };
    const { status, body } = await api("PUT", "/v1/devices/put-1", changes);
    expect({ status, body }).toEqual({
      status: 200,
      body: { ...made, ...changes, updatedAt: "2026-02-06T20:00:01.500Z" },
    });
    expect(shown(await api("GET", "/v1/devices/put-1"))).toEqual({ status: 200, body });
    clock = start;
  });

  test("changes nothing with an empty object", async () => {
    const { updatedAt: _, ...made } = await create();
    expect((await api("PUT", `/v1/devices/${made.id}`, {})).body).toMatchObject(made);
  });

  test("changes the primary sensor's type with the device's", async () => {
    const { id } = await create();
    const { body } = await api("PUT", `/v1/devices/${id}`, { type: "pressure" });
    expect(body).toMatchObject({ type: "pressure", sensors: [{ type: "pressure" }] });
    expect((await api("GET", "/v1/devices?type=pressure")).body).toMatchObject({ devices: [{ id }], total: 1 });
  });

  test("disables and enables a device with its status", async () => {
    const { id } = await create();
    await api("POST", `/v1/data/${id}`, { timestamp: "2026-02-06T20:00:00Z", value: 1 });
    expect((await api("GET", `/v1/devices/${id}`)).body.status).toBe("online");
    expect((await api("PUT", `/v1/devices/${id}`, { status: "offline" })).body.status).toBe("offline");
    // Disabled: what it sends is kept, and does not bring it back.
    await api("POST", `/v1/data/${id}`, { timestamp: "2026-02-06T20:00:01Z", value: 2 });
    expect((await api("GET", `/v1/devices/${id}`)).body.status).toBe("offline");
    expect((await api("GET", `/v1/data/${id}`)).body.total).toBe(2);
    expect((await api("PUT", `/v1/devices/${id}`, { status: "online" })).body.status).toBe("online");
  });

  test("does not make a device heard by calling it online", async () => {
    const { id } = await create();
    expect((await api("PUT", `/v1/devices/${id}`, { status: "online" })).body.status).toBe("offline");
  });

  test.each([
    ["a status that is observed, not asked for", { status: "error" }, "status"],
    ["a status that is a number", { status: 1 }, "status"],
    ["an empty name", { name: "" }, "name"],
    ["a name that is null", { name: null }, "name"],
    ["an empty type", { type: "" }, "type"],
    ["a manufacturer that is null", { manufacturer: null }, "manufacturer"],
  ])("answers 400 to %s", async (_, body, field) => {
    const made = await create();
    expect(shown(await api("PUT", `/v1/devices/${made.id}`, body))).toEqual(invalid(field));
    expect((await api("GET", `/v1/devices/${made.id}`)).body).toEqual(made);
  });

  test("leaves the id as it is, and answers 404 to one that nobody has", async () => {
    await create({ id: "put-2" });
    expect((await api("PUT", "/v1/devices/put-2", { id: "put-3" })).body.id).toBe("put-2");
    expect(shown(await api("PUT", "/v1/devices/put-3", { name: "x" }))).toEqual(notFound);
  });
});

describe("DELETE /v1/devices/{deviceId}", () => {
  test("answers 200 success, and the device, its sensors and its data are gone", async () => {
    const { id, sensors } = await create({ id: "gone" });
    await api("POST", "/v1/data/gone", { timestamp: "2026-02-06T20:00:00Z", value: 1 });
    expect(shown(await api("DELETE", "/v1/devices/gone"))).toEqual({ status: 200, body: { success: true } });
    for (const [method, path] of [
      ["GET", "/v1/devices/gone"],
      ["DELETE", "/v1/devices/gone"],
      ["GET", "/v1/data/gone"],
    ] as const)
      expect(shown(await api(method, path))).toEqual(notFound);
    expect((await api("GET", `/sensors/${sensors[0].id}`)).status).toBe(404);
    expect((await create({ id })).lastReading).toBeNull(); // another one of that name starts with nothing
    expect((await api("GET", "/v1/data/gone")).body).toEqual({ deviceId: "gone", data: [], total: 0 });
  });
});

describe("errors", () => {
  test("of paths that lead nowhere are in this dialect's shape", async () => {
    const nowhere = {
      status: 404,
      body: { error: { code: "NOT_FOUND", message: "resource not found", details: {} } },
    };
    for (const path of ["/v1", "/v1/", "/v1/nothing", "/v1/devices/", "/v1/devices/a/b", "/v1/health/disk"])
      expect(shown(await api("GET", path))).toEqual(nowhere);
    expect(shown(await api("PATCH", "/v1/devices/a"))).toEqual(nowhere);
    expect(shown(await api("GET", "/v1x"))).toEqual({ status: 404, body: { error: "resource not found" } });
  });

  test("of a body that is too large are 413 PAYLOAD_TOO_LARGE", async () => {
    const body = JSON.stringify({ name: "n".repeat(262_144), type: "t" });
    expect(shown(await api("POST", "/v1/devices", body))).toEqual(error(413, "PAYLOAD_TOO_LARGE", {}));
  });
});
