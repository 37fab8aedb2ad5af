import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { logIn, until, type Api } from "../support/client.ts";
import type { LocalGateway } from "../support/gateway.ts";
import { connectFrame, disconnectFrame, openWire, publishFrame, subscribeFrame } from "./gate-wire.ts";
import { cleanUp, connect, counter, listen, start } from "./kit.ts";

// What becomes of connections and sessions when what they logged in with is worth nothing any more.

let gateway: LocalGateway;
let api: Api;
beforeEach(async () => {
  gateway = await start();
  api = await logIn(gateway.url);
});
afterEach(cleanUp);

async function addDevice(id: string): Promise<{ username: string; password: string; clientId: string }> {
  await api("POST", "/v1/devices", { id, name: id, type: "temperature" });
  const { token } = (await api("POST", `/v1/devices/${id}/token`)).body;
  return { username: id, password: token as string, clientId: `client-${id}` };
}

async function addActor(of: string): Promise<string> {
  const devices = (await api("GET", "/devices")).body as { id: string; name: string }[];
  const device_id = devices.find(({ name }) => name === of)?.id;
  return (await api("POST", "/actors", { device_id, name: "a", type: "relay", data_type_id: 1 })).body.id as string;
}

/** CONNACK's session flag and return code, of a connection that stays open. */
async function dial(parts: Parameters<typeof connectFrame>[0]) {
  const wire = await openWire(gateway.mqttUrl);
  wire.send(connectFrame(parts));
  const connack = await wire.next(0x20);
  return { wire, isSessionPresent: connack[2] === 1, code: connack[3] };
}

describe("a device's connection ends", () => {
  test("when its token is replaced; its session is there for who comes with the new one", async () => {
    const login = await addDevice("one");
    const other = await connect(gateway, await addDevice("two"));
    const actor = await addActor("one");
    const { client } = await listen(gateway, login);
    await client.subscribeAsync("lambdaiot", { qos: 1 });
    const password = (await api("POST", "/v1/devices/one/token")).body.token as string;
    await until(() => !client.connected);
    await api("POST", `/actors/${actor}/write`, { action: "set", value: 1 });
    const again = await listen(gateway, { ...login, password });
    await until(() => again.heard.length === 1);
    expect([other.connected, counter(gateway, "mqtt.connections_revoked")]).toEqual([true, 1]);
  });

  test.each([
    ["its token is taken away", "DELETE", "/v1/devices/one/token"],
    ["it is removed", "DELETE", "/v1/devices/one"],
  ])("when %s; whoever has its client id next begins anew, with nothing of what waited", async (_, method, path) => {
    const login = await addDevice("one");
    const other = await connect(gateway, await addDevice("two"));
    const actor = await addActor("one");
    const first = await listen(gateway, login);
    await first.client.subscribeAsync("lambdaiot", { qos: 1 });
    await first.client.endAsync();
    await api("POST", `/actors/${actor}/write`, { action: "set", value: "secret" });
    const second = await connect(gateway, { ...login, clientId: "another" });
    expect((await api(method, path)).status).toBe(200);
    await until(() => !second.connected);
    expect(other.connected).toBe(true);

    const { wire, isSessionPresent, code } = await dial({ clientId: login.clientId, isClean: false });
    expect({ isSessionPresent, code }).toEqual({ isSessionPresent: false, code: 0 });
    wire.send(subscribeFrame(1, "lambdaiot"));
    await wire.next(0x90);
    wire.send(publishFrame("lambdaiot", '{"type":"last"}', 1, 7));
    await wire.next(0x32, (packet) => packet.includes("last"));
    expect(wire.received.filter((packet) => packet.includes("secret"))).toEqual([]);
    wire.send(disconnectFrame);
    await wire.closed;
    expect((await dial({ clientId: login.clientId, isClean: false })).isSessionPresent).toBe(true);
  });
});

describe("a user's connections end", () => {
  test("when the password changes, those with an API key aside", async () => {
    await logIn(gateway.url, "other");
    const { key } = (await api("POST", "/v1/api-keys", { name: "k" })).body;
    const password = "secret123";
    const withPassword = await connect(gateway, { username: "admin", password });
    const withToken = await connect(gateway, { username: "admin", password: api.token as string });
    const withKey = await connect(gateway, { username: "admin", password: key as string });
    const ofOther = await connect(gateway, { username: "other", password });
    const newPassword = "secret456";
    expect((await api("PUT", "/v1/auth/password", { currentPassword: password, newPassword })).status).toBe(200);
    await until(() => !withPassword.connected && !withToken.connected);
    await connect(gateway, { username: "admin", password: newPassword });
    expect([withKey.connected, ofOther.connected]).toEqual([true, true]);
  });

  test("with an API key that is deleted, and no others", async () => {
    const keys = [];
    for (const name of ["one", "two"]) keys.push((await api("POST", "/v1/api-keys", { name })).body);
    const [first, second] = await Promise.all(
      keys.map(({ key }) => connect(gateway, { username: "x", password: key })),
    );
    const withPassword = await connect(gateway, { username: "admin", password: "secret123" });
    expect((await api("DELETE", `/v1/api-keys/${keys[0].id}`)).status).toBe(200);
    await until(() => first?.connected === false);
    expect([second?.connected, withPassword.connected]).toEqual([true, true]);
  });
});

test("the will of a connection that is ended so is published", async () => {
  const login = await addDevice("one");
  const { client, heard } = await listen(gateway, { clientId: "watcher" });
  await client.subscribeAsync("#", { qos: 1 });
  const will = { topic: "lambdaiot", payload: Buffer.from('{"type":"gone"}'), qos: 1 as const, retain: false };
  await connect(gateway, { ...login, will });
  await api("DELETE", "/v1/devices/one/token");
  await until(() => heard.includes('lambdaiot {"type":"gone"}'));
  expect(heard).toHaveLength(1);
});
