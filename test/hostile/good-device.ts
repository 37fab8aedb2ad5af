import { readFileSync } from "node:fs";
import Sqlite from "better-sqlite3";
import { connectMqtt, type Api } from "../support/client.ts";
import { bundle, type BuiltGateway } from "../support/gateway.ts";
import { readReadings } from "../support/stored.ts";

/**
 * The built file with a small heap, as on a small machine: what is not given back shows at once, where a large one would
 * let it lie for as long as there is room.
 */
export const smallGateway = [process.execPath, "--max-old-space-size=64", "--max-semi-space-size=2", bundle];

export interface GoodDevice {
  sensorId: string;
  /** Ends; the values that were acknowledged. */
  finish(): Promise<number[]>;
}

/** A device that does everything right while others do not: QoS 1 readings, one after the other, each with a value of its own. */
export async function startGoodDevice(gateway: BuiltGateway, api: Api): Promise<GoodDevice> {
  const device = await api("POST", "/devices", { name: "good", description: "", location: "", status_id: 1 });
  const input = { device_id: device.body.id as string, name: "good", type: "t", data_type_id: 2 };
  const sensorId = (await api("POST", "/sensors", input)).body.id as string;
  const client = await connectMqtt(gateway.mqttUrl, { clientId: "good-device" });
  const acknowledged: number[] = [];
  const stopping = new AbortController();
  const running = (async () => {
    for (let value = 0.5; !stopping.signal.aborted; value++) {
      const payload = JSON.stringify({ type: "sensor_reading", sensor_id: sensorId, value });
      await client.publishAsync("lambdaiot", payload, { qos: 1 });
      acknowledged.push(value);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  })();
  return {
    sensorId,
    async finish() {
      stopping.abort();
      await running;
      await client.endAsync();
      return acknowledged;
    },
  };
}

/** Everything in the store that bad input could have left there: the ids of what was made, and all values. */
export function readStore(path: string) {
  const sqlite = new Sqlite(path, { readonly: true });
  try {
    const column = (sql: string): unknown[] => sqlite.prepare(sql).pluck().all();
    return {
      integrity: sqlite.pragma("integrity_check", { simple: true }),
      users: column("SELECT username FROM users ORDER BY username"),
      devices: column("SELECT id FROM devices ORDER BY pk"),
      sensors: column("SELECT id FROM sensors ORDER BY pk"),
      actors: column("SELECT id FROM actors ORDER BY pk"),
      values: readReadings(path).map(({ value }) => value),
    };
  } finally {
    sqlite.close();
  }
}

/** The process's memory in MB, from Linux; `undefined` elsewhere. */
export function readMemory({ process: { pid } }: BuiltGateway): number | undefined {
  try {
    const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return Number(kilobytes) / 1_024;
  } catch {
    return undefined;
  }
}
