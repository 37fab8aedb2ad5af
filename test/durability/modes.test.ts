import { readFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { logIn, until } from "../support/client.ts";
import { bundle, makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { readReadings } from "../support/stored.ts";

// `database.durability`: what a write waits for, and what the gateway says of it.

const canTrace = spawnSync("strace", ["-o", "/dev/null", "true"]).status === 0;
const skipped = canTrace ? "" : " (skipped: no strace, or no right to trace)";

let own: ReturnType<typeof makeFolder>;
let gateway: BuiltGateway | undefined;
beforeEach(() => {
  own = makeFolder();
});
afterEach(async () => {
  await gateway?.stop("SIGKILL");
  own.remove();
});

/** Readings one after the other, each when the one before is acknowledged. */
async function storeReadings({ url }: BuiltGateway, count: number): Promise<void> {
  const api = await logIn(url);
  const device = await api("POST", "/devices", { name: "d", description: "", location: "", status_id: 1 });
  const input = { device_id: device.body.id as string, name: "s", type: "t", data_type_id: 2 };
  const { body: sensor } = await api("POST", "/sensors", input);
  for (let value = 1; value <= count; value++) {
    const { status } = await api("POST", "/sensor-readings", { sensor_id: sensor.id as string, value });
    expect(status).toBe(201);
  }
}

const healthOf = async ({ url }: BuiltGateway): Promise<unknown> => {
  const api = await logIn(url);
  return ((await api("GET", "/v1/health/database")).body as { details: { synced: boolean } }).details.synced;
};

describe.each([
  ["full", true, undefined],
  ["normal", false, "a power cut may take the last second of what was acknowledged"],
  ["relaxed", false, "a power cut may take the last minute, or more, of what was acknowledged"],
] as const)("database.durability = %s", (durability, isSynced, warning) => {
  const start = (command?: string[]): Promise<BuiltGateway> =>
    startBuiltGateway({
      folder: own.folder,
      env: { LAMBDAIOT_DATABASE_DURABILITY: durability },
      ...(command && { command }),
    });

  test("says what it gives up, and keeps what it has acknowledged over kill -9", async () => {
    gateway = await start();
    const warnings = /database\.durability is (.*)$/m.exec(gateway.log());
    expect(warnings?.[1]).toBe(warning && `${durability}: ${warning}`);
    await storeReadings(gateway, 20);
    expect(await healthOf(gateway)).toBe(isSynced);
    await gateway.stop("SIGKILL");
    expect(readReadings(gateway.storePath).map(({ value }) => value)).toEqual(
      Array.from({ length: 20 }, (_, i) => i + 1),
    );
  });

  test.skipIf(!canTrace)(`waits for the disk as often as it says${skipped}`, async () => {
    const trace = join(own.folder, "trace.txt");
    gateway = await start([
      "strace",
      "-D",
      "-f",
      "-y",
      "-e",
      "signal=none",
      "-e",
      "trace=fdatasync",
      "-o",
      trace,
      process.execPath,
      bundle,
    ]);
    await storeReadings(gateway, 200);
    const syncs = (): number => [...readFileSync(trace, "utf8").matchAll(/fdatasync\(\d+<[^>]*-wal>/g)].length;
    const count = syncs();
    expect(count >= 200).toBe(isSynced);
    expect(count).not.toBeGreaterThan(isSynced ? 400 : 50);
    // What is left over is on the disk a second later, or never by itself.
    if (durability === "normal") await until(() => syncs() > 0);
    expect(await gateway.stop()).toBe(0);
  });
});
