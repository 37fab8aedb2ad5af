import type { IClientOptions } from "mqtt";
import { afterEach, expect, test } from "vitest";
import { logIn, until } from "../support/client.ts";
import type { LocalGateway } from "../support/gateway.ts";
import { countRows } from "../support/store.ts";
import { cleanUp, connect, counter, listen, newFolder, openPersistence, start } from "./kit.ts";

afterEach(cleanUp);

test("a denied subscription is not stored, and delivers nothing later", async () => {
  const gateway = await start();
  await logIn(gateway.url);
  const first = await listen(gateway);
  const granted = await new Promise((resolve) => {
    first.client.on("packetreceive", (packet) => packet.cmd === "suback" && resolve(packet.granted));
    first.client.subscribe(["$SYS/secret", "ok"], { qos: 1 }, () => undefined);
  });
  expect(granted).toEqual([128, 1]);
  await first.client.endAsync();
  const publisher = await connect(gateway);
  await publisher.publishAsync("$SYS/secret", "x", { qos: 1 });
  await publisher.publishAsync("ok", "1", { qos: 1 });
  const again = await listen(gateway);
  await publisher.publishAsync("ok", "2", { qos: 1 });
  await until(() => again.heard.includes("ok 2"));
  expect(again.heard.toSorted()).toEqual(["ok 1", "ok 2"]);
});

test("of one SUBSCRIBE no more is granted or stored than a client may have, and what it has it may ask for again", async () => {
  const folder = newFolder();
  const env = { LAMBDAIOT_MQTT_MAX_SUBSCRIPTIONS: "3" };
  const gateway = await start({ folder, env });
  const { client } = await listen(gateway);
  const ask = (filters: string[]) =>
    new Promise<unknown>((resolve) => {
      client.once("packetreceive", (packet) => packet.cmd === "suback" && resolve(packet.granted));
      client.subscribe(filters, { qos: 1 }, () => undefined);
    });
  expect(await ask(["a", "b", "c", "d", "e"])).toEqual([1, 1, 1, 128, 128]);
  expect(await ask(["a", "c", "f"])).toEqual([1, 1, 128]);
  await client.unsubscribeAsync("a");
  expect(await ask(["f"])).toEqual([1]);
  expect(counter(gateway, "mqtt.subscriptions_over_limit")).toBe(3);
  await client.endAsync();
  const publisher = await connect(gateway);
  for (const topic of ["a", "b", "c", "d", "e", "f"]) await publisher.publishAsync(topic, "1", { qos: 1 });
  const again = await listen(gateway);
  await until(() => again.heard.length === 3);
  expect(again.heard).toEqual(["b 1", "c 1", "f 1"]);
});

test("subscriptions that overlap are one delivery, and disconnect nobody", async () => {
  const gateway = await start();
  const { client, heard } = await listen(gateway);
  await client.subscribeAsync(["a/#", "a/+", "a/b"], { qos: 2 });
  const publisher = await connect(gateway);
  const sent = Array.from({ length: 60 }, (_, i) => i);
  await Promise.all(sent.map((i) => publisher.publishAsync("a/b", `${i}`, { qos: i % 2 === 0 ? 1 : 2 })));
  await until(() => heard.length >= sent.length);
  expect(heard.toSorted()).toEqual(sent.map((i) => `a/b ${i}`).toSorted());
  expect(client.connected).toBe(true);
});

test("what a client may not hear costs it nothing of what it may: a burst of which half is for another device", async () => {
  const gateway = await start();
  const api = await logIn(gateway.url);
  const actors: string[] = [];
  const logins: IClientOptions[] = [];
  for (const id of ["one", "two"]) {
    await api("POST", "/v1/devices", { id, name: id, type: "temperature" });
    const { token } = (await api("POST", `/v1/devices/${id}/token`)).body;
    logins.push({ username: id, password: token, clientId: id });
  }
  for (const { id } of (await api("GET", "/devices")).body as { id: string }[]) {
    const input = { device_id: id, name: "a", type: "relay", data_type_id: 1 };
    actors.push((await api("POST", "/actors", input)).body.id as string);
  }
  const { client, heard } = await listen(gateway, logins[0]);
  await client.subscribeAsync("lambdaiot", { qos: 1 });
  const user = await connect(gateway, { username: "admin", password: "secret123" });
  const burst = Array.from({ length: 100 }, (_, value) =>
    user.publishAsync("lambdaiot", JSON.stringify({ type: "actor_command", actor_id: actors[value % 2], value }), {
      qos: 1,
    }),
  );
  await Promise.all(burst);
  await until(() => heard.length >= 50);
  expect(heard.filter((text) => text.includes(actors[0] as string))).toHaveLength(50);
  expect(heard).toHaveLength(50);
  expect(client.connected).toBe(true);
});

