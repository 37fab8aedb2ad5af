import { afterEach, expect, test } from "vitest";
import { logIn, until } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { openReceiver, silence, status, verify, type Receiver } from "./receiver.ts";

// The built gateway is killed between what it has committed and what it has told of it.

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

const env = {
  LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000",
  LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000",
};

async function start(folder: string): Promise<BuiltGateway> {
  const gateway = await startBuiltGateway({ folder, env });
  closing.push(() => gateway.stop("SIGKILL"));
  return gateway;
}

const numbers = (n: number) => Array.from({ length: n }, (_, i) => i);
const byType = ({ received }: Receiver, type: string) => received.filter(({ body }) => body.type === type);

test("kill -9 between commit and delivery loses no event, and a repeat keeps its webhook-id", async () => {
  const { folder, remove } = makeFolder();
  closing.push(remove);
  const receiver = await openReceiver(silence);
  closing.push(() => receiver.close());
  let gateway = await start(folder);
  let api = await logIn(gateway.url);
  const { body: webhook } = await api("POST", "/v1/webhooks", {
    url: receiver.url,
    events: ["device.online", "data.received", "alert.triggered"],
  });
  const devices = numbers(10).map((n) => `SC-CRASH-${n}`);
  for (const id of devices) {
    await api("POST", "/v1/devices", { id, name: id, type: "temperature" });
    await api("POST", "/v1/alerts/rules", { deviceId: id, condition: "gt", threshold: -1, severity: "info" });
  }
  // Twice over: the receiver has got a request and says nothing, the gateway is killed.
  for (const round of numbers(2)) {
    const acknowledged = await Promise.all(
      devices.map((id, n) =>
        api("POST", `/v1/data/${id}`, { timestamp: new Date().toISOString(), value: round * devices.length + n }),
      ),
    );
    expect(acknowledged.map(({ status: code }) => code)).toEqual(devices.map(() => 201));
    await receiver.count(round + 1);
    await gateway.stop("SIGKILL");
    gateway = await start(folder);
    api = await logIn(gateway.url);
  }
  await receiver.count(3);
  const cutOff = receiver.received.slice(0, 2).map(({ headers }) => headers["webhook-id"]);
  receiver.answer = status(204);
  await gateway.stop("SIGKILL"); // the third request too
  gateway = await start(folder);
  api = await logIn(gateway.url);

  const told = () =>
    byType(receiver, "data.received").flatMap(({ body }) =>
      body.data.readings.map(({ value }: { value: number }) => value),
    );
  await until(() => new Set(told()).size === 2 * devices.length);
  await until(() => new Set(byType(receiver, "alert.triggered").map(({ body }) => body.data.deviceId)).size === 10);
  await until(() => new Set(byType(receiver, "device.online").map(({ body }) => body.data.deviceId)).size === 10);
  const all = await until(async () => {
    const { body } = await api("GET", `/v1/webhooks/${webhook.id}/deliveries?limit=100`);
    return body.deliveries.every(({ status: state }: { status: string }) => state === "delivered") && body.deliveries;
  });

  // An id is one event for ever: whatever was sent under it is the same, and each event has one.
  const texts = new Map<string, string>();
  for (const request of receiver.received) {
    const id = request.headers["webhook-id"] ?? "";
    expect(texts.get(id) ?? request.text).toBe(request.text);
    texts.set(id, request.text);
    expect(verify(request, webhook.secret)).toEqual(request.body);
  }
  const count = (id: string | undefined) =>
    receiver.received.filter(({ headers }) => headers["webhook-id"] === id).length;
  for (const id of cutOff) expect(count(id)).toBeGreaterThan(1);
  expect(texts.size).toBe(all.length);
  const once = [...texts.values()].map((text) => JSON.parse(text));
  const devicesOf = (type: string) =>
    once.flatMap((body) => (body.type === type ? [body.data.deviceId as string] : [])).toSorted();
  expect(devicesOf("device.online")).toEqual(devices);
  expect(devicesOf("alert.triggered")).toEqual(devices);
  const values = once.flatMap(({ type, data }) =>
    type === "data.received" ? data.readings.map(({ value }: { value: number }) => value) : [],
  );
  expect(values.toSorted((a, b) => a - b)).toEqual(numbers(2 * devices.length));
});
