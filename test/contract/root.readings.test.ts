import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { logIn, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// /sensor-readings, as the Lambda document has it and the contract completes it.

let gateway: LocalGateway;
let api: Api;
let deviceId: string;
const start = Date.parse("2026-01-14T10:00:00Z");
let clock = start;

beforeAll(async () => {
  gateway = await startLocalGateway({ now: () => clock });
  api = await logIn(gateway.url);
  const device = { name: "Room", description: "", location: "", status_id: 1 };
  deviceId = (await api("POST", "/devices", device)).body.id;
});
afterAll(() => gateway.close());

const unknownId = "550e8400-e29b-41d4-a716-446655440000";

const notTime = "value_at must be an RFC 3339 time, such as 2026-01-14T10:00:00Z";

async function createSensor(): Promise<string> {
  const fields = { device_id: deviceId, name: "Temperature", type: "temp", data_type_id: 2 };
  return (await api("POST", "/sensors", fields)).body.id;
}

async function store(sensor_id: string, value: number, value_at?: string): Promise<number> {
  const { status, body } = await api("POST", "/sensor-readings", { sensor_id, value, value_at });
  expect(status).toBe(201);
  return body.id;
}

const valuesOf = (body: { value: number }[]): number[] => body.map(({ value }) => value);
const idsOf = (body: { id: number }[]): number[] => body.map(({ id }) => id);

describe("POST /sensor-readings", () => {
  test("answers 201 with a whole number for an id, and nothing else", async () => {
    const sensor_id = await createSensor();
    const { status, body } = await api("POST", "/sensor-readings", { sensor_id, value: 22.5 });
    expect(status).toBe(201);
    expect(body).toEqual({ id: expect.any(Number) });
    expect(Number.isSafeInteger(body.id)).toBe(true);
  });

  test("takes the gateway's time where there is none", async () => {
    const id = await store(await createSensor(), 1);
    expect((await api("GET", `/sensor-readings/${id}`)).body.value_at).toBe("2026-01-14T10:00:00Z");
  });

  test.each([
    ["2026-01-14T10:00:00Z", "2026-01-14T10:00:00Z"],
    ["2026-01-14t10:00:00z", "2026-01-14T10:00:00Z"],
    ["2026-01-14T10:00:00.000Z", "2026-01-14T10:00:00Z"],
    ["2026-01-14T10:00:00.25Z", "2026-01-14T10:00:00.250Z"],
    ["2026-01-14T10:00:00.0019Z", "2026-01-14T10:00:00.001Z"],
    ["2026-01-14T11:30:00+01:30", "2026-01-14T10:00:00Z"],
    ["2026-01-13T22:00:00-12:00", "2026-01-14T10:00:00Z"],
    ["2026-01-14T10:00:00-00:00", "2026-01-14T10:00:00Z"],
    ["2024-02-29T23:59:59+00:00", "2024-02-29T23:59:59Z"],
    ["1969-12-31T23:59:59Z", "1969-12-31T23:59:59Z"],
    ["2026-01-15T10:00:00Z", "2026-01-15T10:00:00Z"], // 24 hours ahead, and not more
  ])("takes the time %s and gives it back as %s", async (sent, shown) => {
    const id = await store(await createSensor(), 1, sent);
    expect((await api("GET", `/sensor-readings/${id}`)).body.value_at).toBe(shown);
  });

  test.each([0, -40.5, 0.1 + 0.2, 1e300, -5e-324, 2 ** 53, 23.7])(
    "takes the value %d and gives it back",
    async (value) => {
      const id = await store(await createSensor(), value);
      expect((await api("GET", `/sensor-readings/${id}`)).body.value).toBe(value);
    },
  );

  test("shows minus zero as zero", async () => {
    const sensor_id = await createSensor();
    const { body } = await api("POST", "/sensor-readings", `{"sensor_id":"${sensor_id}","value":-0}`);
    expect(Object.is((await api("GET", `/sensor-readings/${body.id}`)).body.value, 0)).toBe(true);
  });

  test("takes the sensor's id in upper case", async () => {
    const sensor_id = await createSensor();
    const id = await store(sensor_id.toUpperCase(), 5);
    expect((await api("GET", `/sensor-readings/${id}`)).body.sensor_id).toBe(sensor_id);
  });

  test.each([
    ["no sensor", { sensor_id: undefined }, "sensor_id is required"],
    ["a sensor that is not there", { sensor_id: unknownId }, "sensor not found"],
    ["a sensor id that is none", { sensor_id: "SC-TEMP-001" }, "sensor_id must be a UUID"],
    ["no value", { value: undefined }, "value is required"],
    ["a value that is null", { value: null }, "value must be a number"],
    ["a value that is a string", { value: "23.7" }, "value must be a number"],
    ["a value that is a boolean", { value: true }, "value must be a number"],
    ["a value that is a list", { value: [1] }, "value must be a number"],
    ["a time that is null", { value_at: null }, notTime],
    ["a time in seconds", { value_at: 1768384800 }, notTime],
    ["a time without an offset", { value_at: "2026-01-14T10:00:00" }, notTime],
    ["a date alone", { value_at: "2026-01-14" }, notTime],
    ["a time with a space for the T", { value_at: "2026-01-14 10:00:00Z" }, notTime],
    ["a padded time", { value_at: " 2026-01-14T10:00:00Z" }, notTime],
    ["the 30th of February", { value_at: "2024-02-30T10:00:00Z" }, notTime],
    ["hour 24", { value_at: "2026-01-13T24:00:00Z" }, notTime],
    ["a year that RFC 3339 cannot write", { value_at: "0000-01-01T00:00:00+01:00" }, notTime],
    ["an empty time", { value_at: "" }, notTime],
    ["a time 24 h and 1 ms ahead", { value_at: "2026-01-15T10:00:00.001Z" }, "value_at is more than 24 hours ahead"],
    ["the year 9999", { value_at: "9999-12-31T23:59:59Z" }, "value_at is more than 24 hours ahead"],
  ])("answers 400 to %s, and stores nothing", async (_, wrong, error) => {
    const sensor_id = await createSensor();
    const { status, body } = await api("POST", "/sensor-readings", { sensor_id, value: 1, ...wrong });
    expect(status).toBe(400);
    expect(body).toEqual({ error });
    expect((await api("GET", `/sensor-readings?sensor_id=${sensor_id}`)).body).toEqual([]);
  });

  test.each(["1e999", "-1e999"])("answers 400 to %s, which JSON parses to infinity", async (value) => {
    const sensor_id = await createSensor();
    const { status, body } = await api("POST", "/sensor-readings", `{"sensor_id":"${sensor_id}","value":${value}}`);
    expect({ status, body }).toEqual({ status: 400, body: { error: "value must be a finite number" } });
    expect((await api("GET", `/sensor-readings?sensor_id=${sensor_id}`)).body).toEqual([]);
  });

  test.each(["NaN", "Infinity", "0x1F", "01"])("answers 400 to %s, which is no JSON", async (value) => {
    const { status, body } = await api("POST", "/sensor-readings", `{"sensor_id":"${unknownId}","value":${value}}`);
    expect({ status, body }).toEqual({ status: 400, body: { error: "invalid JSON" } });
  });

  test("the same sensor, time and value again is the same reading; another value or no time is another", async () => {
    const sensor = await createSensor();
    const id = await store(sensor, 5, "2026-01-14T09:00:00Z");
    expect(await store(sensor, 5, "2026-01-14T10:00:00+01:00")).toBe(id);
    expect(await store(sensor, 6, "2026-01-14T09:00:00Z")).not.toBe(id);
    expect(await store(sensor, 5)).not.toBe(await store(sensor, 5)); // within one millisecond: the clock stands
    expect(valuesOf((await api("GET", `/sensor-readings?sensor_id=${sensor}`)).body)).toEqual([5, 5, 6, 5]);
  });
});

describe("GET, PUT and DELETE /sensor-readings/:id", () => {
  test("GET answers 200 with the documented fields", async () => {
    const sensor_id = await createSensor();
    const id = await store(sensor_id, 123.45, "2026-01-14T10:00:00Z");
    const { status, body } = await api("GET", `/sensor-readings/${id}`);
    expect(status).toBe(200);
    expect(body).toEqual({ id, sensor_id, value: 123.45, value_at: "2026-01-14T10:00:00Z" });
  });

  test.each([
    [{ value: 7 }, { value: 7, value_at: "2026-01-14T10:00:00Z" }],
    [{ value_at: "2026-01-14T08:00:00Z" }, { value: 1, value_at: "2026-01-14T08:00:00Z" }],
    [
      { value: 0, value_at: "2025-12-31T23:00:00-02:00" },
      { value: 0, value_at: "2026-01-01T01:00:00Z" },
    ],
    [{}, { value: 1, value_at: "2026-01-14T10:00:00Z" }],
    [
      { sensor_id: unknownId, id: 1 },
      { value: 1, value_at: "2026-01-14T10:00:00Z" },
    ],
  ])("PUT %j answers 200 with its message and changes what is given alone", async (fields, expected) => {
    const sensor_id = await createSensor();
    const id = await store(sensor_id, 1);
    const { status, body } = await api("PUT", `/sensor-readings/${id}`, fields);
    expect({ status, body }).toEqual({ status: 200, body: { message: "sensor reading updated" } });
    expect((await api("GET", `/sensor-readings/${id}`)).body).toEqual({ id, sensor_id, ...expected });
  });

  test("PUT moves a reading to its new place in the list", async () => {
    const sensor = await createSensor();
    const id = await store(sensor, 1, "2026-01-14T09:00:00Z");
    await store(sensor, 2, "2026-01-14T09:30:00Z");
    await api("PUT", `/sensor-readings/${id}`, { value_at: "2026-01-14T09:45:00Z" });
    expect(valuesOf((await api("GET", `/sensor-readings?sensor_id=${sensor}`)).body)).toEqual([1, 2]);
  });

  test.each([
    [{ value: "1" }, "value must be a number"],
    [{ value: null }, "value must be a number"],
    [{ value_at: "yesterday" }, notTime],
    [{ value: 5, value_at: "2026-01-16T00:00:00Z" }, "value_at is more than 24 hours ahead"],
  ])("PUT %j answers 400, and changes nothing", async (fields, error) => {
    const id = await store(await createSensor(), 1);
    const { status, body } = await api("PUT", `/sensor-readings/${id}`, fields);
    expect({ status, body }).toEqual({ status: 400, body: { error } });
    const reading = (await api("GET", `/sensor-readings/${id}`)).body;
    expect(reading).toMatchObject({ value: 1, value_at: "2026-01-14T10:00:00Z" });
  });

  test("DELETE answers 200 with its message, once", async () => {
    const sensor = await createSensor();
    const id = await store(sensor, 1);
    const { status, body } = await api("DELETE", `/sensor-readings/${id}`);
    expect({ status, body }).toEqual({ status: 200, body: { message: "sensor reading deleted" } });
    expect((await api("DELETE", `/sensor-readings/${id}`)).status).toBe(404);
    expect((await api("GET", `/sensor-readings?sensor_id=${sensor}`)).body).toEqual([]);
  });

  test("the number of a deleted reading is never given out again", async () => {
    const sensor = await createSensor();
    const id = await store(sensor, 1);
    await api("DELETE", `/sensor-readings/${id}`);
    expect(await store(sensor, 2)).toBeGreaterThan(id);
  });

  const calls = [
    ["GET", undefined],
    ["PUT", { value: 1 }],
    ["DELETE", undefined],
  ] as const;

  test.each(calls)("%s answers 404 to a reading that is not there", async (method, fields) => {
    for (const id of ["0", "999999999", "999999999999999"]) {
      const { status, body } = await api(method, `/sensor-readings/${id}`, fields);
      expect({ id, status, body }).toEqual({ id, status: 404, body: { error: "reading not found" } });
    }
  });

  test.each(["abc", "1.5", "-1", "+1", "0x10", "1e3", "%201", unknownId, "9".repeat(30), "%00", "%ZZ"])(
    "every method answers 400 to the id %s",
    async (id) => {
      for (const [method, fields] of calls) {
        const { status, body } = await api(method, `/sensor-readings/${id}`, fields);
        expect({ method, status, body }).toEqual({ method, status: 400, body: { error: "invalid reading id" } });
      }
    },
  );
});

describe("GET /sensor-readings of one sensor", () => {
  let sensor: string;
  const at = (minute: number): string => new Date(start - (1_200 - minute) * 60_000).toISOString();

  beforeAll(async () => {
    sensor = await createSensor();
    // 1,100 readings, not in the order of time.
    const minutes = Array.from({ length: 1_100 }, (_, i) => (i * 373) % 1_100);
    for (let i = 0; i < minutes.length; i += 100)
      await Promise.all(minutes.slice(i, i + 100).map((minute) => store(sensor, minute, at(minute))));
  });

  const list = async (query = "") => {
    const { status, body } = await api("GET", `/sensor-readings?sensor_id=${sensor}${query}`);
    expect(status).toBe(200);
    return body;
  };
  const countDown = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from - i);

  test("shows the newest 100 first, each with the documented fields", async () => {
    const body = await list();
    expect(valuesOf(body)).toEqual(countDown(1_099, 100));
    const value_at = at(1_099).replace(".000Z", "Z");
    expect(body[0]).toEqual({ id: expect.any(Number), sensor_id: sensor, value: 1_099, value_at });
  });

  test("takes the sensor's id in upper case", async () => {
    const { body } = await api("GET", `/sensor-readings?sensor_id=${sensor.toUpperCase()}&limit=1`);
    expect(body).toMatchObject([{ sensor_id: sensor }]);
  });

  test("takes limits up to 1000, and a larger one as 1000", async () => {
    expect(await list("&limit=0")).toEqual([]);
    expect(valuesOf(await list("&limit=1"))).toEqual([1_099]);
    expect(valuesOf(await list("&limit=1000"))).toEqual(countDown(1_099, 1_000));
    for (const limit of ["1001", "1000000", "9".repeat(40)])
      expect(valuesOf(await list(`&limit=${limit}`))).toEqual(countDown(1_099, 1_000));
  });

  test("takes pages from 0, the last one shorter, those after it empty", async () => {
    expect(valuesOf(await list("&page=0"))).toEqual(countDown(1_099, 100));
    expect(valuesOf(await list("&page=1"))).toEqual(countDown(999, 100));
    expect(valuesOf(await list("&limit=7&page=157"))).toEqual([0]);
    expect(await list("&limit=7&page=158")).toEqual([]);
    expect(valuesOf(await list("&limit=1000&page=1"))).toEqual(countDown(99, 100));
    expect(await list("&page=11")).toEqual([]);
    for (const page of ["1000000", "9007199254740", "9".repeat(40)]) expect(await list(`&page=${page}`)).toEqual([]);
  });

  test("counts a clamped limit's pages by the clamped one", async () => {
    expect(valuesOf(await list("&limit=5000&page=1"))).toEqual(countDown(99, 100));
  });

  test("takes `from` as inclusive and `to` as exclusive, in any offset", async () => {
    expect(valuesOf(await list(`&from=${at(10)}&to=${at(13)}`))).toEqual([12, 11, 10]);
    expect(valuesOf(await list(`&from=${at(1_097)}`))).toEqual([1_099, 1_098, 1_097]);
    expect(valuesOf(await list(`&to=${at(2)}`))).toEqual([1, 0]);
    expect(await list(`&from=${at(10)}&to=${at(10)}`)).toEqual([]);
    expect(await list(`&from=${at(20)}&to=${at(10)}`)).toEqual([]);
    const inOffset = encodeURIComponent(
      new Date(Date.parse(at(1_098)) + 3_600_000).toISOString().replace("Z", "+01:00"),
    );
    expect(valuesOf(await list(`&from=${inOffset}`))).toEqual([1_099, 1_098]);
    expect(valuesOf(await list(`&from=${at(10)}&to=${at(20)}&limit=4&page=1`))).toEqual([15, 14, 13, 12]);
    expect(valuesOf(await list(`&from=${at(10)}&to=${at(20)}&limit=4&page=2`))).toEqual([11, 10]);
  });

  test("answers an empty list for a sensor that is not there", async () => {
    const { status, body } = await api("GET", `/sensor-readings?sensor_id=${unknownId}`);
    expect({ status, body }).toEqual({ status: 200, body: [] });
  });

  test.each([
    ["limit=-1", "limit must be a whole number, 0 or more"],
    ["limit=abc", "limit must be a whole number, 0 or more"],
    ["limit=", "limit must be a whole number, 0 or more"],
    ["limit=1.5", "limit must be a whole number, 0 or more"],
    ["limit=1e2", "limit must be a whole number, 0 or more"],
    ["limit=NaN", "limit must be a whole number, 0 or more"],
    ["limit=%2010", "limit must be a whole number, 0 or more"],
    ["page=-1", "page must be a whole number, 0 or more"],
    ["page=first", "page must be a whole number, 0 or more"],
    ["page=0.5", "page must be a whole number, 0 or more"],
    ["sensor_id=5", "sensor_id must be a UUID"],
    ["sensor_id=", "sensor_id must be a UUID"],
    ["from=yesterday", "from must be an RFC 3339 time, such as 2026-01-14T10:00:00Z"],
    ["to=2026-01-14", "to must be an RFC 3339 time, such as 2026-01-14T10:00:00Z"],
  ])("answers 400 to ?%s", async (query, error) => {
    const { status, body } = await api("GET", `/sensor-readings?${query}`);
    expect({ status, body }).toEqual({ status: 400, body: { error } });
  });
});

describe("readings of one instant", () => {
  test("come in reverse order of their arrival, across pages too", async () => {
    const sensor = await createSensor();
    const ids: number[] = [];
    for (let value = 0; value < 10; value++) ids.push(await store(sensor, value, "2026-01-14T09:00:00Z"));
    const pages = [];
    for (const page of [0, 1, 2, 3])
      pages.push(idsOf((await api("GET", `/sensor-readings?sensor_id=${sensor}&limit=3&page=${page}`)).body));
    expect(pages.flat()).toEqual(ids.toReversed());
    expect(pages.map(({ length }) => length)).toEqual([3, 3, 3, 1]);
  });
});
