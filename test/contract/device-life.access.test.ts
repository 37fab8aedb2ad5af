import { afterEach, describe, expect, test } from "vitest";
import type { IClientOptions } from "mqtt";
import { connectMqtt, logIn, openInbox } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// Who may connect to the broker, and what a device that has connected gets to hear.

let gateway: LocalGateway | undefined;
afterEach(async () => {
  await gateway?.close();
  gateway = undefined;
});

async function start(env: Record<string, string> = {}) {
  gateway = await startLocalGateway({ env });
  return { ...gateway, wsUrl: `${gateway.url.replace("http", "ws")}/mqtt` };
}

/** CONNACK return codes of MQTT 3.1.1, table 3.1. */
const accepted = 0;
const badCredentials = 4;
const notAuthorized = 5;

async function tryConnect(url: string, options: IClientOptions = {}): Promise<number> {
  try {
    const client = await connectMqtt(url, options);
    await client.endAsync();
    return accepted;
  } catch (error) {
    return (error as { code: number }).code;
  }
}

describe("mqtt.username and mqtt.password", () => {
  test("where they are set, are required of everybody, over TCP and WebSocket", async () => {
    const { mqttUrl, wsUrl } = await start({
      LAMBDAIOT_MQTT_USERNAME: "house",
      LAMBDAIOT_MQTT_PASSWORD: "open sesame",
    });
    for (const url of [mqttUrl, wsUrl]) {
      expect(await tryConnect(url)).toBe(badCredentials);
      expect(await tryConnect(url, { username: "house" })).toBe(badCredentials);
      expect(await tryConnect(url, { username: "house", password: "open" })).toBe(badCredentials);
      expect(await tryConnect(url, { username: "House", password: "open sesame" })).toBe(badCredentials);
      expect(await tryConnect(url, { username: "", password: "open sesame" })).toBe(badCredentials);
      expect(await tryConnect(url, { username: "house", password: "open sesame" })).toBe(accepted);
    }
  });

  test("let in those outside of the local network as well", async () => {
    const { wsUrl } = await start({
      LAMBDAIOT_MQTT_USERNAME: "house",
      LAMBDAIOT_MQTT_PASSWORD: "open sesame",
      LAMBDAIOT_MQTT_ANONYMOUS: "off",
    });
    const wsOptions = { headers: { "X-Forwarded-For": "203.0.113.9" } };
    expect(await tryConnect(wsUrl, { username: "house", password: "open sesame", wsOptions })).toBe(accepted);
  });
});

describe("mqtt.anonymous", () => {
  test("lan, the default: the local network may connect, and what a proxy nobody vouches for brings may not", async () => {
    const { mqttUrl, wsUrl } = await start();
    expect(await tryConnect(mqttUrl)).toBe(accepted);
    expect(await tryConnect(wsUrl)).toBe(accepted);
    for (const headers of [{ "X-Forwarded-For": "192.168.1.20" }, { Forwarded: "for=192.168.1.20" }])
      expect(await tryConnect(wsUrl, { wsOptions: { headers } })).toBe(notAuthorized);
  });

  test("open: everybody may", async () => {
    const { wsUrl } = await start({ LAMBDAIOT_MQTT_ANONYMOUS: "open" });
    const wsOptions = { headers: { "X-Forwarded-For": "203.0.113.9" } };
    expect(await tryConnect(wsUrl, { wsOptions })).toBe(accepted);
  });

  test("off: nobody may", async () => {
    const { mqttUrl, wsUrl } = await start({ LAMBDAIOT_MQTT_ANONYMOUS: "off" });
    expect(await tryConnect(mqttUrl)).toBe(notAuthorized);
    expect(await tryConnect(wsUrl)).toBe(notAuthorized);
  });
});

