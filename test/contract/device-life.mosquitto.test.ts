import { execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { logIn, until, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// The device's life once more, with the programs that people try things out with.

const isInstalled = spawnSync("mosquitto_pub", ["--help"]).error === undefined;

describe.skipIf(!isInstalled)("with mosquitto_pub and mosquitto_sub (needs the package mosquitto-clients)", () => {
  let gateway: LocalGateway;
  let api: Api;
  let port: string;
  const sensor_id = "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947";
  const actor_id = "6cc20cc6-7740-5548-8444-6a33cf4271fd";

  beforeAll(async () => {
    gateway = await startLocalGateway({ env: { LAMBDAIOT_MQTT_DEVICE_CHECK_INTERVAL: "1" } });
    api = await logIn(gateway.url);
    port = new URL(gateway.mqttUrl).port;
    await pub("lambdaiot/discovery", {
      mac_address: "AA:BB:CC:DD:EE:FF",
      device: { name: "Room Sensor", description: "Living room", location: "Floor 1" },
      sensors: [{ name: "Temperature", type: "temperature", data_type_id: 2 }],
      actors: [{ name: "LED", type: "led", data_type_id: 1 }],
    });
  });
  afterAll(() => gateway.close());

  const run = promisify(execFile);
  const connection = () => ["-h", "127.0.0.1", "-p", port, "-V", "mqttv311"];
  const pub = (topic: string, body: object, ...args: string[]) =>
    run("mosquitto_pub", [...connection(), "-q", "1", "-t", topic, "-m", JSON.stringify(body), ...args]);

  /** Resolves, once subscribed, with what resolves with the first message on the main topic that has `type`. */
  async function subscribe(type: string): Promise<{ message: Promise<unknown> }> {
    const child = spawn("mosquitto_sub", [...connection(), "-d", "-q", "1", "-t", "lambdaiot"]);
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    await until(() => output.includes("Subscribed (mid"));
    const find = (): object | undefined =>
      output
        .split("\n")
        .filter((line) => line.startsWith("{") && line.endsWith("}"))
        .map((line) => JSON.parse(line))
        .find((message) => message.type === type);
    const receive = async (): Promise<unknown> => {
      try {
        return await until(find);
      } finally {
        child.kill();
      }
    };
    return { message: receive() };
  }

  const requested_at = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z$/);

  test("an announcement makes the device, its sensor and its actor", async () => {
    const [device] = (await api("GET", "/devices")).body;
    expect(device).toMatchObject({ id: "3814fb88-565c-5dc8-9b91-60d4002b6edc", name: "Room Sensor", status_id: 1 });
    expect((await api("GET", "/sensors")).body).toMatchObject([{ id: sensor_id, device_id: device.id }]);
    expect((await api("GET", "/actors")).body).toMatchObject([{ id: actor_id, device_id: device.id }]);
  });

  test.each(["0", "1", "2"])("a reading with QoS %s can be read back", async (qos) => {
    const value = 20 + Number(qos);
    const args = ["-q", qos, "-t", "lambdaiot", "-m", JSON.stringify({ type: "sensor_reading", sensor_id, value })];
    await run("mosquitto_pub", [...connection(), ...args]);
    const stored = await until(async () => {
      const { body } = await api("GET", `/sensor-readings?sensor_id=${sensor_id}`);
      return body.length > Number(qos) && body;
    });
    expect(stored.map((reading: { value: number }) => reading.value)).toEqual(
      [20, 21, 22].slice(0, value - 19).toReversed(),
    );
  });

  test("many readings through one connection all arrive, in their order", async () => {
    const before = (await api("GET", `/sensor-readings?sensor_id=${sensor_id}`)).body.length;
    const child = spawn("mosquitto_pub", [...connection(), "-q", "1", "-t", "lambdaiot", "-l"]);
    for (let value = 0; value < 50; value++)
      child.stdin.write(`${JSON.stringify({ type: "sensor_value", sensor_id, value })}\n`);
    child.stdin.end();
    expect((await once(child, "exit"))[0]).toBe(0);
    const { body } = await api("GET", `/sensor-readings?sensor_id=${sensor_id}`);
    expect(body).toHaveLength(before + 50);
    expect(body.slice(0, 50).map(({ value }: { value: number }) => value)).toEqual(
      Array.from({ length: 50 }, (_, i) => 49 - i),
    );
  });

  test("a trigger, a write, a ping and a device check arrive as documented", async () => {
    const [trigger, command, ping, check] = await Promise.all(
      ["sensor_trigger", "actor_command", "ping", "device_check_request"].map(subscribe),
    );
    await api("POST", `/sensors/${sensor_id}/trigger`);
    await api("POST", `/actors/${actor_id}/write`, { action: "set", value: "on" });
    const { timestamp } = (await api("GET", "/mqttping")).body;
    expect(await trigger?.message).toEqual({ type: "sensor_trigger", sensor_id, action: "read", requested_at });
    expect(await command?.message).toEqual({
      type: "actor_command",
      actor_id,
      action: "set",
      value: "on",
      requested_at,
    });
    expect(await ping?.message).toEqual({ type: "ping", timestamp });
    const device_id = "3814fb88-565c-5dc8-9b91-60d4002b6edc";
    expect(await check?.message).toEqual({ type: "device_check_request", device_id, requested_at });
  });

  test("a client without the credentials that the gateway asks for is told so", async () => {
    const strict = await startLocalGateway({
      env: { LAMBDAIOT_MQTT_USERNAME: "house", LAMBDAIOT_MQTT_PASSWORD: "open sesame" },
    });
    const args = ["-h", "127.0.0.1", "-p", new URL(strict.mqttUrl).port, "-V", "mqttv311", "-t", "x", "-m", "y"];
    try {
      await expect(run("mosquitto_pub", args)).rejects.toMatchObject({
        code: expect.any(Number),
        stderr: expect.stringMatching(/bad user name or password/i),
      });
      await run("mosquitto_pub", [...args, "-u", "house", "-P", "open sesame"]);
    } finally {
      await strict.close();
    }
  });
});
