import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { counterInfos } from "../../src/counters.ts";
import { renderFamily, renderMetricsPage } from "../../src/metrics.ts";
import { idFrame, openClient, pingFrame, publishFrame, subscribeFrame, type Wire } from "../mqtt/gate-wire.ts";
import { connectMqtt, createApi, logIn, until, type Api } from "../support/client.ts";
import { makeFolder, startLocalGateway, type LocalGateway } from "../support/gateway.ts";
import { parseExposition, type Family } from "./exposition.ts";

let gateway: LocalGateway;
let api: Api;
async function start(env: Record<string, string> = {}): Promise<void> {
  gateway = await startLocalGateway({ env });
  api = await logIn(gateway.url);
}
afterEach(() => gateway?.close());

async function scrape(): Promise<Map<string, Family>> {
  const { status, body } = await api("GET", "/metrics");
  expect(status).toBe(200);
  return parseExposition(body as string);
}

/** The value of the one sample with these labels. */
function valueOf(families: Map<string, Family>, name: string, labels: Record<string, string> = {}): number {
  const found = families
    .get(name)
    ?.samples.filter((sample) => Object.entries(labels).every(([label, word]) => sample.labels[label] === word));
  if (found?.length !== 1) throw new Error(`${found?.length} samples of ${name} ${JSON.stringify(labels)}`);
  return found[0]?.value as number;
}

const seriesOf = (families: Map<string, Family>): string[] =>
  [...families.values()].flatMap(({ samples }) => samples.map(({ name, labels }) => name + JSON.stringify(labels)));

describe("the reader of the format, by which the rest is judged,", () => {
  const head = "# HELP a A\n# TYPE a gauge\n";
  test.each([
    ["no end", `${head}a 1`],
    ["an empty line", `${head}\na 1\n`],
    ["no HELP", "# TYPE a gauge\na 1\n"],
    ["no TYPE", "# HELP a A\na 1\n"],
    ["TYPE before HELP", "# TYPE a gauge\n# HELP a A\na 1\n"],
    ["a family twice", `${head}a 1\n${head}a 2\n`],
    ["a sample twice", `${head}a 1\na 1\n`],
    ["a sample twice by labels in another order", `${head}a{b="1",c="2"} 1\na{c="2",b="1"} 1\n`],
    ["a sample of another family", `${head}b 1\n`],
    ["a family in two parts", `${head}a{x="1"} 1\n# HELP b B\n# TYPE b gauge\nb 1\na{x="2"} 1\n`],
    ["a name with a dash", "# HELP a-b A\n# TYPE a-b gauge\na-b 1\n"],
    ["a label with a dash", `${head}a{b-c="1"} 1\n`],
    ["a label without quotes", `${head}a{b=1} 1\n`],
    ["a label with a bare quote", `${head}a{b="""} 1\n`],
    ["a label with an escape that is none", `${head}a{b="\\t"} 1\n`],
    ["labels with a comma too many", `${head}a{b="1",} 1\n`],
    ["a label twice", `${head}a{b="1",b="2"} 1\n`],
    ["other labels in a family", `${head}a{b="1"} 1\na{c="1"} 1\n`],
    ["a value that is none", `${head}a one\n`],
    ["no value", `${head}a\n`],
    ["a value that JavaScript alone reads", `${head}a Infinity\n`],
    ["two spaces", `${head}a  1\n`],
    ["a counter without _total", "# HELP a A\n# TYPE a counter\na 1\n"],
    ["a gauge with _total", "# HELP a_total A\n# TYPE a_total gauge\na_total 1\n"],
    ["a counter below 0", "# HELP a_total A\n# TYPE a_total counter\na_total -1\n"],
    ["a family without samples", head],
  ])("refuses %s", (_, text) => {
    expect(() => parseExposition(text)).toThrow(/./);
  });

  test("reads back what is written, whatever is in it", () => {
    const help = 'a "help" with \\ and \n in it';
    const words = ['"', "\\", "\n", '\\"\n', "plain", "ü{},=", ""];
    const values = [0, 1.5, 1e21, 1e-7, Infinity, -Infinity, NaN];
    const samples = words.map((word, i) => ({ labels: { word, i: String(i) }, value: values[i] as number }));
    const read = parseExposition(renderFamily("a", "gauge", help, samples)).get("a");
    expect(read).toMatchObject({ help, type: "gauge", samples });
    expect(renderFamily("a", "gauge", "A", [])).toBe("");
  });
});

