// A fleet of devices in a process of its own: it outlives the gateway, and what it says was acknowledged was.
//
//   node publisher.ts '{"url":"mqtt://127.0.0.1:1883","topic":"lambdaiot","sensorIds":["…"],"connections":20,"window":8}'
//
// Publishes QoS 1 readings with unique values, every other one with a time of its own, and writes `<value>` as a line for
// each PUBACK. After a lost connection it connects again and sends what was not acknowledged with the DUP flag and the
// same packet identifier [MQTT-4.4.0-1]. At the end of its input it publishes nothing new, waits until all is
// acknowledged, writes `published <count>` and ends.
import { setTimeout as sleep } from "node:timers/promises";
import mqtt, { type MqttClient } from "mqtt";

export interface PublisherOptions {
  url: string;
  topic: string;
  sensorIds: string[];
  connections: number;
  /** Messages of one connection that may be unacknowledged at once. */
  window: number;
}

const { url, topic, sensorIds, connections, window } = JSON.parse(process.argv[2] ?? "{}") as PublisherOptions;

const stopping = new AbortController();
let published = 0;

/** The values of connection `index`: none comes twice, and half a unit keeps them apart from REST's. */
const valueOf = (index: number, count: number): number => index * 1_000_000 + count + 0.5;

async function runDevice(index: number): Promise<void> {
  const unacknowledged = new Map<number, { value: number; payload: string }>();
  const clientId = `publisher-${index}`;
  let count = 0;
  let packetId = 0;
  // mqtt.js takes the identifier from here, for a resend the one that the message had.
  let nextPacketId = 0;
  const messageIdProvider = {
    allocate: () => nextPacketId,
    getLastAllocated: () => nextPacketId,
    register: () => true,
    deallocate: () => undefined,
    clear: () => undefined,
  };

  function send(client: MqttClient, id: number, { value, payload }: { value: number; payload: string }, dup: boolean) {
    nextPacketId = id;
    client.publish(topic, payload, { qos: 1, dup }, (error) => {
      if (error !== undefined && error !== null) return; // sent again over the next connection
      unacknowledged.delete(id);
      process.stdout.write(`${value}\n`);
    });
  }

  function fill(client: MqttClient): void {
    while (!stopping.signal.aborted && unacknowledged.size < window) {
      do packetId = (packetId % 65_535) + 1;
      while (unacknowledged.has(packetId));
      const value = valueOf(index, count);
      const message = {
        value,
        payload: JSON.stringify({
          type: "sensor_reading",
          sensor_id: sensorIds[index % sensorIds.length],
          value,
          ...(count % 2 === 1 && { value_at: new Date().toISOString() }),
        }),
      };
      count += 1;
      published += 1;
      unacknowledged.set(packetId, message);
      send(client, packetId, message, false);
    }
  }

  while (!stopping.signal.aborted || unacknowledged.size > 0) {
    const client = mqtt.connect(url, { clientId, clean: false, reconnectPeriod: 0, messageIdProvider });
    client.on("error", () => undefined); // the gateway is down just now
    const lost = new Promise<void>((resolve) => void client.once("close", () => resolve()));
    let filling: NodeJS.Timeout | undefined;
    client.once("connect", () => {
      for (const [id, message] of unacknowledged) send(client, id, message, true);
      filling = setInterval(() => {
        fill(client);
        if (stopping.signal.aborted && unacknowledged.size === 0) client.end();
      }, 5);
    });
    await lost;
    clearInterval(filling);
    client.end(true);
    await sleep(50);
  }
}

process.stdin.on("end", () => stopping.abort()).resume();
await Promise.all(Array.from({ length: connections }, (_, index) => runDevice(index)));
process.stdout.write(`published ${published}\n`);
process.exit(0);
