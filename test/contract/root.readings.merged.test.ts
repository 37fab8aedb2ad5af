import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { logIn, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// GET /sensor-readings without `sensor_id`: all sensors' readings in one order, newest first. Some sensors have many
// readings and others few or none, instants repeat across sensors and within one, and much arrives late.

interface Reading {
  id: number;
  sensor_id: string;
  value: number;
  value_at: string;
}

let gateway: LocalGateway;
let api: Api;
/** By sensor, what was stored. */
const sensors: string[] = [];
/** All of it in the order that the contract asks for. */
let expected: Reading[];

const start = Date.parse("2026-01-14T00:00:00Z");

/** Numerical Recipes' generator: the same order of arrival in every run. */
function createRandom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

async function store(sensor_id: string, value: number, second: number): Promise<Reading> {
  const value_at = new Date(start + second * 1_000).toISOString().replace(".000Z", "Z");
  const { status, body } = await api("POST", "/sensor-readings", { sensor_id, value, value_at });
  expect(status).toBe(201);
  return { id: body.id, sensor_id, value, value_at };
}

const byNewest = (a: Reading, b: Reading): number => Date.parse(b.value_at) - Date.parse(a.value_at) || b.id - a.id;

async function readPages(query: string, limit: number): Promise<Reading[]> {
  const all: Reading[] = [];
  for (let page = 0; ; page++) {
    const { status, body } = await api("GET", `/sensor-readings?${query}limit=${limit}&page=${page}`);
    expect(status).toBe(200);
    expect(body.length).toBeLessThanOrEqual(limit);
    all.push(...body);
    if (body.length < limit) return all;
  }
}

beforeAll(async () => {
  gateway = await startLocalGateway();
  api = await logIn(gateway.url);
  const device = { name: "Room", description: "", location: "", status_id: 1 };
  const { body } = await api("POST", "/devices", device);
  const fields = { device_id: body.id, name: "Sensor", type: "t", data_type_id: 2 };
  for (let i = 0; i < 6; i++) sensors.push((await api("POST", "/sensors", fields)).body.id);

  const random = createRandom(7);
  const [many, some, few, oldest, same] = sensors as [string, string, string, string, string, string]; // the last: none
  const wanted: [sensor: string, second: number][] = [
    ...Array.from({ length: 150 }, (): [string, number] => [many, 500 + random(60)]),
    ...Array.from({ length: 60 }, (): [string, number] => [some, random(600)]),
    ...Array.from({ length: 3 }, (): [string, number] => [few, 520 + random(10)]),
    ...Array.from({ length: 40 }, (): [string, number] => [oldest, random(20)]),
    ...Array.from({ length: 30 }, (): [string, number] => [same, 530]),
  ];
  for (let i = wanted.length - 1; i > 0; i--) {
    const j = random(i + 1);
    [wanted[i], wanted[j]] = [wanted[j] as [string, number], wanted[i] as [string, number]];
  }
  const stored: Reading[] = [];
  for (const [value, [sensor, second]] of wanted.entries()) stored.push(await store(sensor, value, second));
  expected = stored.toSorted(byNewest);
});
afterAll(() => gateway.close());

describe("all sensors' readings", () => {
  test("come newest first, those of one instant in reverse order of arrival", async () => {
    const { body } = await api("GET", "/sensor-readings?limit=1000");
    expect(body).toEqual(expected);
  });

  test("are a hundred where no limit is given", async () => {
    expect((await api("GET", "/sensor-readings")).body).toEqual(expected.slice(0, 100));
    expect((await api("GET", "/sensor-readings?page=2")).body).toEqual(expected.slice(200));
    expect((await api("GET", "/sensor-readings?page=3")).body).toEqual([]);
  });

  test("go no further back than 100,000 by page alone; one sensor's do", async () => {
    expect((await api("GET", "/sensor-readings?limit=1000&page=100")).body).toEqual([]);
    const { status, body } = await api("GET", "/sensor-readings?limit=1000&page=101");
    expect(status).toBe(400);
    expect(body).toEqual({ error: expect.stringMatching(/^page is more than 100000 readings back/) });
    const one = await api("GET", `/sensor-readings?sensor_id=${sensors[0]}&limit=1000&page=101`);
    expect([one.status, one.body]).toEqual([200, []]);
  });

  test.each([1, 2, 7, 8, 9, 16, 49, 100, 282, 283, 284])(
    "in pages of %d are neither repeated nor left out",
    async (limit) => {
      expect(await readPages("", limit)).toEqual(expected);
    },
  );

  test.each([5, 31, 1_000])("between `from` and `to`, in pages of %d, are those and no others", async (limit) => {
    const from = "2026-01-14T00:08:30Z"; // second 510
    const to = "2026-01-14T00:08:50Z"; // second 530, the instant of many
    const wanted = expected.filter(({ value_at }) => value_at >= from && value_at < to);
    expect(wanted.length).toBeGreaterThan(31);
    expect(await readPages(`from=${from}&to=${to}&`, limit)).toEqual(wanted);
  });

  test("are the same as each sensor's own, put together", async () => {
    const own = await Promise.all(sensors.map((sensor) => readPages(`sensor_id=${sensor}&`, 13)));
    expect(own.at(-1)).toEqual([]);
    expect(own.flat().toSorted(byNewest)).toEqual(expected);
  });
});

// Last, since it changes what the others look at.
test("a reading that arrives late takes its place in time, and the newest comes first", async () => {
  const [, , few, , , none] = sensors as [string, string, string, string, string, string];
  const late = await store(few, 1_000, 525);
  const newest = await store(none, 1_001, 601);
  const older = await store(none, 1_002, -5);
  const all = [...expected, late, newest, older].toSorted(byNewest);
  expect(all[0]).toBe(newest);
  expect(all.at(-1)).toBe(older);
  expect(await readPages("", 10)).toEqual(all);
});
