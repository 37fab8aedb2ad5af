import { afterAll, beforeAll, expect, test } from "vitest";
import { connectMqtt, until } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

let gateway: LocalGateway;
beforeAll(async () => {
  gateway = await startLocalGateway();
});
afterAll(() => gateway.close());

test("a client's messages are acknowledged in the order in which they came, whatever each of them is", async () => {
  const client = await connectMqtt(gateway.mqttUrl);
  // The device of the contract, and its first sensor.
  const mac_address = "aabbccddeeff";
  const sensor_id = "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947";
  await client.publishAsync("lambdaiot/discovery", JSON.stringify({ mac_address, sensors: [{}] }), { qos: 1 });

  const reading = { type: "sensor_reading", sensor_id, value: 1 };
  const bodies = [
    reading,
    { ...reading, value_at: "2026-01-14T10:00:00Z" },
    { type: "hello" },
    { ...reading, sensor_id: mac_address },
    { type: "device_check_response", device_id: "3814fb88-565c-5dc8-9b91-60d4002b6edc", status: "ok" },
    { type: "device_check_response", device_id: sensor_id, status: "ok" },
  ];
  const sent: number[] = [];
  const acknowledged: number[] = [];
  client.on("packetsend", (packet) => {
    if (packet.cmd === "publish") sent.push(packet.messageId ?? 0);
  });
  client.on("packetreceive", (packet) => {
    if (packet.cmd === "puback") acknowledged.push(packet.messageId ?? 0);
  });
  for (let i = 0; i < 40; i++) {
    const body = JSON.stringify(bodies[i % bodies.length]);
    client.publish("lambdaiot", body, { qos: 1 });
    if (i % 7 === 0) client.publish("lambdaiot/discovery", JSON.stringify({ mac_address, sensors: [{}] }), { qos: 1 });
    if (i % 5 === 0) client.publish("elsewhere", body, { qos: 1 });
  }
  await until(() => acknowledged.length === 54);
  expect(acknowledged).toEqual(sent);
  await client.endAsync();
});
