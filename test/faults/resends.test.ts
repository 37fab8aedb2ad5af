import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, expect, test } from "vitest";
import { connectFrame, idFrame, messageIdOf, openWire, publishFrame, type Wire } from "../mqtt/gate-wire.ts";
import { logIn, until } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { createRandom, seed } from "../support/random.ts";
import { readReadings } from "../support/stored.ts";

// Devices that keep their side of QoS 1 and 2 over kills of the gateway: what has no acknowledgement they send again, with
// the DUP flag and under the identifier that it had [MQTT-4.4.0-1]. Exactly one reading must come of it, with a time or not.

const kills = 8;
const devices = 6;
/** Few, so that they are used again and again. */
const identifiers = 9;
const random = createRandom(seed);

const { folder, remove } = makeFolder();
let gateway: BuiltGateway | undefined;
afterAll(async () => {
  await gateway?.stop("SIGKILL");
  remove();
});

interface State {
  value: number;
  payload: string;
  qos: 1 | 2;
  isReleased: boolean;
}

const withDup = (frame: Buffer): Buffer => {
  frame[0] = (frame[0] as number) | 0x08;
  return frame;
};

function startDevice(index: number, url: string, sensor_id: string) {
  const inFlight = new Map<number, State>();
  const acknowledged = new Set<number>();
  const stopping = new AbortController();
  let count = 0;
  let nextId = 0;
  let resent = 0;

  function take(wire: Wire, packet: Buffer): void {
    const id = messageIdOf(packet);
    const state = inFlight.get(id);
    if (state === undefined) return;
    if (packet[0] === 0x50) {
      acknowledged.add(state.value); // PUBREC: from now on it is the gateway's
      state.isReleased = true;
      wire.send(idFrame(0x62, id));
    } else if (packet[0] === 0x40 || packet[0] === 0x70) {
      acknowledged.add(state.value);
      inFlight.delete(id);
    }
  }

  function sendNew(wire: Wire): void {
    do nextId = (nextId % identifiers) + 1;
    while (inFlight.has(nextId));
    const value = index * 1_000_000 + count + 0.5;
    const time = count % 4 < 2 ? {} : { value_at: new Date(Date.UTC(2026, 0, 1) + count).toISOString() };
    const payload = JSON.stringify({ type: "sensor_reading", sensor_id, value, ...time });
    const state: State = { value, payload, qos: count % 2 === 0 ? 1 : 2, isReleased: false };
    count += 1;
    inFlight.set(nextId, state);
    wire.send(publishFrame("lambdaiot", payload, state.qos, nextId));
  }

  const done = (async () => {
    while (!stopping.signal.aborted || inFlight.size > 0) {
      const wire = await openWire(url);
      wire.send(connectFrame({ clientId: `device-${index}`, isClean: false }));
      const isHere = await wire.next(0x20).then(
        () => true,
        () => false,
      );
      if (!isHere) {
        await sleep(30); // it is being started
        continue;
      }
      for (const [id, { payload, qos, isReleased }] of inFlight) {
        resent += 1;
        wire.send(isReleased ? idFrame(0x62, id) : withDup(publishFrame("lambdaiot", payload, qos, id)));
      }
      for (let seen = 1; !wire.isClosed() && (!stopping.signal.aborted || inFlight.size > 0);) {
        while (seen < wire.received.length) take(wire, wire.received[seen++] as Buffer);
        while (!stopping.signal.aborted && inFlight.size < 5) sendNew(wire);
        await Promise.race([sleep(4), wire.closed]);
      }
      await wire.end();
    }
  })();
  return {
    acknowledged,
    count: () => count,
    resent: () => resent,
    stop: () => {
      stopping.abort();
      return done;
    },
  };
}

test(
  `readings of QoS 1 and 2 that are sent again after a kill -9 are there once: seed ${seed}`,
  { timeout: 90_000 },
  async () => {
    gateway = await startBuiltGateway({ folder, env: { TMPDIR: folder } });
    const env = {
      TMPDIR: folder,
      LAMBDAIOT_SERVER_PORT: new URL(gateway.url).port,
      LAMBDAIOT_MQTT_PORT: new URL(gateway.mqttUrl).port,
    };
    const api = await logIn(gateway.url);
    const device = await api("POST", "/devices", { name: "d", description: "", location: "", status_id: 1 });
    const input = { device_id: device.body.id as string, name: "s", type: "t", data_type_id: 2 };
    const sensorId = (await api("POST", "/sensors", input)).body.id as string;
    const { mqttUrl, storePath } = gateway;
    const fleet = Array.from({ length: devices }, (_, index) => startDevice(index + 1, mqttUrl, sensorId));
    const acknowledged = (): number[] => fleet.flatMap((one) => [...one.acknowledged]);
    const look = (): number[] => readReadings(storePath).map(({ value }) => value);
    for (let kill = 1; kill <= kills; kill++) {
      const before = acknowledged().length;
      await sleep(20 + random() * 400);
      await until(() => acknowledged().length > before);
      await gateway.stop("SIGKILL");
      const known = acknowledged();
      gateway = await startBuiltGateway({ folder, env });
      const stored = new Set(look());
      expect({ kill, lost: known.filter((value) => !stored.has(value)) }).toEqual({ kill, lost: [] });
    }
    await Promise.all(fleet.map((one) => one.stop()));
    const values = look();
    const sent = fleet.reduce((sum, one) => sum + one.count(), 0);
    expect({ stored: values.length, different: new Set(values).size }).toEqual({ stored: sent, different: sent });
    expect(acknowledged()).toHaveLength(sent);
    const resent = fleet.reduce((sum, one) => sum + one.resent(), 0);
    expect(resent).toBeGreaterThan(kills);
    console.log(`seed ${seed}: ${sent} readings, ${resent} sent again after ${kills} kills: each is there once`);
  },
);
