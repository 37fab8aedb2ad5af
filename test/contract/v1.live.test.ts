import { once } from "node:events";
import { get, type ClientRequest, type IncomingMessage } from "node:http";
import { connect, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { connectMqtt, createApi, logIn, until, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// GET /v1/live: readings, status changes and alerts, as they come.

const env = { LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000", LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000" };
const start = Date.parse("2026-02-06T20:00:00Z");

let gateway: LocalGateway;
let api: Api;
const open: { destroy(): unknown }[] = [];

beforeEach(async () => {
  gateway = await startLocalGateway({ env, now: () => start });
  api = await logIn(gateway.url);
});
afterEach(async () => {
  for (const connection of open.splice(0)) connection.destroy();
  await gateway.close();
});

interface Stream {
  response: IncomingMessage;
  events: { event: string; data: Record<string, unknown> }[];
  ended: Promise<unknown>;
  request: ClientRequest;
}

/** Listens as a browser's EventSource would. */
async function listen(query = ""): Promise<Stream> {
  const request = get(`${gateway.url}/v1/live${query}`, { headers: { Authorization: `Bearer ${api.token}` } });
  open.push(request);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  const events: Stream["events"] = [];
  let rest = "";
  response.setEncoding("utf8");
  response.on("data", (chunk: string) => {
    const blocks = (rest + chunk).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const match = /^event: (\S+)\ndata: (.*)$/.exec(block);
      if (match?.[1] !== undefined) events.push({ event: match[1], data: JSON.parse(match[2] ?? "") });
    }
  });
  const ended = new Promise((resolve) => {
    response.once("end", () => resolve("end"));
    response.once("error", (error) => resolve(error));
  });
  return { response, events, ended, request };
}

const create = async (id: string) => (await api("POST", "/v1/devices", { id, name: id, type: "t" })).body;
const at = (seconds: number): string => new Date(start + seconds * 1_000).toISOString().replace(".000Z", "Z");
const post = (id: string, points: object[]) => api("POST", `/v1/data/${id}`, points);
/** Whether the gateway has ended a connection, once what it had sent before is read. */
const isOver = async (socket: Socket): Promise<boolean> => {
  const closed = once(socket, "close").then(() => true);
  socket.resume();
  return closed;
};
const countIs = (stream: Stream, n: number) => until(() => stream.events.length >= n && stream.events);

test("HEAD sees the headers and takes no listener's place", async () => {
  await gateway.close();
  gateway = await startLocalGateway({ env: { ...env, LAMBDAIOT_SERVER_MAX_LIVE_CLIENTS: "1" } });
  api = await logIn(gateway.url);
  for (let i = 0; i < 3; i++) {
    const { status, headers, body } = await api("HEAD", "/v1/live");
    expect([status, headers.get("Content-Type"), body]).toEqual([200, "text/event-stream", ""]);
  }
  expect((await listen()).response.statusCode).toBe(200);
  expect(gateway.app.counters.get("live.refused")).toBe(0);
});

test("readings, status changes and alerts arrive in the order in which they happened, by whichever door", async () => {
  const { sensors } = await create("SC-TEMP-001");
  const sensor = sensors[0].id;
  const rule = { deviceId: "SC-TEMP-001", condition: "gt", threshold: 30, severity: "critical" };
  const { id: ruleId } = (await api("POST", "/v1/alerts/rules", rule)).body;
  const stream = await listen();
  expect(stream.response.statusCode).toBe(200);
  expect(stream.response.headers).toMatchObject({
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
  });
  await api("POST", "/v1/data/SC-TEMP-001", { timestamp: at(-2), value: 22.5 });
  await api("POST", "/sensor-readings", { sensor_id: sensor, value: 23, value_at: at(-1) });
  const client = await connectMqtt(gateway.mqttUrl);
  const message = { type: "sensor_reading", sensor_id: sensor, value: 31, value_at: at(0) };
  await client.publishAsync("lambdaiot", JSON.stringify(message), { qos: 1 });
  await until(() => stream.events.some(({ event }) => event === "alert.triggered"));
  await client.publishAsync("lambdaiot", JSON.stringify({ ...message, value: 20, value_at: at(1) }), { qos: 1 });
  await until(() => stream.events.some(({ event }) => event === "alert.resolved"));
  await client.endAsync();

  const reading = (timestamp: string, value: number) => ({
    event: "reading",
    data: { id: expect.any(Number), deviceId: "SC-TEMP-001", sensor, timestamp, value },
  });
  const status = (word: string) => ({
    event: "status",
    data: { deviceId: "SC-TEMP-001", status: word, lastSeen: "2026-02-06T20:00:00Z" },
  });
  const alert = { ruleId, deviceId: "SC-TEMP-001", sensor, condition: "gt", threshold: 30, severity: "critical" };
  const readings = stream.events.filter(({ event }) => event === "reading");
  expect(readings).toEqual([reading(at(-2), 22.5), reading(at(-1), 23), reading(at(0), 31), reading(at(1), 20)]);
  expect(stream.events.filter(({ event }) => event === "status")).toEqual([
    status("online"),
    status("error"),
    status("online"),
  ]);
  const [triggered, resolved] = stream.events.filter(({ event }) => event.startsWith("alert."));
  expect(triggered).toMatchObject({ event: "alert.triggered", data: { ...alert, value: 31 } });
  expect(resolved).toMatchObject({ event: "alert.resolved", data: { ...alert, value: 31 } });
  const places = [readings[2], triggered, readings[3], resolved].map((one) => stream.events.indexOf(one as never));
  expect(places).toEqual(places.toSorted((a, b) => a - b));
});

test("a device's stream has that device's events alone, by either of its ids", async () => {
  const { uuid } = await create("one");
  await create("two");
  const streams = [await listen("?device=one"), await listen(`?device=${uuid.toUpperCase()}`), await listen()];
  for (let i = 0; i < 5; i++) await post(i % 2 === 0 ? "one" : "two", [{ timestamp: at(-i), value: i }]);
  for (const [i, expected] of [4, 4, 7].entries()) await countIs(streams[i] as Stream, expected); // with a "status" each
  expect(
    streams.slice(0, 2).map(({ events }) => events.map(({ event, data }) => [event, data["deviceId"], data["value"]])),
  ).toEqual(
    Array.from({ length: 2 }, () =>
      expect.arrayContaining([
        ["status", "one", undefined],
        ["reading", "one", 0],
        ["reading", "one", 2],
        ["reading", "one", 4],
      ]),
    ),
  );
  expect(streams.map(({ events }) => events.length)).toEqual([4, 4, 7]);
});

test("a resend, a rule that does not fire, and a reading that was refused tell nothing", async () => {
  await create("dev");
  await post("dev", [{ timestamp: at(0), value: 1 }]);
  const stream = await listen();
  await post("dev", [{ timestamp: at(0), value: 1 }]);
  await post("dev", [
    { timestamp: at(0), value: 2 },
    { timestamp: "soon", value: 3 },
  ]);
  await post("dev", [{ timestamp: at(1), value: 4 }]);
  await countIs(stream, 1);
  expect(stream.events.map(({ data }) => data["value"])).toEqual([4]);
});

describe("refuses", () => {
  const shownError = (code: string) => ({ error: { code, message: expect.any(String), details: expect.any(Object) } });

  test("whoever has no token, or an access key alone; and a device that is not there", async () => {
    await create("dev");
    const { accessKey } = (await api("POST", "/v1/products/prod_raw_streams/purchase", { deviceId: "dev" })).body;
    for (const [token, path, status, code] of [
      [undefined, "/v1/live", 401, "INVALID_TOKEN"],
      [accessKey, "/v1/live", 403, "FORBIDDEN"],
      [accessKey, "/v1/live?device=dev", 403, "FORBIDDEN"],
      [api.token, "/v1/live?device=nobody", 404, "NOT_FOUND"],
      [api.token, "/v1/live?device=", 400, "VALIDATION_ERROR"],
    ] as const) {
      const answer = await createApi(gateway.url, token)("GET", path);
      expect({ path, status: answer.status, body: answer.body }).toEqual({ path, status, body: shownError(code) });
    }
  });

  test("one client more than there may be, with 503 and Retry-After, until one has gone", async () => {
    await gateway.close();
    gateway = await startLocalGateway({ env: { ...env, LAMBDAIOT_SERVER_MAX_LIVE_CLIENTS: "2" } });
    api = await logIn(gateway.url);
    const [first] = [await listen(), await listen()];
    const refused = await api("GET", "/v1/live");
    expect({ status: refused.status, body: refused.body }).toEqual({ status: 503, body: shownError("UNAVAILABLE") });
    expect(Number(refused.headers.get("Retry-After"))).toBeGreaterThanOrEqual(1);
    expect(gateway.app.counters.get("live.refused")).toBe(1);
    first?.request.destroy();
    await until(async () => {
      const next = await listen();
      if (next.response.statusCode !== 200) next.request.destroy();
      return next.response.statusCode === 200;
    });
  });
});

test("streams end when the gateway does, and do not hold it up", async () => {
  const streams = [await listen(), await listen(), await listen()];
  await gateway.close();
  expect(await Promise.all(streams.map(({ ended }) => ended))).toEqual(["end", "end", "end"]);
});

test("whoever reads gets all of several thousand readings that one commit brings at once", async () => {
  for (const id of ["a", "b", "c", "d"]) await create(id);
  const streams = [await listen(), await listen(), await listen("?device=a")];
  const points = Array.from({ length: 1_000 }, (_, i) => ({ timestamp: at(-i), value: i }));
  await Promise.all(["a", "b", "c", "d"].map((id) => post(id, points)));
  const readings = ({ events }: Stream) => events.filter(({ event }) => event === "reading");
  await until(() => readings(streams[0] as Stream).length === 4_000 && readings(streams[1] as Stream).length === 4_000);
  await until(() => readings(streams[2] as Stream).length === 1_000);
  expect(new Set(readings(streams[1] as Stream).map(({ data }) => data["id"])).size).toBe(4_000);
  expect(gateway.app.counters.get("live.dropped")).toBe(0);
});

test("whoever does not read is dropped, and everybody else gets everything", async () => {
  await create("dev");
  const socket: Socket = connect(Number(new URL(gateway.url).port), "127.0.0.1");
  open.push(socket);
  socket.on("error", () => undefined); // reset is what it gets
  socket.write(`GET /v1/live HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${api.token}\r\n\r\n`);
  await once(socket, "readable"); // and reads nothing of it
  const fast = await listen();
  let sent = 0;
  while (gateway.app.counters.get("live.dropped") === 0 && sent < 200_000) {
    const points = Array.from({ length: 1_000 }, (_, i) => ({ timestamp: at(-(sent + i)), value: i }));
    expect((await post("dev", points)).status).toBe(201);
    sent += 1_000;
    await until(() => fast.events.length > sent - 1_000);
  }
  expect(gateway.app.counters.get("live.dropped")).toBe(1);
  expect(await isOver(socket)).toBe(true);
  await post("dev", [{ timestamp: at(1), value: -1 }]);
  await until(() => fast.events.at(-1)?.data["value"] === -1);
  expect(fast.events.filter(({ event }) => event === "reading")).toHaveLength(sent + 1);
  expect(gateway.app.counters.get("live.dropped")).toBe(1);
});