test.each([true, false])(
  "of a mix of QoS 0, 1 and 2, retained and not, from ten publishers, all of QoS 1 and 2 arrives (clean: %s)",
  async (clean) => {
    const gateway = await start();
    const { client, heard } = await listen(gateway, { clean });
    await client.subscribeAsync("mix/#", { qos: 2 });
    // One more to keep QoS 1 for, so that commits and live deliveries cross.
    const sleeper = await listen(gateway, { clientId: "sleeper" });
    await sleeper.client.subscribeAsync("mix/#", { qos: 1 });
    const wanted: string[] = [];
    await Promise.all(
      Array.from({ length: 10 }, async (_, p) => {
        const publisher = await connect(gateway);
        const sent = Array.from({ length: 90 }, (__, i) => {
          const qos = (i % 3) as 0 | 1 | 2;
          if (qos > 0) wanted.push(`mix/${p} ${i}`);
          return publisher.publishAsync(`mix/${p}`, `${i}`, { qos, retain: i % 5 === 0 });
        });
        await Promise.all(sent);
      }),
    );
    const missing = () => wanted.filter((text) => !heard.includes(text));
    await until(() => missing().length === 0, 5_000).catch(() => undefined);
    expect(missing()).toEqual([]);
    expect(client.connected).toBe(true);
  },
);

test("a session's queue has its limit under a burst too; what is dropped is counted and acknowledged", async () => {
  const gateway = await start({ env: { LAMBDAIOT_MQTT_MAX_QUEUED_MESSAGES: "10" } });
  const { client } = await listen(gateway);
  await client.subscribeAsync("q", { qos: 2 });
  await client.endAsync();
  const publisher = await connect(gateway);
  await Promise.all(
    Array.from({ length: 200 }, (_, i) => publisher.publishAsync("q", `${i}`, { qos: i % 2 === 0 ? 1 : 2 })),
  );
  expect(counter(gateway, "mqtt.queue_dropped")).toBe(190);
  const again = await listen(gateway);
  await until(() => again.heard.length >= 10);
  await publisher.publishAsync("q", "last", { qos: 1 });
  await until(() => again.heard.includes("q last"));
  expect(again.heard).toHaveLength(11);
});

test("the bytes that wait for all sessions together have their limit, and memory does not grow with what is dropped", async () => {
  const gateway = await start({ env: { LAMBDAIOT_MQTT_MAX_QUEUED_BYTES: "65536" } });
  for (const clientId of ["s1", "s2"]) {
    const { client } = await listen(gateway, { clientId });
    await client.subscribeAsync("q", { qos: 1 });
    await client.endAsync();
  }
  const publisher = await connect(gateway);
  const payload = Buffer.alloc(10_000, "x");
  for (let i = 0; i < 50; i++) await publisher.publishAsync("q", payload, { qos: 1 });
  expect(counter(gateway, "mqtt.queue_dropped")).toBe(100 - 6);
});

test("retained messages have their limit; one that is there can be changed and taken away", async () => {
  const folder = newFolder();
  const env = { LAMBDAIOT_MQTT_MAX_RETAINED_MESSAGES: "2" };
  const gateway = await start({ folder, env });
  const publisher = await connect(gateway);
  for (const [topic, payload] of [
    ["r/a", "1"],
    ["r/b", "1"],
    ["r/c", "1"],
    ["r/a", "2"],
  ] as const)
    await publisher.publishAsync(topic, payload, { qos: 1, retain: true });
  await publisher.publishAsync("r/b", "", { qos: 1, retain: true });
  await publisher.publishAsync("r/d", "1", { qos: 1, retain: true });
  expect(counter(gateway, "mqtt.retained_refused")).toBeGreaterThan(0);
  const read = async (of: LocalGateway): Promise<string[]> => {
    const { client, heard } = await listen(of, { clientId: "reader", clean: true });
    await client.subscribeAsync("r/#", { qos: 1 });
    await until(() => heard.length >= 2);
    return heard.toSorted();
  };
  expect(await read(gateway)).toEqual(["r/a 2", "r/d 1"]);
  await gateway.close();
  expect(await read(await start({ folder, env }))).toEqual(["r/a 2", "r/d 1"]);
});

test("sessions to keep have their limit; clients without one still come", async () => {
  const gateway = await start({ env: { LAMBDAIOT_MQTT_MAX_SESSIONS: "1" } });
  await listen(gateway, { clientId: "s1" });
  await expect(listen(gateway, { clientId: "s2" })).rejects.toMatchObject({ code: 2 });
  await listen(gateway, { clientId: "s3", clean: true });
  await listen(gateway, { clientId: "s1" });
  expect(counter(gateway, "mqtt.sessions_refused")).toBe(1);
});

test("a clean session ends an earlier one with its queue, connected or not, also for who asks to keep one again", async () => {
  const gateway = await start();
  const publisher = await connect(gateway);
  for (const isConnected of [false, true]) {
    const { client } = await listen(gateway);
    await client.subscribeAsync("q", { qos: 1 });
    if (!isConnected) await client.endAsync();
    if (!isConnected) await publisher.publishAsync("q", "1", { qos: 1 });
    const clean = await listen(gateway, { clean: true });
    await clean.client.endAsync();
    await publisher.publishAsync("q", "2", { qos: 1 });
    const again = await listen(gateway);
    await again.client.subscribeAsync("done", { qos: 1 });
    await publisher.publishAsync("done", "3", { qos: 1 });
    await until(() => again.heard.length > 0);
    expect(again.heard).toEqual(["done 3"]);
    await (await listen(gateway, { clean: true })).client.endAsync();
  }
});

