import { execFile, spawnSync } from "node:child_process";
import { promisify } from "node:util";
import Sqlite from "better-sqlite3";
import type { IClientOptions, MqttClient } from "mqtt";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { counterInfos } from "../../src/counters.ts";
import { createLoad } from "../../src/mqtt/sys.ts";
import { connectMqtt, createApi, logIn, until, type Api } from "../support/client.ts";
import { makeFolder, startLocalGateway, type LocalGateway } from "../support/gateway.ts";
import { openClient, openWire, publishFrame, subscribeFrame } from "./gate-wire.ts";

// The `$SYS` tree: what it says, to whom, and that it leaves no trace.

/** What Mosquitto 2.0 publishes, but for what it alone has: `clients/maximum` comes with its first client. */
const mosquittoTopics = [
  "version",
  "uptime",
  ...["total", "connected", "active", "disconnected", "inactive", "maximum", "expired"].map((one) => `clients/${one}`),
  ...["received", "sent", "stored"].map((one) => `messages/${one}`),
  ...["messages/received", "messages/sent", "messages/dropped", "bytes/received", "bytes/sent"].map(
    (one) => `publish/${one}`,
  ),
  "bytes/received",
  "bytes/sent",
  "subscriptions/count",
  "retained messages/count",
  "store/messages/count",
  "store/messages/bytes",
  "heap/current",
  "heap/maximum",
  ...[
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "bytes/received",
    "bytes/sent",
    "sockets",
    "connections",
  ].flatMap((one) => ["1min", "5min", "15min"].map((minutes) => `load/${one}/${minutes}`)),
].map((name) => `$SYS/broker/${name}`);

const { folder: parent, remove } = makeFolder();
let folders = 0;
let folder: string;
let gateway: LocalGateway;
let api: Api;
let clients: MqttClient[] = [];
const admin = { username: "admin", password: "secret123" };

async function start(env: Record<string, string> = {}): Promise<void> {
  gateway = await startLocalGateway({
    folder,
    env: { LAMBDAIOT_MQTT_SYS_INTERVAL: "1", LAMBDAIOT_MQTT_RULES: "read $SYS/#", ...env },
  });
  api = await logIn(gateway.url);
}

async function stop(): Promise<void> {
  for (const client of clients) client.end(true);
  clients = [];
  await gateway.close();
}

beforeEach(() => {
  folder = `${parent}/${folders++}`;
});
afterEach(async () => {
  await stop();
  remove();
});

interface Said {
  topic: string;
  text: string;
  retain: boolean;
}

/** A client, and everything that it has been sent. */
async function listen(options: IClientOptions = {}): Promise<{ client: MqttClient; said: Said[] }> {
  const said: Said[] = [];
  const client = await connectMqtt(gateway.mqttUrl, options);
  clients.push(client.on("error", () => undefined));
  client.on("message", (topic, payload, { retain }) => void said.push({ topic, text: payload.toString(), retain }));
  return { client, said };
}

/** SUBACK's return codes. */
const ask = (client: MqttClient, ...filters: string[]): Promise<unknown> =>
  new Promise((resolve) => {
    client.once("packetreceive", (packet) => packet.cmd === "suback" && resolve(packet.granted));
    client.subscribe(filters, { qos: 1 }, () => undefined);
  });

/** The values that whoever subscribes gets at once. */
async function readTree(): Promise<Map<string, string>> {
  const { client, said } = await listen(admin);
  await client.subscribeAsync("$SYS/#");
  const last = `$SYS/broker/lambdaiot/${counterInfos.at(-1)?.name.replaceAll(".", "/")}`;
  await until(() => said.some(({ topic, retain }) => retain && topic === last));
  await client.endAsync();
  return new Map(
    said.filter(({ retain }) => retain).map(({ topic, text }) => [topic.slice("$SYS/broker/".length), text]),
  );
}

const countRows = (table: string): number => {
  const sqlite = new Sqlite(gateway.storePath, { readonly: true });
  try {
    return sqlite.prepare<[], number>(`SELECT count(*) FROM ${table}`).pluck().get() ?? 0;
  } finally {
    sqlite.close();
  }
};

