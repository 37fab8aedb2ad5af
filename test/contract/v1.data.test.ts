import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { logIn, type Answer, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// GET and POST /v1/data/{deviceId}.

const env = { LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000", LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000" };
const start = Date.parse("2026-02-06T20:00:00Z");

let gateway: LocalGateway;
let api: Api;

beforeAll(async () => {
  gateway = await startLocalGateway({ env, now: () => start });
  api = await logIn(gateway.url);
});
afterAll(() => gateway.close());

const shown = ({ status, body }: Answer) => ({ status, body });
const error = (status: number, code: string, details: unknown = expect.any(Object)) => ({
  status,
  body: { error: { code, message: expect.any(String), details } },
});
const invalid = (field: string) => error(400, "VALIDATION_ERROR", { field });
const at = (offsetSeconds: number): string =>
  new Date(start + offsetSeconds * 1_000).toISOString().replace(".000Z", "Z");

let device: string;
let made = 0;
beforeEach(async () => {
  device = `dev-${(made += 1)}`;
  await api("POST", "/v1/devices", { id: device, name: "Sensor", type: "temperature" });
});

const post = (body: unknown, query = "") => api("POST", `/v1/data/${device}${query}`, body);
const get = (query = "") => api("GET", `/v1/data/${device}${query}`);
const values = ({ body }: Answer): number[] => body.data.map(({ value }: { value: number }) => value);
/** Points a second apart, the last one now; their values count from 1. */
const fill = async (n: number): Promise<void> => {
  const points = Array.from({ length: n }, (_, i) => ({ timestamp: at(i + 1 - n), value: i + 1 }));
  for (let i = 0; i < n; i += 1_000) expect((await post(points.slice(i, i + 1_000))).status).toBe(201);
};

test("the document's sample point comes back as it went in", async () => {
  const point = { timestamp: "2026-02-06T20:00:00Z", value: 22.5, unit: "°C" };
  expect(shown(await post(point))).toEqual({ status: 201, body: { deviceId: device, ...point } });
  expect(shown(await get())).toEqual({ status: 200, body: { deviceId: device, data: [point], total: 1 } });
});

describe("POST", () => {
  test("takes up to 1,000 points as one transaction and answers them all", async () => {
    const points = Array.from({ length: 1_000 }, (_, i) => ({ timestamp: at(-i), value: i, unit: "lx" }));
    const { status, body } = await post(points);
    expect({ status, body }).toEqual({ status: 201, body: { deviceId: device, data: points, total: 1_000 } });
    expect((await get("?limit=1000")).body).toEqual({ deviceId: device, data: points, total: 1_000 });
  });

  test.each([
    ["a bad value", { timestamp: at(0), value: "1" }, "1.value"],
    ["a time too far ahead", { timestamp: at(86_401), value: 1 }, "timestamp"],
    ["another unit", { timestamp: at(0), value: 1, unit: "K" }, "unit"],
  ])("stores none of an array in which one point has %s", async (_, wrong, field) => {
    const good = { timestamp: at(0), value: 1, unit: "°C" };
    expect(shown(await post([good, wrong, good]))).toEqual(invalid(field));
    expect((await get()).body.total).toBe(0);
    // Nor is the unit kept of what was not stored.
    expect((await post({ timestamp: at(0), value: 1, unit: "K" })).status).toBe(201);
  });

  test("answers 400 to an empty array and to 1,001 points", async () => {
    expect(shown(await post([]))).toEqual(error(400, "VALIDATION_ERROR", {}));
    expect(shown(await post(Array.from({ length: 1_001 }, (_, i) => ({ timestamp: at(-i), value: i }))))).toEqual(
      error(400, "VALIDATION_ERROR", {}),
    );
    expect((await get()).body.total).toBe(0);
  });

  test.each([
    ["2026-02-06T21:00:00+01:00", "2026-02-06T20:00:00Z"],
    ["2026-02-06T15:30:00-04:30", "2026-02-06T20:00:00Z"],
    ["2026-02-06t20:00:00.250z", "2026-02-06T20:00:00.250Z"],
    ["2026-02-06T20:00:00.5Z", "2026-02-06T20:00:00.500Z"],
    ["2026-02-06T20:00:00.000Z", "2026-02-06T20:00:00Z"],
    ["2026-02-07T20:00:00Z", "2026-02-07T20:00:00Z"], // 24 hours ahead, and no more
    ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"],
    ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"],
  ])("takes the time %s, and shows it as %s", async (timestamp, shownAs) => {
    expect((await post({ timestamp, value: 1 })).body.timestamp).toBe(shownAs);
    expect((await get()).body.data).toEqual([{ timestamp: shownAs, value: 1 }]);
  });

  test.each([
    ["no time", undefined],
    ["a day alone", "2026-02-06"],
    ["no offset", "2026-02-06T20:00:00"],
    ["a space for the T", "2026-02-06 20:00:00Z"],
    ["a 30th of February", "2026-02-30T20:00:00Z"],
    ["an hour 24", "2026-02-06T24:00:00Z"],
    ["epoch milliseconds", start],
    ["null", null],
    ["an empty string", ""],
    ["more than 24 hours ahead", at(86_401)],
  ])("answers 400 to a time that is %s", async (_, timestamp) => {
    const answer = await post({ timestamp, value: 1 });
    expect(shown(answer)).toEqual(invalid("timestamp"));
    expect(answer.body.error.message).toMatch(/^timestamp /);
    expect((await get()).body.total).toBe(0);
  });

  test.each([
    ["0", 0],
    ["-0", 0],
    ["-40.25", -40.25],
    ["1e308", 1e308],
    ["5e-324", 5e-324],
    ["0.1", 0.1],
  ])("takes the value %s", async (text, value) => {
    expect((await post(`{"timestamp":"${at(0)}","value":${text}}`)).body.value).toBe(value);
    expect(values(await get())).toEqual([value]);
  });

  test.each(['"22.5"', "true", "null", "1e999", "-1e999", "[1]", "{}", '""', '"0x10"', '"NaN"'])(
    "answers 400 to the value %s",
    async (text) => {
      expect(shown(await post(`{"timestamp":"${at(0)}","value":${text}}`))).toEqual(invalid("value"));
      expect((await get()).body.total).toBe(0);
    },
  );

  test("keeps the unit that came first, and answers 400 to another one", async () => {
    expect((await post({ timestamp: at(-3), value: 1 })).body).not.toHaveProperty("unit");
    expect((await post({ timestamp: at(-2), value: 2, unit: "°C" })).body.unit).toBe("°C");
    expect((await post({ timestamp: at(-1), value: 3 })).body.unit).toBe("°C"); // it goes without saying
    const answer = await post({ timestamp: at(0), value: 4, unit: "°F" });
    expect(shown(answer)).toEqual(invalid("unit"));
    expect(answer.body.error.message).toContain("°C");
    expect(values(await get())).toEqual([3, 2, 1]);
    for (const unit of ["", 5, null, "u".repeat(33)])
      expect(shown(await post({ timestamp: at(0), value: 4, unit }))).toEqual(invalid("unit"));
  });

  test("takes a resend for the same point", async () => {
    const point = { timestamp: at(0), value: 1 };
    for (let i = 0; i < 3; i++) expect((await post(point)).status).toBe(201);
    expect((await get()).body.total).toBe(1);
    await post({ ...point, value: 2 }); // two readings of one millisecond are two
    expect((await get()).body.total).toBe(2);
  });

  test("answers 404 to a device or a sensor that is not there", async () => {
    const point = { timestamp: at(0), value: 1 };
    expect(shown(await api("POST", "/v1/data/nobody", point))).toEqual(error(404, "NOT_FOUND", {}));
    expect(shown(await post(point, "?sensor=550e8400-e29b-41d4-a716-446655440000"))).toEqual(
      error(404, "NOT_FOUND", {}),
    );
    expect(shown(await post(point, "?sensor=first"))).toEqual(invalid("sensor"));
  });

  test("loses nothing of a hundred requests at once", async () => {
    const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => post({ timestamp: at(-i), value: i })));
    expect(answers.every(({ status }) => status === 201)).toBe(true);
    expect(values(await get())).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });
});