test("a retained QoS 2 message reaches a session to keep without disconnecting it", async () => {
  const gateway = await start();
  const publisher = await connect(gateway);
  await publisher.publishAsync("r", "1", { qos: 2, retain: true });
  const { client, heard } = await listen(gateway);
  await client.subscribeAsync("r", { qos: 2 });
  await until(() => heard.length === 1);
  await publisher.publishAsync("r", "2", { qos: 2 });
  await until(() => heard.length === 2);
  expect([heard, client.connected]).toEqual([["r 1", "r 2"], true]);
});

test("a session whose client stays away is over after its time, and not that of a client who is here", async () => {
  const { t, open } = openPersistence();
  const persistence = await open();
  for (const id of ["here", "away"]) {
    await persistence.keepSession(id, "anyone");
    await persistence.addSubscriptions({ id }, [{ topic: "a", qos: 1 } as never]);
  }
  t.clock.at += 8_000;
  persistence.expire((id) => id === "here");
  expect(persistence.ownerOf("away")).toBe("anyone");
  t.clock.at += 1;
  persistence.expire((id) => id === "here");
  await persistence.settled();
  expect([persistence.ownerOf("here"), persistence.ownerOf("away")]).toEqual(["anyone", undefined]);
  expect([countRows(t, "mqtt_sessions"), countRows(t, "mqtt_subscriptions")]).toEqual([1, 1]);
  // Having been here counts from the last look, over a crash too.
  t.clock.at += 100;
  const restarted = await open();
  restarted.expire(() => false);
  expect(restarted.ownerOf("here")).toBe("anyone");
});

test("a will outlives a crash until it is published, and is gone after a clean disconnect", async () => {
  const { open } = openPersistence();
  const persistence = await open();
  const will = (id: string) =>
    persistence.putWill({ id }, { topic: `gone/${id}`, payload: Buffer.from("x"), qos: 1, retain: true } as never);
  await will("one");
  await will("two");
  await persistence.delWill({ id: "two" });
  await persistence.settled();
  const restarted = await open();
  const wills = (await restarted.streamWill({ b2: Date.now() }).toArray()) as {
    clientId: string;
    topic: string;
    qos: number;
    retain: boolean;
  }[];
  expect(wills.map(({ clientId, topic, qos, retain }) => ({ clientId, topic, qos, retain }))).toEqual([
    { clientId: "one", topic: "gone/one", qos: 1, retain: true },
  ]);
  await restarted.delWill({ id: "one" });
  await restarted.settled();
  const last = await open();
  expect(await last.streamWill({}).toArray()).toEqual([]);
});

test("a new message does not get an identifier under which another one is still on its way", async () => {
  const { open } = openPersistence();
  const persistence = await open();
  const client = { id: "c" };
  await persistence.keepSession("c", "anyone");
  const packet = (brokerCounter: number) =>
    ({ cmd: "publish", brokerId: "b", brokerCounter, topic: "a", payload: Buffer.from("x"), qos: 2 }) as const;
  const numbered = async (brokerCounter: number, messageId: number): Promise<number> => {
    await persistence.outgoingEnqueue({ clientId: "c" }, packet(brokerCounter));
    const update = { ...packet(brokerCounter), messageId };
    await persistence.outgoingUpdate(client, update);
    return update.messageId;
  };
  expect([await numbered(1, 65_535), await numbered(2, 65_535), await numbered(3, 1), await numbered(4, 7)]).toEqual([
    65_535, 1, 2, 7,
  ]);
  const restarted = await open();
  expect(restarted.firstFreeMessageId("c")).toBe(8);
});

test("a command waits for a device that sleeps, over a restart", async () => {
  const folder = newFolder();
  const gateway = await start({ folder });
  const api = await logIn(gateway.url);
  await api("POST", "/v1/devices", { id: "d", name: "d", type: "temperature" });
  const device_id = ((await api("GET", "/devices")).body as { id: string }[])[0]?.id;
  const actor = (await api("POST", "/actors", { device_id, name: "a", type: "relay", data_type_id: 1 })).body
    .id as string;
  const { client } = await listen(gateway);
  await client.subscribeAsync("lambdaiot", { qos: 1 });
  await client.endAsync();
  expect((await api("POST", `/actors/${actor}/write`, { action: "set", value: 5 })).status).toBe(202);
  await gateway.close();
  const { heard } = await listen(await start({ folder }));
  await until(() => heard.length > 0);
  expect(JSON.parse((heard[0] as string).slice("lambdaiot ".length))).toMatchObject({ actor_id: actor, value: 5 });
});
