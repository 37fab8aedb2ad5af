import { spawnSync } from "node:child_process";
import { afterAll, expect, test } from "vitest";
import { readStore, startGoodDevice } from "../hostile/good-device.ts";
import { connectFrame, openWire, pingFrame } from "../mqtt/gate-wire.ts";
import { logIn, until } from "../support/client.ts";
import { bundle, makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";

// More clients than the process may have files open. (The gateway's own limits, which are there to keep it from this, are
// lifted.)

const openFiles = 256;
const clients = 400;

const { folder, remove } = makeFolder();
let gateway: BuiltGateway | undefined;
afterAll(async () => {
  await gateway?.stop("SIGKILL");
  remove();
});

const canLimit = spawnSync("sh", ["-c", `ulimit -n ${openFiles}`]).status === 0;

test.skipIf(!canLimit)(
  "with no file descriptor left it turns newcomers away, serves who is here, and recovers",
  async () => {
    gateway = await startBuiltGateway({
      folder,
      command: ["sh", "-c", `ulimit -n ${openFiles} && exec "$0" "$1"`, process.execPath, bundle],
      env: { LAMBDAIOT_MQTT_MAX_CONNECTIONS_PER_ADDRESS: "10000", LAMBDAIOT_MQTT_MAX_CONNECTIONS: "10000" },
    });
    const { mqttUrl, url } = gateway;
    const api = await logIn(url);
    const good = await startGoodDevice(gateway, api);

    const wires = await Promise.all(Array.from({ length: clients }, () => openWire(mqttUrl)));
    wires.forEach((wire, i) => wire.send(connectFrame({ clientId: `c${i}` })));
    const isIn = (wire: (typeof wires)[0]): boolean => wire.received[0]?.[0] === 0x20;
    await until(() => wires.every((wire) => isIn(wire) || wire.isClosed()));
    const accepted = wires.filter((wire) => isIn(wire) && !wire.isClosed());
    expect(accepted.length).toBeGreaterThan(openFiles / 2);
    expect(accepted.length).toBeLessThan(openFiles);

    // Those who came in are served, and so is a request over a connection that is there.
    for (const wire of accepted) wire.send(pingFrame);
    await until(() => accepted.every((wire) => wire.received.some((packet) => packet[0] === 0xd0)));
    expect(gateway.process.exitCode).toBe(null);

    await Promise.all(wires.map((wire) => wire.end()));
    const again = await until(async () => {
      const wire = await openWire(mqttUrl);
      wire.send(connectFrame({ clientId: "again" }));
      await wire.next(0x20).catch(() => undefined);
      return !wire.isClosed() && wire;
    });
    await again.end();
    expect(await api("GET", "/health")).toMatchObject({ status: 200 });
    const acknowledged = await good.finish();
    expect(readStore(gateway.storePath).values).toEqual(acknowledged);
    expect(await gateway.stop()).toBe(0);
    // Nobody fills the log with it.
    expect(gateway.log().split("\n").length).toBeLessThan(50);
  },
);