test("is in the format, has every counter from the start, and is described name by name", async () => {
  await start();
  const { headers } = await api("GET", "/metrics");
  expect(headers.get("Content-Type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  expect(headers.get("Cache-Control")).toBe("no-store");
  const families = await scrape();
  for (const { metric, reason } of counterInfos) {
    const labels: Record<string, string> = reason === undefined ? {} : { reason: reason.word };
    expect(valueOf(families, `lambdaiot_${metric}_total`, labels)).toBeGreaterThanOrEqual(0);
  }
  const page = readFileSync(new URL("../../docs/metrics.md", import.meta.url), "utf8");
  expect(page, "npm run openapi writes it").toBe(renderMetricsPage());
  const described = [...page.matchAll(/^\| `([a-z0-9_]+)` \|/gm)].map(([, name]) => name);
  const isLinux = process.platform === "linux";
  const expected = described.filter((name) => isLinux || !name?.endsWith("_fds"));
  expect(new Set(expected)).toEqual(new Set(families.keys()));
  expect(expected).toHaveLength(families.size);
  for (const { name } of families.values()) expect(name).toMatch(/^(?:lambdaiot|process|nodejs)_[a-z0-9_]+$/);
});

describe("may be read", () => {
  const login = (token: string | undefined) => ({ Authorization: `Bearer ${token}` });

  test("by users and with their API keys alone", async () => {
    await start();
    const nobody = createApi(gateway.url);
    const status = async (headers: Record<string, string> = {}) =>
      (await nobody("GET", "/metrics", undefined, headers)).status;
    const member = await logIn(gateway.url, "member");
    const { key } = (await member("POST", "/v1/api-keys", { name: "prometheus" })).body;
    await api("POST", "/v1/devices", { id: "dev", name: "n", type: "t" });
    const purchase = { deviceId: "dev", quantity: 1 };
    const { accessKey } = (await member("POST", "/v1/products/prod_raw_streams/purchase", purchase)).body;
    const { token } = (await api("POST", "/v1/devices/dev/token")).body;
    expect(await status(login(api.token))).toBe(200);
    expect(await status(login(member.token))).toBe(200);
    expect(await status(login(key))).toBe(200);
    expect(await status({ "X-API-Key": key })).toBe(200);
    expect(await status(login(accessKey))).toBe(403);
    expect(await status(login(token))).toBe(401);
    const refused = await nobody("GET", "/metrics");
    expect([refused.status, refused.body, refused.headers.get("WWW-Authenticate")]).toEqual([
      401,
      { error: "no claims" },
      "Bearer",
    ]);
  });

  test("by anybody on this machine where the configuration says so, and by nobody for whom a proxy speaks", async () => {
    await start({ LAMBDAIOT_SERVER_PUBLIC_METRICS: "true", LAMBDAIOT_SERVER_TRUSTED_PROXIES: "127.0.0.1" });
    const nobody = createApi(gateway.url);
    const status = async (headers: Record<string, string> = {}) =>
      (await nobody("GET", "/metrics", undefined, headers)).status;
    expect(await status()).toBe(200);
    expect(await status({ "X-Forwarded-For": "192.168.1.7" })).toBe(401);
    expect(await status({ "X-Forwarded-For": "203.0.113.7" })).toBe(401);
    expect(await status({ Forwarded: "for=203.0.113.7" })).toBe(401);
    expect(await status({ "X-Forwarded-For": "203.0.113.7", ...login(api.token) })).toBe(200);
    expect((await nobody("GET", "/sensors")).status).toBe(401); // and nothing else by that
    await gateway.close();
    await start({ LAMBDAIOT_SERVER_PUBLIC_METRICS: "true" });
    const again = createApi(gateway.url);
    const forwarded = await again("GET", "/metrics", undefined, { "X-Forwarded-For": "127.0.0.1" });
    expect(forwarded.status).toBe(401);
  });

  test("by GET and HEAD and no other method", async () => {
    await start();
    const head = await api("HEAD", "/metrics");
    expect([head.status, head.body, head.headers.get("Content-Type")]).toEqual([
      200,
      "",
      "text/plain; version=0.0.4; charset=utf-8",
    ]);
    expect((await createApi(gateway.url)("HEAD", "/metrics")).status).toBe(401);
    for (const method of ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
      expect((await api(method, "/metrics")).status).toBe(404); // like every other path with a method that it has not
    expect((await api("GET", "/metrics/")).status).toBe(404);
    expect((await api("GET", "/v1/metrics")).status).toBe(404);
  });
});

const announcement = (mac: string) => JSON.stringify({ mac_address: mac, device: { name: mac }, sensors: [{}] });

test("counts MQTT to the packet and to the byte", async () => {
  await start();
  const sent = { packets: 0, bytes: 0, publishes: 0, payload: 0 };
  const send = (wire: Wire, ...frames: Buffer[]): void => {
    sent.packets += frames.length;
    for (const one of frames) sent.bytes += one.length;
    wire.send(...frames);
  };
  const publish = (wire: Wire, topic: string, payload: Buffer, qos: 0 | 1 | 2, id?: number): void => {
    sent.publishes += 1;
    sent.payload += payload.length;
    send(wire, publishFrame(topic, payload, qos, id));
  };
  const connectBytes = 14 + 1; // with a client id of one letter
  const [publisher, subscriber] = [
    await openClient(gateway.mqttUrl, { clientId: "p" }),
    await openClient(gateway.mqttUrl, { clientId: "s" }),
  ];
  sent.packets += 2;
  sent.bytes += 2 * connectBytes;
  send(subscriber, subscribeFrame(1, "t", "x".repeat(300)));
  await subscriber.next(0x90);
  // Lengths of one byte, two and three; topics shorter and longer than 255 bytes; one packet in pieces; empty payloads.
  const payloads = [0, 1, 100, 127, 128, 5_000, 16_383, 16_384, 40_000, 100_000].map((size) => Buffer.alloc(size, "x"));
  let id = 0;
  for (const qos of [0, 1, 2] as const) {
    for (const payload of payloads) publish(publisher, qos === 1 ? "x".repeat(300) : "t", payload, qos, ++id);
  }
  const pieces = publishFrame("t", "in pieces", 1, ++id);
  for (const byte of pieces) publisher.send(Buffer.of(byte));
  sent.packets += 1;
  sent.bytes += pieces.length;
  sent.publishes += 1;
  sent.payload += "in pieces".length;
  await until(() => publisher.received.filter((packet) => packet[0] === 0x40).length === payloads.length + 1);
  for (let released = 2 * payloads.length + 1; released <= 3 * payloads.length; released++) {
    await publisher.next(0x50, (packet) => packet.readUInt16BE(2) === released);
    send(publisher, idFrame(0x62, released));
  }
  await until(() => publisher.received.filter((packet) => packet[0] === 0x70).length === payloads.length);
  const publishes = () => subscriber.received.filter((packet) => (packet[0] as number) >> 4 === 3);
  await until(() => publishes().length === 3 * payloads.length + 1);
  for (const wire of [publisher, subscriber]) {
    send(wire, pingFrame);
    await wire.next(0xd0);
  }

  const families = await scrape();
  const received = [...publisher.received, ...subscriber.received];
  const value = (name: string): number => valueOf(families, `lambdaiot_mqtt_${name}`);
  expect({
    packets: value("packets_received_total"),
    bytes: value("received_bytes_total"),
    publishes: value("messages_received_total"),
    payload: value("payload_received_bytes_total"),
  }).toEqual(sent);
  expect({
    packets: value("packets_sent_total"),
    bytes: value("sent_bytes_total"),
    publishes: value("messages_sent_total"),
    payload: value("payload_sent_bytes_total"),
  }).toEqual({
    packets: received.length,
    bytes: received.reduce((sum, { length }) => sum + length, 0),
    publishes: sent.publishes,
    payload: sent.payload,
  });
  expect(value("connections")).toBe(2);
  expect(value("connects_total")).toBe(2);
  expect(value("connections_opened_total")).toBe(2);
  expect(value("subscriptions")).toBe(2);
  await Promise.all([publisher.end(), subscriber.end()]);
  await until(async () => valueOf(await scrape(), "lambdaiot_mqtt_connections") === 0);
  expect(valueOf(await scrape(), "lambdaiot_mqtt_connections_maximum")).toBe(2);
});

test("counts what becomes of readings, requests and everything else", async () => {
  await start({ LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "40", LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1" });
  const before = await scrape();
  const device = await connectMqtt(gateway.mqttUrl, { clientId: "device" });
  await device.publishAsync("lambdaiot/discovery", announcement("aabbccddeeff"), { qos: 1 });
  const sensor_id = "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947";
  const reading = (more: object) => JSON.stringify({ type: "sensor_reading", sensor_id, value: 1, ...more });
  await device.publishAsync("lambdaiot", reading({ value_at: "2026-01-14T10:00:00Z" }), { qos: 1 });
  await device.publishAsync("lambdaiot", reading({ value_at: "2026-01-14T10:00:00Z" }), { qos: 1 });
  await device.publishAsync("lambdaiot", reading({ value: "x" }), { qos: 1 });
  await device.publishAsync("kept", "k".repeat(10), { qos: 1, retain: true });
  expect((await api("POST", "/sensor-readings", { sensor_id, value: 2 })).status).toBe(201);
  const [first] = (await api("GET", "/devices")).body as { id: string }[];
  await api("PUT", `/v1/devices/${first?.id}`, { status: "offline" });
  await api("POST", "/v1/devices", { id: "dev", name: "n", type: "t" });
  const rule = { deviceId: "dev", condition: "gt", threshold: 1, severity: "warning" };
  expect((await api("POST", "/v1/alerts/rules", rule)).status).toBe(201);
  const point = { timestamp: new Date().toISOString(), value: 5 };
  expect((await api("POST", "/v1/data/dev", point)).status).toBe(201);
  await until(async () => valueOf(await scrape(), "lambdaiot_alerts_active", { severity: "warning" }) === 1);
  await createApi(gateway.url)("GET", "/sensors");
  await api("POST", "/devices", { name: 1 });
  await api("GET", "/docs");
  await until(async () => (await api("GET", "/v1/products")).status === 429, 20_000);
  const live = await fetch(`${gateway.url}/v1/live`, { headers: { Authorization: `Bearer ${api.token}` } });
  expect(live.status).toBe(429);
  const after = await scrape();
  const rise = (name: string, labels: Record<string, string> = {}): number =>
    valueOf(after, name, labels) - valueOf(before, name, labels);
  expect(rise("lambdaiot_readings_stored_total")).toBe(3);
  expect(rise("lambdaiot_mqtt_readings_total")).toBe(1);
  expect(rise("lambdaiot_mqtt_resends_total")).toBe(1);
  expect(rise("lambdaiot_mqtt_messages_rejected_total", { reason: "bad_reading" })).toBe(1);
  expect(rise("lambdaiot_mqtt_messages_rejected_total", { reason: "not_json" })).toBe(0);
  expect(rise("lambdaiot_mqtt_retained_messages")).toBe(1);
  expect(rise("lambdaiot_mqtt_retained_bytes")).toBe("kept".length + 10);
  expect(rise("lambdaiot_store_commits_total")).toBeGreaterThanOrEqual(8);
  expect(rise("lambdaiot_devices", { status: "disabled" })).toBe(1);
  expect(rise("lambdaiot_devices", { status: "ok" })).toBe(1);
  expect(rise("lambdaiot_http_requests_refused_total", { reason: "unauthenticated" })).toBe(1);
  expect(rise("lambdaiot_http_requests_refused_total", { reason: "invalid" })).toBe(1);
  expect(rise("lambdaiot_http_requests_refused_total", { reason: "rate_limited" })).toBe(2);
  expect(rise("lambdaiot_http_calls_refused_total")).toBe(2);
  expect(rise("lambdaiot_http_requests_total", { dialect: "root", status: "4xx" })).toBe(2);
  expect(rise("lambdaiot_http_requests_total", { dialect: "root", status: "2xx" })).toBe(2);
  expect(rise("lambdaiot_http_requests_total", { dialect: "v1", status: "4xx" })).toBe(2);
  expect(rise("lambdaiot_http_requests_total", { dialect: "v1", status: "2xx" })).toBe(40);
  expect(rise("lambdaiot_http_requests_total", { dialect: "other", status: "2xx" })).toBeGreaterThanOrEqual(3);
  expect(valueOf(after, "lambdaiot_store_healthy")).toBe(1);
  for (const name of ["lambdaiot_store_bytes", "lambdaiot_store_free_disk_bytes", "process_resident_memory_bytes"])
    expect(valueOf(after, name)).toBeGreaterThan(1_000);
  const seconds = valueOf(after, "process_start_time_seconds");
  expect(Math.abs(seconds - Date.now() / 1_000)).toBeLessThan(3_600);
  await device.endAsync();
});

test("has no series for clients, devices, topics, users or paths, however many there are", async () => {
  await start();
  const before = await scrape();
  for (const [i, word] of ["alpha7", "beta7", "gamma7"].entries()) {
    const client = await connectMqtt(gateway.mqttUrl, { clientId: word });
    await client.publishAsync("lambdaiot/discovery", announcement(`aabbccddee0${i}`), { qos: 1 });
    await client.subscribeAsync(`topic/${word}`);
    await client.publishAsync(`topic/${word}`, word, { qos: 1, retain: true });
    await client.publishAsync("lambdaiot", word, { qos: 1 });
    const user = await logIn(gateway.url, word);
    await user("POST", "/v1/devices", { id: word, name: word, type: word });
    await user("GET", `/${word}`);
    await user("GET", `/v1/${word}?${word}`);
    await client.endAsync();
  }
  const { body } = await api("GET", "/metrics");
  expect(body).not.toMatch(/(?:alpha|beta|gamma)7|aabbccddee0/);
  expect(seriesOf(parseExposition(body as string))).toEqual(seriesOf(before));
});

test("counts who may not connect by what speaks against it", async () => {
  await start({ LAMBDAIOT_MQTT_ANONYMOUS: "off", LAMBDAIOT_MQTT_MAX_SESSIONS: "1" });
  const user = { username: "admin", password: "secret123" };
  const connected = await connectMqtt(gateway.mqttUrl, { ...user, clientId: "a", clean: false });
  await expect(connectMqtt(gateway.mqttUrl, { ...user, clientId: "b", clean: false })).rejects.toMatchObject({
    code: 2,
  });
  await expect(connectMqtt(gateway.mqttUrl, { ...user, password: "wrong" })).rejects.toMatchObject({ code: 4 });
  await expect(connectMqtt(gateway.mqttUrl)).rejects.toMatchObject({ code: 5 });
  await expect(connectMqtt(gateway.mqttUrl)).rejects.toMatchObject({ code: 5 });
  const families = await scrape();
  const samples = families.get("lambdaiot_mqtt_connections_refused_total")?.samples;
  expect(samples?.map(({ labels, value }) => [labels["reason"], value])).toEqual([
    ["identifier_rejected", 1],
    ["unavailable", 0],
    ["bad_credentials", 1],
    ["not_authorized", 2],
  ]);
  expect(valueOf(families, "lambdaiot_mqtt_sessions_refused_total")).toBe(1);
  expect(valueOf(families, "lambdaiot_mqtt_sessions", { client: "here" })).toBe(1);
  await connected.endAsync();
});

test("says what is left to say where the data folder is gone", async () => {
  const { folder, remove } = makeFolder();
  gateway = await startLocalGateway({ folder });
  api = await logIn(gateway.url);
  remove();
  const families = await scrape();
  expect(families.has("lambdaiot_store_bytes")).toBe(false);
  expect(valueOf(families, "lambdaiot_store_free_disk_bytes")).toBe(0);
  expect(valueOf(families, "lambdaiot_mqtt_connections")).toBe(0);
});

test("counts what came over HTTP and is no request, and answers it as before", async () => {
  await start();
  const { hostname, port } = new URL(gateway.url);
  const ask = (text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      let answer = "";
      const socket = connect(Number(port), hostname, () => socket.write(text));
      socket.setEncoding("utf8").on("data", (chunk: string) => (answer += chunk));
      socket.once("error", reject).once("close", () => resolve(answer));
    });
  expect(await ask("GARBAGE\r\n\r\n")).toMatch(/^HTTP\/1\.1 400 Bad Request\r\n/);
  expect(await ask(`GET / HTTP/1.1\r\nHost: a\r\nX-Big: ${"x".repeat(9_000)}\r\n\r\n`)).toMatch(
    /^HTTP\/1\.1 431 Request Header Fields Too Large\r\n/,
  );
  const handshake = "GET /mqtt HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
  expect(await ask(`${handshake}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n`)).toMatch(
    /^HTTP\/1\.1 400 Bad Request\r\n/,
  );
  const families = await scrape();
  expect(valueOf(families, "lambdaiot_http_malformed_total")).toBe(1);
  expect(valueOf(families, "lambdaiot_http_headers_refused_total")).toBe(1);
  expect(valueOf(families, "lambdaiot_mqtt_handshakes_refused_total")).toBe(1);
});
