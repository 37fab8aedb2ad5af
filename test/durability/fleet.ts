// A fleet of devices on raw sockets, in a process of its own and light: each sends so many QoS 1 readings a second.
//
//   node fleet.ts '{"port":1883,"connections":1000,"perSecond":10,"sensorIds":["…"]}'
//
// Takes a command a line and answers each with one line of JSON:
//
//   connect        opens every connection at once; answers {"connected":1000,"ms":…} when all have their CONNACK
//   publish 3      publishes for three seconds; answers {"published":…,"acknowledged":…,"slowestMs":…} when all of it is
//                  acknowledged. A connection that is lost opens again and sends what was not acknowledged with the DUP
//                  flag and the same identifier [MQTT-4.4.0-1].
//
// Ends with its input.
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { generate } from "mqtt-packet";

export interface FleetOptions {
  port: number;
  connections: number;
  perSecond: number;
  sensorIds: string[];
}

const { port, connections, perSecond, sensorIds } = JSON.parse(process.argv[2] ?? "{}") as FleetOptions;
const topic = "lambdaiot";
/** Between two tries of one device. */
const retryMs = 200;

let connected = 0;
let published = 0;
let acknowledged = 0;
let reconnects = 0;
let slowestMs = 0;

/** A time that no other reading of its sensor has: what is sent again is the same reading. */
const startedAt = Date.now() - 3_600_000;

class Device {
  readonly #index: number;
  readonly #sensorId: string;
  #socket: Socket | undefined;
  #isOpen = false;
  #nextId = 0;
  readonly #waiting = new Map<number, { packet: Buffer; sentAt: number }>();
  #onConnected: () => void = () => undefined;

  constructor(index: number) {
    this.#index = index;
    this.#sensorId = sensorIds[index % sensorIds.length] as string;
  }

  connect(): Promise<void> {
    return new Promise((resolve) => {
      this.#onConnected = resolve;
      this.#dial();
    });
  }

  #dial(): void {
    const socket = (this.#socket = connect({ port, host: "127.0.0.1", noDelay: true }));
    let partial: Buffer = Buffer.alloc(0);
    const clientId = `fleet-${this.#index}`;
    socket.write(
      generate({ cmd: "connect", protocolId: "MQTT", protocolVersion: 4, clean: false, clientId, keepalive: 60 }),
    );
    socket.on("data", (data: Buffer) => {
      // Nothing but CONNACK and PUBACK comes here, of four bytes each.
      const bytes = partial.length === 0 ? data : Buffer.concat([partial, data]);
      let at = 0;
      for (; at + 4 <= bytes.length; at += 4) this.#take(bytes, at);
      partial = bytes.subarray(at);
    });
    socket.on("error", () => undefined);
    socket.on("close", () => {
      if (this.#isOpen) connected -= 1;
      this.#isOpen = false;
      reconnects += 1;
      setTimeout(() => this.#dial(), retryMs * (0.5 + Math.random()));
    });
  }

  #take(bytes: Buffer, at: number): void {
    if (bytes[at] === 0x20) {
      if (bytes[at + 3] !== 0) return void this.#socket?.destroy();
      this.#isOpen = true;
      connected += 1;
      for (const message of this.#waiting.values()) {
        message.packet[0] = (message.packet[0] as number) | 0x08;
        this.#socket?.write(message.packet);
      }
      this.#onConnected();
      return;
    }
    const message = this.#waiting.get(bytes.readUInt16BE(at + 2));
    if (bytes[at] !== 0x40 || message === undefined) throw new Error("not a PUBACK of its own");
    this.#waiting.delete(bytes.readUInt16BE(at + 2));
    slowestMs = Math.max(slowestMs, performance.now() - message.sentAt);
    acknowledged += 1;
  }

  publish(): void {
    this.#nextId = (this.#nextId % 65_535) + 1;
    const value = published;
    const value_at = new Date(startedAt + published).toISOString();
    const payload = JSON.stringify({ type: "sensor_reading", sensor_id: this.#sensorId, value, value_at });
    const packet = generate({
      cmd: "publish",
      topic,
      payload,
      qos: 1,
      messageId: this.#nextId,
      retain: false,
      dup: false,
    });
    published += 1;
    this.#waiting.set(this.#nextId, { packet, sentAt: performance.now() });
    if (this.#isOpen) this.#socket?.write(packet);
  }
}

const devices = Array.from({ length: connections }, (_, index) => new Device(index));

async function connectAll(): Promise<object> {
  const start = performance.now();
  await Promise.all(devices.map((device) => device.connect()));
  return { connected, ms: Math.round(performance.now() - start) };
}

/** Devices do not keep time with each other: in each hundredth of a second another part of them has its turn. */
async function publishFor(seconds: number): Promise<object> {
  const slots = 100 / perSecond;
  const start = performance.now();
  for (let tick = 0; tick < seconds * 100; tick++) {
    for (let i = tick % slots; i < devices.length; i += slots) devices[i]?.publish();
    await sleep(Math.max(0, start + (tick + 1) * 10 - performance.now()));
  }
  const isDone = (): boolean => acknowledged === published;
  while (!isDone()) await sleep(10);
  return { published, acknowledged, reconnects, slowestMs: Math.round(slowestMs) };
}

for await (const line of createInterface(process.stdin)) {
  const [command, argument] = line.split(" ");
  const result = command === "connect" ? await connectAll() : await publishFor(Number(argument));
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
process.exit(0);