test("an administrator gets every value at once, and all of them again each interval", async () => {
  await start();
  const { client, said } = await listen(admin);
  expect(await ask(client, "$SYS/#")).toEqual([1]);
  const own = counterInfos.map(({ name }) => `$SYS/broker/lambdaiot/${name.replaceAll(".", "/")}`);
  const topicsOf = (retain: boolean): string[] => said.filter((one) => one.retain === retain).map(({ topic }) => topic);
  await until(() => topicsOf(true).includes(own.at(-1) as string));
  const first = topicsOf(true);
  expect(first).toEqual(expect.arrayContaining([...mosquittoTopics, ...own]));
  expect(new Set(first).size).toBe(first.length);
  const uptimes = () => said.filter(({ topic, retain }) => topic === "$SYS/broker/uptime" && !retain);
  await until(() => uptimes().length >= 3);
  expect(topicsOf(false).slice(0, first.length)).toEqual(first);
  // Whole seconds, later each time, as exporters read them.
  for (const { text } of uptimes()) expect(text).toMatch(/^\d+ seconds$/);
  const seconds = uptimes().map(({ text }) => Number.parseInt(text, 10));
  expect(seconds).toEqual(seconds.toSorted((a, b) => a - b));
  expect(seconds.at(-1)).toBeGreaterThan(seconds[0] as number);
  expect(said.find(({ topic }) => topic === "$SYS/broker/version")?.text).toMatch(/^lambdaiot version \d/);
  const numbers = said.filter(({ topic }) => !/version$|uptime$/.test(topic));
  for (const { topic, text } of numbers) expect(`${topic} ${text}`).toMatch(/ \d+(\.\d\d)?$/);
});

test("who subscribes to a part of it gets that part, each value once", async () => {
  await start({ LAMBDAIOT_MQTT_SYS_INTERVAL: "86400" });
  const { client, said } = await listen(admin);
  const read = async (...filters: string[]): Promise<string[]> => {
    said.length = 0;
    await ask(client, ...filters, "end");
    await client.publishAsync("end", "", { qos: 1 });
    await until(() => said.some(({ topic }) => topic === "end"));
    // What a subscription brings comes one after the other; the last one to come is asked for behind it.
    await ask(client, "$SYS/broker/uptime");
    await until(() => said.some(({ topic }) => topic === "$SYS/broker/uptime"));
    return said.map(({ topic }) => topic).filter((topic) => topic !== "end" && topic !== "$SYS/broker/uptime");
  };
  expect(await read("$SYS/broker/clients/+")).toHaveLength(7);
  expect(await read("$SYS/+/version", "$SYS/broker/version")).toEqual(["$SYS/broker/version"]);
  expect(await read("$SYS/broker/load/#")).toHaveLength(27);
  expect(await read("$SYS/broker/+/connected")).toEqual(["$SYS/broker/clients/connected"]);
  expect(await read("$SYS/broker", "$SYS/broker/clients", "$SYS/+", "$SYSTEM/#")).toEqual([]);
});

