import { expect } from "vitest";
import { connectMqtt, logIn } from "../support/client.ts";
import { startBuiltGateway } from "../support/gateway.ts";

/** Derived from the address below, so that every build must agree on it. */
const sensorId = "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947";
const announcement = { mac_address: "AA:BB:CC:DD:EE:FF", device: { name: "Attic" }, sensors: [{ name: "Warmth" }] };
const reading = { type: "sensor_reading", sensor_id: sensorId, value: 23.7, value_at: "2026-01-14T10:00:00Z" };

export interface Life {
  command: readonly string[];
  folder: string;
  env?: Record<string, string>;
}

/**
 * Starts what was built, as a person would who has just copied it into `folder`, has a device announce itself and send
 * a reading, reads that back over REST, and stops it.
 */
export async function liveThrough({ command, folder, env = {} }: Life): Promise<{ log: string }> {
  const gateway = await startBuiltGateway({
    command,
    folder,
    env: { LAMBDAIOT_DATABASE_PATH: "data/lambdaiot.db", ...env },
  });
  try {
    const device = await connectMqtt(gateway.mqttUrl, { connectTimeout: 60_000 });
    await device.publishAsync("lambdaiot/discovery", JSON.stringify(announcement), { qos: 1 });
    await device.publishAsync("lambdaiot", JSON.stringify(reading), { qos: 1 });
    await device.endAsync();

    const api = await logIn(gateway.url);
    const { status, body } = await api("GET", `/sensor-readings?sensor_id=${sensorId}`);
    expect(status).toBe(200);
    expect(body).toEqual([expect.objectContaining({ sensor_id: sensorId, value: 23.7, value_at: reading.value_at })]);

    expect(await gateway.stop()).toBe(0);
    return { log: gateway.log() };
  } finally {
    await gateway.stop("SIGKILL");
  }
}