describe("GET", () => {
  test("returns 100 points by default and 1,000 at most, newest first, with the total of all", async () => {
    await fill(1_200);
    const usual = await get();
    expect(values(usual)).toEqual(Array.from({ length: 100 }, (_, i) => 1_200 - i));
    expect(usual.body.total).toBe(1_200);
    expect(values(await get("?limit=1000"))).toHaveLength(1_000);
    const clamped = await get("?limit=5000");
    expect([values(clamped).length, clamped.body.total]).toEqual([1_000, 1_200]);
    expect(values(await get("?limit=1"))).toEqual([1_200]);
    expect((await get("?limit=0")).body).toEqual({ deviceId: device, data: [], total: 1_200 });
  });

  test("takes from inclusive and to exclusive, with any offset", async () => {
    await fill(10);
    const range = await get(`?from=${at(-5)}&to=${at(-2)}`);
    expect(values(range)).toEqual([7, 6, 5]);
    expect(range.body.total).toBe(3);
    expect(values(await get(`?from=${at(-1)}`))).toEqual([10, 9]);
    expect(values(await get(`?to=${at(-8)}`))).toEqual([1]);
    expect(values(await get(`?from=${at(0)}&to=${at(0)}`))).toEqual([]);
    expect(values(await get(`?from=${encodeURIComponent("2026-02-06T21:00:00+01:00")}`))).toEqual([10]);
    expect((await get(`?limit=1&from=${at(-5)}&to=${at(-2)}`)).body).toMatchObject({ data: [{ value: 7 }], total: 3 });
  });

  test.each([
    ["limit=-1", "limit"],
    ["limit=many", "limit"],
    ["limit=1.0", "limit"],
    ["from=yesterday", "from"],
    ["from=", "from"],
    ["to=2026-02-06", "to"],
    ["from=2026-02-06T20:00:00+01:00", "from"], // a plus that is not encoded is a space
    ["from=2026-02-06T20:00:01Z&to=2026-02-06T20:00:00Z", "from"],
    ["aggregation=median", "aggregation"],
    ["aggregation=", "aggregation"],
    ["interval=1h", "interval"],
    ["aggregation=avg&interval=2h", "interval"],
    ["aggregation=avg&interval=1h&tz=Mars/Olympus", "tz"],
    ["aggregation=avg&interval=1h&tz=", "tz"],
    ["sensor=1", "sensor"],
  ])("answers 400 to ?%s", async (query, field) => {
    expect(shown(await get(`?${query}`))).toEqual(invalid(field));
  });

  test("answers 404 to a device or a sensor that is not there", async () => {
    expect(shown(await api("GET", "/v1/data/nobody"))).toEqual(error(404, "NOT_FOUND", {}));
    expect(shown(await get("?sensor=550e8400-e29b-41d4-a716-446655440000"))).toEqual(error(404, "NOT_FOUND", {}));
  });

  test.each([
    ["avg", 3, true],
    ["min", 1, true],
    ["max", 6, true],
    ["sum", 12, true],
    ["count", 4, false],
  ])(
    "aggregation=%s without an interval is one value over the range, stamped at its start",
    async (name, value, hasUnit) => {
      const points = [1, 2, 3, 6].map((one, i) => ({ timestamp: at(i - 4), value: one, unit: "W" }));
      await post(points);
      const unit = hasUnit ? { unit: "W" } : {};
      expect((await get(`?aggregation=${name}&from=${at(-60)}`)).body).toEqual({
        deviceId: device,
        data: [{ timestamp: at(-60), value, count: 4, ...unit }],
        total: 1,
      });
      expect((await get(`?aggregation=${name}`)).body.data).toMatchObject([{ timestamp: at(-4), value }]);
      expect((await get(`?aggregation=${name}&to=${at(-3)}`)).body.data).toMatchObject([{ count: 1 }]);
    },
  );

  test("an aggregate over no readings has no value, but a count of 0", async () => {
    for (const name of ["avg", "min", "max", "sum"])
      expect((await get(`?aggregation=${name}`)).body).toEqual({ deviceId: device, data: [], total: 0 });
    expect((await get(`?aggregation=count&from=${at(-60)}`)).body.data).toEqual([
      { timestamp: at(-60), value: 0, count: 0 },
    ]);
  });

  test("an interval makes a series, oldest first, stamped at each bucket's start, without the empty ones", async () => {
    // 20:00 is the hour's start; a bucket is left out between the second and the third.
    await post([-100, -70, -30, 0, 600, 610].map((offset, i) => ({ timestamp: at(offset), value: i })));
    const { body } = await get("?aggregation=sum&interval=1m");
    expect(body).toEqual({
      deviceId: device,
      data: [
        { timestamp: at(-120), value: 1, count: 2 },
        { timestamp: at(-60), value: 2, count: 1 },
        { timestamp: at(0), value: 3, count: 1 },
        { timestamp: at(600), value: 9, count: 2 },
      ],
      total: 4,
    });
    expect((await get("?aggregation=sum&interval=1m&limit=2")).body).toEqual({
      ...body,
      data: body.data.slice(0, 2),
    });
    expect((await get("?aggregation=count&interval=5m")).body.data).toEqual([
      { timestamp: at(-300), value: 3, count: 3 },
      { timestamp: at(0), value: 1, count: 1 },
      { timestamp: at(600), value: 2, count: 2 },
    ]);
  });

  test.each([
    ["15m", ["2026-02-06T19:45:00Z", "2026-02-06T20:00:00Z"]],
    ["1h", ["2026-02-06T19:00:00Z", "2026-02-06T20:00:00Z"]],
    ["1d", ["2026-02-05T23:00:00Z"]], // midnight in Ljubljana, an hour ahead in winter
    ["1w", ["2026-02-01T23:00:00Z"]], // a Monday
    ["1mo", ["2026-01-31T23:00:00Z"]],
  ])("interval=%s in Europe/Ljubljana begins where the clock there says", async (interval, starts) => {
    await post([
      { timestamp: at(-1), value: 1 },
      { timestamp: at(0), value: 3 },
    ]);
    const { body } = await get(`?aggregation=max&interval=${interval}&tz=Europe/Ljubljana`);
    expect(body.data.map(({ timestamp }: { timestamp: string }) => timestamp)).toEqual(starts);
  });

  test("a series of more buckets than anybody can look at is 400", async () => {
    await post([
      { timestamp: "1990-01-01T00:00:00Z", value: 1 },
      { timestamp: at(0), value: 1 },
    ]);
    expect(shown(await get("?aggregation=avg&interval=1m"))).toEqual(error(400, "VALIDATION_ERROR"));
    expect((await get("?aggregation=avg&interval=1d")).body.total).toBe(2);
  });

  test("values at the edge of what a number can be stay numbers", async () => {
    await post([0, 1, 2].map((i) => ({ timestamp: at(-i), value: 1.7e308 })));
    for (const name of ["avg", "sum", "max"]) {
      const [{ value }] = (await get(`?aggregation=${name}`)).body.data;
      expect(value).toBeTypeOf("number");
    }
  });
});

test("a device without a sensor has no data, and takes none", async () => {
  const root = { name: "Bare", description: "", location: "", status_id: 1 };
  const { id } = (await api("POST", "/devices", root)).body;
  expect((await api("GET", `/v1/data/${id}`)).body).toEqual({ deviceId: id, data: [], total: 0 });
  expect((await api("GET", `/v1/data/${id}?aggregation=avg`)).body).toEqual({ deviceId: id, data: [], total: 0 });
  expect(shown(await api("POST", `/v1/data/${id}`, { timestamp: at(0), value: 1 }))).toEqual(
    error(400, "VALIDATION_ERROR", {}),
  );
});