describe("what it says", () => {
  test("is what clients have done", async () => {
    await start({ LAMBDAIOT_MQTT_MAX_QUEUED_MESSAGES: "2" });
    const before = await readTree();
    const sleeper = await listen({ ...admin, clientId: "sleeper", clean: false });
    await sleeper.client.subscribeAsync(["t/#", "u"], { qos: 1 });
    await sleeper.client.endAsync();
    const wire = await openClient(gateway.mqttUrl, { clientId: "wire" });
    wire.send(subscribeFrame(1, "t/1"));
    await wire.next(0x90);
    wire.send(publishFrame("t/1", "x".repeat(1_000), 0));
    for (let i = 1; i <= 4; i++) wire.send(publishFrame("t/1", "12345", 1, i));
    await until(() => wire.received.filter((packet) => packet[0] === 0x40).length === 4);
    await until(() => wire.received.filter((packet) => (packet[0] as number) >> 4 === 3).length === 5);
    const publisher = await listen();
    await publisher.client.publishAsync("r", "retained", { qos: 1, retain: true });
    const after = await readTree();
    const rise = (name: string): number => Number(after.get(name)) - Number(before.get(name));
    expect(Object.fromEntries(after)).toMatchObject({
      // The wire, the publisher and the reader; the sleeper is away.
      "clients/connected": "3",
      "clients/active": "3",
      "clients/disconnected": "1",
      "clients/inactive": "1",
      "clients/total": "4",
      "clients/maximum": "3",
      "clients/expired": "0",
      // t/1 of the wire, $SYS/# of the reader, two of the sleeper.
      "subscriptions/count": "4",
      "retained messages/count": "1",
      "store/messages/count": "3",
      "store/messages/bytes": String(2 * "t/112345".length + "rretained".length),
      "lambdaiot/queued/messages": "2",
      "publish/messages/received": "6",
      "publish/bytes/received": String(1_000 + 4 * 5 + "retained".length),
      "publish/messages/dropped": "2",
      "lambdaiot/mqtt/queue_dropped": "2",
    });
    // The tree that the first reader was told, and what the wire has got.
    expect(rise("publish/messages/sent")).toBeGreaterThanOrEqual(before.size + 5);
    expect(rise("bytes/received")).toBeGreaterThan(1_020);
    expect(rise("bytes/sent")).toBeGreaterThan(1_020);
    await wire.end();
  });

  test("counts what is refused", async () => {
    await start();
    const stranger = await listen();
    await ask(stranger.client, "$SYS/#", "$SYS/broker/uptime");
    await stranger.client.publishAsync("$SYS/broker/uptime", "forged", { qos: 1, retain: true });
    const wire = await openWire(gateway.mqttUrl);
    wire.send(Buffer.from("GET / HTTP/1.1\r\n\r\n"));
    await wire.closed;
    const tree = await readTree();
    expect(Object.fromEntries(tree)).toMatchObject({
      "lambdaiot/mqtt/subscriptions_refused": "2",
      "lambdaiot/mqtt/rejected/forbidden": "1",
      "lambdaiot/mqtt/gate/not_connect": "1",
    });
    expect(tree.get("uptime")).not.toBe("forged");
  });

  test("are averages as Mosquitto 2.0.11 had them after its first 11 seconds, of 2 packets, 59 packets, 27 bytes", () => {
    for (const [count, averages] of [
      [2, ["1.83", "0.39", "0.13"]],
      [59, ["53.91", "11.59", "3.91"]],
      [27, ["24.67", "5.30", "1.79"]],
    ] as const) {
      let total = 7;
      const load = createLoad("x", () => total);
      total += count;
      load.update(11);
      expect(load.averages.map((average) => average.toFixed(2))).toEqual(averages);
    }
  });

  test("are averages that follow the rate, the longer ones slower", () => {
    let total = 0;
    const load = createLoad("x", () => total);
    for (let i = 0; i < 30; i++) {
      total += 10;
      load.update(10);
    }
    const [one = 0, five = 0, fifteen = 0] = load.averages; // 60 a minute, for five minutes
    expect(one).toBeCloseTo(60 * (1 - Math.exp(-5)), 6);
    expect(five).toBeCloseTo(60 * (1 - Math.exp(-1)), 6);
    expect(fifteen).toBeCloseTo(60 * (1 - Math.exp(-1 / 3)), 6);
    load.update(600);
    expect(load.averages[0]).toBeLessThan(0.01);
  });
});

describe("nobody but administrators", () => {
  test("may subscribe to it, and nothing of a refused subscription is kept", async () => {
    await start();
    const member = await logIn(gateway.url, "member");
    const keyOf = async (of: Api): Promise<string> => (await of("POST", "/v1/api-keys", { name: "k" })).body.key;
    await api("POST", "/v1/devices", { id: "dev", name: "n", type: "t" });
    const { token } = (await api("POST", "/v1/devices/dev/token")).body;
    const filters = ["$SYS/#", "$SYS/broker/uptime", "$SYS/+/uptime", "$SYS/broker/#"];
    const codes = async (options: IClientOptions): Promise<unknown> => {
      const { client } = await listen({ clean: false, ...options });
      return ask(client, ...filters);
    };
    const none = [128, 128, 128, 128];
    expect(await codes({ clientId: "nobody" })).toEqual(none);
    expect(await codes({ clientId: "member", username: "member", password: "secret123" })).toEqual(none);
    expect(await codes({ clientId: "member-jwt", username: "member", password: member.token as string })).toEqual(none);
    expect(await codes({ clientId: "member-key", username: "x", password: await keyOf(member) })).toEqual(none);
    expect(await codes({ clientId: "device", username: "dev", password: token as string })).toEqual(none);
    expect(countRows("mqtt_subscriptions")).toBe(0);
    const all = [1, 1, 1, 1];
    expect(await codes({ clientId: "admin-jwt", username: "admin", password: api.token as string })).toEqual(all);
    expect(await codes({ clientId: "admin-key", username: "x", password: await keyOf(api) })).toEqual(all);
    expect(countRows("mqtt_subscriptions")).toBe(8);
  });

  test("hears of it, by a wildcard neither [MQTT-4.7.2-1], nor by a subscription that is in the store", async () => {
    await start();
    await logIn(gateway.url, "member");
    const options = { clientId: "member", username: "member", password: "secret123", clean: false };
    const first = await listen(options);
    await first.client.subscribeAsync("#", { qos: 1 });
    await first.client.endAsync();
    await stop();
    const sqlite = new Sqlite(gateway.storePath);
    sqlite.exec("INSERT INTO mqtt_subscriptions (client_id, topic, qos) VALUES ('member', '$SYS/#', 1)");
    sqlite.close();
    await start();
    const member = await listen(options);
    const wide = await listen(admin);
    expect(await ask(wide.client, "#", "+/broker/uptime", "+/+/+/+")).toEqual([1, 1, 1]);
    const watcher = await listen(admin);
    await watcher.client.subscribeAsync("$SYS/broker/uptime");
    await until(() => watcher.said.length >= 3);
    await watcher.client.publishAsync("free", "", { qos: 1 });
    for (const { said } of [member, wide]) {
      await until(() => said.length > 0);
      expect(said.map(({ topic }) => topic)).toEqual(["free"]);
    }
  });
});