describe("a device that listens on the main topic", () => {
  test.each(["TCP", "WebSocket"])("over %s gets triggers, writes and pings as documented", async (transport) => {
    const { url, mqttUrl, wsUrl } = await start();
    const api = await logIn(url);
    const client = await connectMqtt(transport === "TCP" ? mqttUrl : wsUrl);
    const inbox = await openInbox(client, "lambdaiot");
    const announcement = { mac_address: "aabbccddeeff", sensors: [{ name: "Temperature" }], actors: [{ name: "LED" }] };
    await client.publishAsync("lambdaiot/discovery", JSON.stringify(announcement), { qos: 1 });
    const sensor_id = "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947";
    const actor_id = "6cc20cc6-7740-5548-8444-6a33cf4271fd";
    const requested_at = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z$/);

    expect((await api("POST", `/sensors/${sensor_id}/trigger`)).status).toBe(202);
    const trigger = await inbox.next(({ type }) => type === "sensor_trigger");
    expect(trigger).toEqual({ type: "sensor_trigger", sensor_id, action: "read", requested_at });

    expect((await api("POST", `/actors/${actor_id}/write`, { action: "set", value: { on: true } })).status).toBe(202);
    const command = await inbox.next(({ type }) => type === "actor_command");
    expect(command).toEqual({ type: "actor_command", actor_id, action: "set", value: { on: true }, requested_at });

    const { timestamp } = (await api("GET", "/mqttping")).body;
    expect(await inbox.next(({ type }) => type === "ping")).toEqual({ type: "ping", timestamp });
    expect(inbox.messages.map(({ topic }) => topic)).toEqual(["lambdaiot", "lambdaiot", "lambdaiot"]);
  });

  test("and slept with a session of its own finds the command that came meanwhile", async () => {
    const { url, mqttUrl } = await start();
    const api = await logIn(url);
    const session: IClientOptions = { clientId: "sleeper", clean: false };
    const device = await connectMqtt(mqttUrl, session);
    const announcement = { mac_address: "aabbccddeeff", actors: [{ name: "LED" }] };
    await device.publishAsync("lambdaiot/discovery", JSON.stringify(announcement), { qos: 1 });
    await device.subscribeAsync("lambdaiot", { qos: 1 });
    await device.endAsync();

    const path = "/actors/6cc20cc6-7740-5548-8444-6a33cf4271fd/write";
    expect((await api("POST", path, { action: "on" })).status).toBe(202);
    const again = await connectMqtt(mqttUrl, session);
    const inbox = await openInbox(again, "lambdaiot");
    expect(await inbox.next(() => true)).toMatchObject({ type: "actor_command", action: "on" });
  });

  test("hears of another topic where another is configured, and announces itself beneath it", async () => {
    const { url, mqttUrl } = await start({ LAMBDAIOT_MQTT_TOPIC: "home/ground floor" });
    const api = await logIn(url);
    const client = await connectMqtt(mqttUrl);
    const inbox = await openInbox(client, "home/ground floor");
    const announcement = JSON.stringify({ mac_address: "aabbccddeeff", sensors: [{ name: "Temperature" }] });
    await client.publishAsync("lambdaiot/discovery", announcement, { qos: 1 });
    expect((await api("GET", "/devices")).body).toEqual([]);
    await client.publishAsync("home/ground floor/discovery", announcement, { qos: 1 });
    const sensor_id = "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947";
    const answer = await api("POST", `/sensors/${sensor_id}/trigger`);
    expect(answer.body).toEqual({ status: "published", topic: "home/ground floor" });
    expect(await inbox.next(({ type }) => type === "sensor_trigger")).toMatchObject({ sensor_id });
    const reading = { type: "sensor_reading", sensor_id, value: 1 };
    await client.publishAsync("home/ground floor", JSON.stringify(reading), { qos: 1 });
    expect((await api("GET", `/sensor-readings?sensor_id=${sensor_id}`)).body).toHaveLength(1);
  });
});

describe("a page in a browser", () => {
  test("of this gateway's own may connect as its machine may; one from elsewhere needs credentials", async () => {
    const { wsUrl, url } = await start();
    const from = (origin: string, more: IClientOptions = {}): Promise<number> =>
      tryConnect(wsUrl, { wsOptions: { headers: { Origin: origin } }, ...more });
    const admin = await logIn(url);
    const { body } = await admin("POST", "/v1/api-keys", { name: "dashboard" });
    expect(await from(url)).toBe(accepted);
    expect(await from("https://elsewhere.example")).toBe(notAuthorized);
    expect(await from("null")).toBe(notAuthorized);
    expect(await from("https://elsewhere.example", { username: "page", password: body.key })).toBe(accepted);
  });
});
