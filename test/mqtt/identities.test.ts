import { setTimeout as sleep } from "node:timers/promises";
import type { IClientOptions, MqttClient } from "mqtt";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { connectMqtt, logIn, openInbox, until, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

const topic = "lambdaiot";
const discovery = `${topic}/discovery`;

let gateway: LocalGateway;
let api: Api;
let clients: MqttClient[] = [];

async function start(env: Record<string, string> = {}): Promise<void> {
  gateway = await startLocalGateway({
    env: {
      LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000",
      LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000",
      LAMBDAIOT_MQTT_RULES: "readwrite tele/%u/#",
      ...env,
    },
  });
  api = await logIn(gateway.url);
}

afterEach(async () => {
  for (const client of clients.splice(0)) client.end(true);
  await gateway.close();
  clients = [];
});

async function connect(options: IClientOptions = {}): Promise<MqttClient> {
  const client = await connectMqtt(gateway.mqttUrl, options);
  client.on("error", () => undefined);
  clients.push(client);
  return client;
}

/** CONNACK's return code. */
async function codeOf(options: IClientOptions): Promise<number> {
  try {
    await connect(options);
    return 0;
  } catch (error) {
    return (error as { code: number }).code;
  }
}

const counter = (name: string): number => gateway.app.counters.snapshot()[name] ?? 0;

interface Known {
  id: string;
  sensorId: string;
  actorId: string;
  token: string;
  announcement: string;
}

/** Announces a device and gives it a token. */
async function addDevice(mac: string): Promise<Known> {
  const client = await connect();
  const announcement = JSON.stringify({ mac_address: mac, device: { name: mac }, sensors: [{}], actors: [{}] });
  await client.publishAsync(discovery, announcement, { qos: 1 });
  await client.endAsync();
  const devices = (await api("GET", "/devices")).body as { id: string; name: string }[];
  const id = devices.find(({ name }) => name === mac)?.id as string;
  const of = async (kind: string): Promise<string> =>
    ((await api("GET", `/${kind}s`)).body as { id: string; device_id: string }[]).find(
      ({ device_id }) => device_id === id,
    )?.id as string;
  const { status, body } = await api("POST", `/v1/devices/${id}/token`);
  if (status !== 201) throw new Error(JSON.stringify(body));
  return { id, sensorId: await of("sensor"), actorId: await of("actor"), token: body.token as string, announcement };
}

const loginOf = ({ id, token }: Known, clientId = `client-${id}`): IClientOptions => ({
  username: id,
  password: token,
  clientId,
});

const reading = ({ sensorId }: Known, value: number) =>
  JSON.stringify({ type: "sensor_reading", sensor_id: sensorId, value });
const valuesOf = async ({ sensorId }: Known): Promise<number[]> =>
  ((await api("GET", `/sensor-readings?sensor_id=${sensorId}`)).body as { value: number }[]).map(({ value }) => value);

describe("of two devices with tokens, neither", () => {
  let a: Known;
  let b: Known;
  beforeEach(async () => {
    await start();
    a = await addDevice("aabbccddee01");
    b = await addDevice("aabbccddee02");
  });

  test("hears the other's commands, triggers, checks and readings, and each hears its own", async () => {
    const [deviceA, deviceB] = [await connect(loginOf(a)), await connect(loginOf(b))];
    const [inboxA, inboxB] = [await openInbox(deviceA, topic), await openInbox(deviceB, topic)];
    const user = await connect({ username: "admin", password: "secret123", clientId: "user" });
    for (const { id, actorId, sensorId } of [a, b]) {
      await api("POST", `/actors/${actorId}/write`, { action: "set", value: 1 });
      await api("POST", `/sensors/${sensorId}/trigger`, { action: "read" });
      await user.publishAsync(topic, JSON.stringify({ type: "device_check_request", device_id: id }), { qos: 1 });
    }
    await deviceA.publishAsync(topic, reading(a, 1), { qos: 1 });
    await deviceB.publishAsync(topic, reading(b, 2), { qos: 1 });
    // The last word to each: when it has come, so has all before it.
    for (const { actorId } of [a, b]) {
      const last = JSON.stringify({ type: "actor_command", actor_id: actorId, value: "last" });
      await user.publishAsync(topic, last, { qos: 1 });
    }
    await inboxA.next((body) => body["value"] === "last");
    await inboxB.next((body) => body["value"] === "last");
    for (const [inbox, { id, sensorId, actorId }] of [
      [inboxA, a],
      [inboxB, b],
    ] as const) {
      const heard = inbox.messages.map(({ body }) => [
        body["type"],
        body["device_id"] ?? body["sensor_id"] ?? body["actor_id"],
      ]);
      expect(heard).toEqual([
        ["actor_command", actorId],
        ["sensor_trigger", sensorId],
        ["device_check_request", id],
        ["actor_command", actorId],
      ]);
    }
  });

  test("can subscribe beyond the shared topic and what the rules give it", async () => {
    const device = await connect(loginOf(a));
    const granted = async (filter: string): Promise<number> =>
      (await device.subscribeAsync(filter, { qos: 1 }).catch(() => [{ qos: 128 }]))[0]?.qos as number;
    for (const filter of ["#", "+", `${topic}/#`, discovery, `tele/${b.id}/#`, "tele/#", "$SYS/#"])
      expect([filter, await granted(filter)]).toEqual([filter, 128]);
    expect([await granted(topic), await granted(`tele/${a.id}/#`)]).toEqual([1, 1]);
  });

  test.each([0, 1, 2] as const)(
    "can forge what the other says, QoS %i: it is neither stored nor forwarded",
    async (qos) => {
      const watcher = await connect({ username: "admin", password: "secret123" });
      const inbox = await openInbox(watcher, "#");
      const victim = await connect(loginOf(b));
      const commands = await openInbox(victim, topic);
      const before = (await api("GET", `/devices/${b.id}`)).body;
      const forged = [
        reading(b, 666),
        JSON.stringify({ type: "device_check_response", device_id: b.id, status: "lost" }),
        JSON.stringify({ type: "actor_command", actor_id: b.actorId, value: 666 }),
        JSON.stringify({ type: "sensor_trigger", sensor_id: b.sensorId }),
        // A device may take its id for the same in capitals.
        JSON.stringify({ type: "actor_command", actor_id: b.actorId.toUpperCase(), value: 666 }),
        JSON.stringify({ type: "actor_command", actor_id: b.actorId, value: 666, pad: "x".repeat(66_000) }),
      ];
      const impostors = [await connect(loginOf(a)), await connect()];
      for (const impostor of impostors) {
        for (const message of forged) await impostor.publishAsync(topic, message, { qos, retain: true });
        await impostor.publishAsync(discovery, b.announcement.replace(/"name":"[^"]*"/, '"name":"taken"'), { qos });
      }
      // Neither are they cut off: what they may say still arrives.
      await impostors[0]?.publishAsync(topic, reading(a, 1), { qos: 1 });
      await impostors[1]?.publishAsync("free", '{"type":"hello"}', { qos: 1 });
      await inbox.next((body) => body["type"] === "hello");
      await api("POST", `/actors/${b.actorId}/write`, { action: "set", value: 7 });
      await commands.next((body) => body["value"] === 7);
      expect(
        inbox.messages.filter(
          ({ body }) => body["type"] !== "hello" && body["sensor_id"] !== a.sensorId && body["value"] !== 7,
        ),
      ).toEqual([]);
      expect(commands.messages).toHaveLength(1);
      expect([await valuesOf(a), await valuesOf(b)]).toEqual([[1], []]);
      const { name, status_id } = (await api("GET", `/devices/${b.id}`)).body;
      expect({ name, status_id }).toEqual({ name: before.name, status_id: before.status_id });
      expect(counter("mqtt.rejected.forbidden")).toBe(14);
      const late = await openInbox(await connect({ username: "admin", password: "secret123" }), "#");
      await (impostors[1] as MqttClient).publishAsync("free", '{"type":"end"}', { qos: 1 });
      await late.next((body) => body["type"] === "end");
      expect(late.messages).toHaveLength(1); // nothing of it was retained
    },
  );

  test.each([1, 2] as const)("can have forged messages wait for who is away, QoS %i", async (qos) => {
    const admin = { username: "admin", password: "secret123", clientId: "watcher", clean: false };
    const watcher = await connect(admin);
    await watcher.subscribeAsync("#", { qos: 2 });
    await watcher.endAsync();
    const device = await connect(loginOf(a));
    await device.publishAsync(topic, reading(b, 666), { qos });
    await device.publishAsync("nowhere", "forbidden", { qos });
    await device.publishAsync(topic, reading(a, 5), { qos });
    await device.publishAsync(`tele/${a.id}/x`, "7", { qos });
    const heard: string[] = [];
    const back = connectMqtt(gateway.mqttUrl, admin);
    clients.push(
      await back.then((client) => client.on("message", (_, payload) => void heard.push(payload.toString()))),
    );
    await device.publishAsync(`tele/${a.id}/x`, "8", { qos });
    await until(() => heard.includes("8"));
    expect(heard.filter((text) => /666|forbidden/.test(text))).toEqual([]);
  });

  test("leaves a will that says what it may not", async () => {
    const inbox = await openInbox(await connect({ username: "admin", password: "secret123" }), "#");
    const wills = [
      { topic, payload: Buffer.from(reading(b, 666)) },
      { topic, payload: Buffer.from(JSON.stringify({ type: "actor_command", actor_id: b.actorId, value: 666 })) },
      { topic: "nowhere", payload: Buffer.from("{}") },
      { topic: "$SYS/x/new/clients", payload: Buffer.from("{}") },
      { topic: `tele/${a.id}/lwt`, payload: Buffer.from('{"type":"gone"}') },
    ];
    for (const will of wills) {
      const device = await connect({ ...loginOf(a), will: { ...will, qos: 1, retain: false } });
      device.stream.destroy();
      await until(() => !device.connected);
    }
    await inbox.next((body) => body["type"] === "gone");
    expect(inbox.messages).toHaveLength(1);
    expect(counter("mqtt.rejected.forbidden")).toBe(4);
  });

  test.each([true, false])(
    "takes the other's client id, connected or as a stored session (clean: %s)",
    async (clean) => {
      const owner = await connect({ ...loginOf(b, "shared"), clean: false });
      await owner.subscribeAsync(topic, { qos: 1 });
      expect(await codeOf({ ...loginOf(a, "shared"), clean })).toBe(2);
      expect(await codeOf({ clientId: "shared", clean })).toBe(2);
      expect(owner.connected).toBe(true);
      await owner.endAsync();
      await api("POST", `/actors/${b.actorId}/write`, { action: "set", value: 3 });
      expect(await codeOf({ ...loginOf(a, "shared"), clean })).toBe(2);
      expect(await codeOf({ clientId: "shared", clean })).toBe(2);
      const values: unknown[] = [];
      const back = await connectMqtt(gateway.mqttUrl, { ...loginOf(b, "shared"), clean: false });
      clients.push(back.on("message", (_, payload) => void values.push(JSON.parse(payload.toString()).value)));
      await api("POST", `/actors/${b.actorId}/write`, { action: "set", value: 4 });
      await until(() => values.includes(4));
      expect(values).toContain(4);
    },
  );

  test("fills the other's queue while it sleeps", async () => {
    const sleeper = await connect({ ...loginOf(b), clean: false });
    await sleeper.subscribeAsync(topic, { qos: 1 });
    await sleeper.endAsync();
    const busy = await connect(loginOf(a));
    await Promise.all(Array.from({ length: 1_100 }, (_, i) => busy.publishAsync(topic, reading(a, i), { qos: 1 })));
    expect((await api("POST", `/actors/${b.actorId}/write`, { action: "set", value: 9 })).status).toBe(202);
    const values: unknown[] = [];
    const client = await connectMqtt(gateway.mqttUrl, { ...loginOf(b), clean: false, manualConnect: false });
    clients.push(client.on("message", (_, payload) => void values.push(JSON.parse(payload.toString()).value)));
    await api("POST", `/actors/${b.actorId}/write`, { action: "set", value: 10 });
    await until(() => values.includes(10));
    expect(values.filter((value) => value !== 9 && value !== 10)).toEqual([]);
    expect(counter("mqtt.queue_dropped")).toBe(0);
  });
});

describe("a device's token", () => {
  beforeEach(() => start());

  test("is proof with either id, is replaced by another one, and taken away", async () => {
    await api("POST", "/v1/devices", { id: "SC-1", name: "n", type: "temperature" });
    const { sensors } = (await api("GET", "/v1/devices/SC-1")).body;
    expect(sensors).toHaveLength(1);
    const uuid = ((await api("GET", "/devices")).body as { id: string }[])[0]?.id as string;
    const first = (await api("POST", "/v1/devices/SC-1/token")).body.token as string;
    for (const username of ["SC-1", uuid, uuid.toUpperCase()])
      expect(await codeOf({ username, password: first })).toBe(0);
    for (const password of ["wrong", first.slice(0, -1), "", `${first}x`])
      expect([password, await codeOf({ username: "SC-1", password })]).toEqual([password, 4]);
    expect(await codeOf({ username: "SC-1" })).toBe(4);
    const second = (await api("POST", `/v1/devices/${uuid}/token`)).body.token as string;
    expect(second).not.toBe(first);
    expect([
      await codeOf({ username: uuid, password: first }),
      await codeOf({ username: uuid, password: second }),
    ]).toEqual([4, 0]);
    expect(JSON.stringify((await api("GET", "/v1/devices/SC-1")).body)).not.toContain(second);
    expect((await api("DELETE", "/v1/devices/SC-1/token")).body).toEqual({ success: true });
    // Its name is nobody's now.
    expect(await codeOf({ username: uuid, password: second })).toBe(0);
    const anybody = await connect();
    const message = JSON.stringify({ type: "sensor_reading", sensor_id: sensors[0].id, value: 5 });
    await anybody.publishAsync(topic, message, { qos: 1 });
    expect((await api("GET", `/sensor-readings?sensor_id=${sensors[0].id}`)).body).toHaveLength(1);
  });

  test("is given and taken by administrators", async () => {
    await api("POST", "/v1/devices", { id: "SC-1", name: "n", type: "temperature" });
    const member = await logIn(gateway.url, "member");
    expect((await member("POST", "/v1/devices/SC-1/token")).status).toBe(403);
    expect((await member("DELETE", "/v1/devices/SC-1/token")).status).toBe(403);
    expect((await api("POST", "/v1/devices/none/token")).status).toBe(404);
  });

  test("of one device does not speak for a device without a token, which anyone else may speak for", async () => {
    const a = await addDevice("aabbccddee01");
    const open = await addDevice("aabbccddee02");
    await api("DELETE", `/v1/devices/${open.id}/token`);
    await (await connect(loginOf(a))).publishAsync(topic, reading(open, 1), { qos: 1 });
    await (await connect()).publishAsync(topic, reading(open, 2), { qos: 1 });
    await (
      await connect({ username: "admin", password: "secret123" })
    ).publishAsync(topic, reading(open, 3), { qos: 1 });
    expect(await valuesOf(open)).toEqual([3, 2]);
  });

  test("brings a device its client id back from whoever holds it without being anybody", async () => {
    const a = await addDevice("aabbccddee01");
    const squatter = await connect({ clientId: "device-a", clean: false });
    await squatter.subscribeAsync("secret", { qos: 1 });
    const device = await connect({ ...loginOf(a, "device-a"), clean: false });
    await until(() => !squatter.connected);
    await (await connect()).publishAsync("secret", "{}", { qos: 1 });
    const inbox = await openInbox(device, topic);
    await api("POST", `/actors/${a.actorId}/write`, { action: "set", value: 1 });
    await inbox.next((body) => body["value"] === 1);
    expect(inbox.messages).toHaveLength(1);
    await device.endAsync();
    expect(await codeOf({ clientId: "device-a" })).toBe(2);
  });
});

describe("a user", () => {
  beforeEach(() => start({ LAMBDAIOT_MQTT_ANONYMOUS: "off" }));

  test("logs in with the password, a JWT or an API key, and not with a wrong one", async () => {
    const other = await logIn(gateway.url, "other");
    const { body } = await api("POST", "/v1/api-keys", { name: "k" });
    const key = (body.key ?? body.apiKey) as string;
    expect(key).toEqual(expect.any(String));
    const attempts: [string, string | undefined, number][] = [
      ["admin", "secret123", 0],
      ["ADMIN", "secret123", 0],
      ["admin", api.token, 0],
      ["whatever", key, 0],
      ["admin", "wrong", 4],
      ["admin", undefined, 4],
      ["admin", other.token, 4],
      ["admin", `${api.token}x`, 4],
      ["whatever", `${key}x`, 4],
      ["whatever", "secret123", 5],
      ["", undefined, 5],
    ];
    for (const [username, password, code] of attempts) {
      const answer = await codeOf({
        ...(username !== "" && { username }),
        ...(password !== undefined && { password }),
      });
      expect([username, password, answer]).toEqual([username, password, code]);
    }
  });

  test("subscribes to everything; the broker's own topics are the administrator's", async () => {
    await logIn(gateway.url, "other");
    const granted = async (username: string, filter: string): Promise<number> => {
      const client = await connect({ username, password: "secret123" });
      return (await client.subscribeAsync(filter, { qos: 1 }).catch(() => [{ qos: 128 }]))[0]?.qos as number;
    };
    expect([await granted("other", "#"), await granted("other", "$SYS/#"), await granted("admin", "$SYS/#")]).toEqual([
      1, 128, 1,
    ]);
  });
});

test("who fails too often is refused, with the right password too, until some time has passed", async () => {
  await start({ LAMBDAIOT_AUTH_ATTEMPTS_BURST: "5", LAMBDAIOT_AUTH_ATTEMPTS_PER_MINUTE: "1" });
  const codes: number[] = [];
  for (let i = 0; i < 6; i++) codes.push(await codeOf({ username: "admin", password: `wrong ${i}` }));
  expect(codes.at(0)).toBe(4);
  expect(codes.at(-1)).toBe(5);
  expect(await codeOf({ username: "admin", password: "secret123" })).toBe(5);
  expect(counter("auth.attempts_refused")).toBeGreaterThan(0);
  // Those who need no password are not kept out by it.
  expect([await codeOf({}), await codeOf({ username: "admin", password: api.token as string })]).toEqual([0, 0]);
});

test("the site's name and password are required of all who are nobody else", async () => {
  await start({ LAMBDAIOT_MQTT_USERNAME: "site", LAMBDAIOT_MQTT_PASSWORD: "common-secret" });
  expect([
    await codeOf({ username: "site", password: "common-secret" }),
    await codeOf({ username: "site", password: "wrong" }),
    await codeOf({ username: "other", password: "common-secret" }),
    await codeOf({}),
    await codeOf({ username: "admin", password: "secret123" }),
  ]).toEqual([0, 4, 4, 4, 0]);
});

test("what is forbidden is acknowledged, counted, and goes nowhere; its sender stays", async () => {
  await start();
  const watcher = await connect({ username: "admin", password: "secret123" });
  const heard: string[] = [];
  watcher.on("message", (on) => void heard.push(on));
  await watcher.subscribeAsync(["#", "forbidden/#", "$SYS/withheld"], { qos: 2 });
  const other = await connect({ clientId: "victim" });
  const client = await connect();
  // By this topic, Aedes throws out who has that client id.
  for (const qos of [0, 1, 2] as const)
    await client.publishAsync("$SYS/another/new/clients", "victim", { qos, retain: true });
  await client.publishAsync("$elsewhere", "{}", { qos: 1 });
  await client.publishAsync("free", "{}", { qos: 1 });
  await until(() => heard.includes("free"));
  await sleep(50);
  expect(heard).toEqual(["free"]);
  expect([client.connected, other.connected]).toEqual([true, true]);
  expect(counter("mqtt.rejected.forbidden")).toBe(4);
});