test("what the broker library tells itself about clients is told to nobody", async () => {
  await start();
  const { client, said } = await listen(admin);
  await ask(client, "$SYS/#", "$SYS/+/new/clients", "$SYS/+/new/subscribes", "$SYS/+/disconnect/clients");
  for (let i = 0; i < 3; i++) {
    const other = await listen({ clientId: `other-${i}` });
    await other.client.subscribeAsync(["a", "b"]);
    await other.client.unsubscribeAsync("a");
    await other.client.endAsync();
  }
  const updates = () => said.filter(({ topic, retain }) => topic === "$SYS/broker/uptime" && !retain).length;
  const seen = updates();
  await until(() => updates() >= seen + 2);
  expect(said.filter(({ topic }) => !topic.startsWith("$SYS/broker/"))).toEqual([]);
  expect(said.filter(({ text }) => text.includes("other-"))).toEqual([]);
});

test("nothing of it is stored, nor queued for who sleeps", async () => {
  await start();
  const options = { ...admin, clientId: "sleeper", clean: false };
  const sleeper = await listen(options);
  await sleeper.client.subscribeAsync("$SYS/#", { qos: 2 });
  await sleeper.client.endAsync();
  const watcher = await listen(admin);
  await watcher.client.subscribeAsync("$SYS/broker/uptime");
  await until(() => watcher.said.length >= 4);
  expect([countRows("mqtt_queued"), countRows("mqtt_retained")]).toEqual([0, 0]);
  expect((await readTree()).get("retained messages/count")).toBe("0");
  const again = await listen(options);
  await until(() => again.said.length > 0);
  // What comes first is of the next update, and of one that is whole.
  expect(again.said[0]).toMatchObject({ topic: "$SYS/broker/version", retain: false });
});

test("with an interval of 0 there is none", async () => {
  await start({ LAMBDAIOT_MQTT_SYS_INTERVAL: "0" });
  const { client, said } = await listen(admin);
  expect(await ask(client, "$SYS/#", "free")).toEqual([1, 1]);
  await client.publishAsync("free", "", { qos: 1 });
  await until(() => said.length > 0);
  expect(said.map(({ topic }) => topic)).toEqual(["free"]);
});

const isInstalled = spawnSync("mosquitto_sub", ["--help"]).error === undefined;
test.skipIf(!isInstalled)("mosquitto_sub shows it (needs the package mosquitto-clients)", async () => {
  await start();
  const { port } = new URL(gateway.mqttUrl);
  const args = ["-h", "127.0.0.1", "-p", port, "-t", "$SYS/broker/clients/#", "-C", "7", "-v"];
  const { stdout } = await promisify(execFile)("mosquitto_sub", [...args, "-u", admin.username, "-P", admin.password]);
  expect(stdout).toMatch(/^\$SYS\/broker\/clients\/total 1\n\$SYS\/broker\/clients\/connected 1\n/);
  expect((await promisify(execFile)("mosquitto_sub", args)).stderr).toMatch(/denied/);
});

test("a client that does not read is cut off, and counted", async () => {
  await start();
  const wire = await openClient(gateway.mqttUrl, { clientId: "slow" });
  wire.send(subscribeFrame(1, "flood"));
  await wire.next(0x90);
  wire.socket.pause();
  const { client } = await listen();
  const payload = Buffer.alloc(200_000);
  const closed = () =>
    Object.entries(gateway.app.counters.snapshot()).filter(([name]) => name.startsWith("mqtt.gate."));
  await until(async () => {
    // More than the buffers of both sides take; nobody is sent to any more once it has been cut off.
    if (closed().length > 0) return true;
    await client.publishAsync("flood", payload);
    return false;
  }, 25_000);
  expect(closed().map(([, count]) => count)).toEqual([1]);
  expect((await createApi(gateway.url)("GET", "/hello")).status).toBe(200);
  await wire.end();
});
