// One publisher and its subscribers, as a process of its own: raw sockets, one packet made beforehand, and what arrives is
// told by its length alone, so that it is never what is measured.
//
// Takes one `FanoutOrder` a message from its parent and answers with a `FanoutResult`.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { generate } from "mqtt-packet";

export interface FanoutOrder {
  port: number;
  subscribers: number;
  qos: 0 | 1;
  messages: number;
  /** Messages that some subscriber has not received yet. */
  window: number;
}

export interface FanoutResult {
  /** From the first PUBLISH until every subscriber has every message, and the publisher its PUBACKs. */
  seconds: number;
}

const topic = "bench/fan-out";
const payload = Buffer.from(`{"type":"event","text":"${"x".repeat(76)}"}`);

async function open(port: number, clientId: string): Promise<Socket> {
  const socket = connect({ port, host: "127.0.0.1", noDelay: true });
  await once(socket, "connect");
  socket.write(
    generate({ cmd: "connect", protocolId: "MQTT", protocolVersion: 4, clean: true, clientId, keepalive: 0 }),
  );
  const [connack] = (await once(socket, "data")) as [Buffer];
  if (connack.length !== 4 || connack[0] !== 0x20 || connack[3] !== 0) throw new Error("the connection was refused");
  return socket;
}

async function openSubscriber(port: number, clientId: string, qos: 0 | 1): Promise<Socket> {
  const socket = await open(port, clientId);
  socket.write(generate({ cmd: "subscribe", messageId: 1, subscriptions: [{ topic, qos }] }));
  const [suback] = (await once(socket, "data")) as [Buffer];
  if (suback[0] !== 0x90 || suback.at(-1) !== qos) throw new Error("the subscription was refused");
  return socket;
}

async function run({ port, subscribers, qos, messages, window }: FanoutOrder): Promise<FanoutResult> {
  const packet = generate({ cmd: "publish", topic, payload, qos, messageId: 1, retain: false, dup: false });
  const idAt = packet.length - payload.length - 2;
  const sockets: Socket[] = [];
  for (let i = 0; i < subscribers; i++) sockets.push(await openSubscriber(port, `subscriber-${i}`, qos));
  const publisher = await open(port, "publisher");

  const wanted = messages * subscribers;
  let sent = 0;
  let delivered = 0;
  let ackBytes = 0;
  const start = performance.now();
  await new Promise<void>((resolve, reject) => {
    const send = (): void => {
      const room = Math.min(window - Math.ceil(sent - delivered / subscribers), messages - sent);
      // Not packet by packet: both brokers get them in the same small batches.
      if (room < Math.min(window / 4, messages - sent) || room === 0) return;
      const chunk = Buffer.allocUnsafe(room * packet.length);
      for (let i = 0; i < room; i++) {
        packet.copy(chunk, i * packet.length);
        if (qos === 1) chunk.writeUInt16BE(1 + (sent % 65_535), i * packet.length + idAt);
        sent += 1;
      }
      publisher.write(chunk);
    };
    const check = (): void => {
      if (delivered === wanted && ackBytes === (qos === 1 ? messages * 4 : 0)) resolve();
    };
    for (const socket of sockets) {
      let rest: Buffer | undefined;
      let partial = 0;
      const take = (data: Buffer): void => {
        let count: number;
        if (qos === 0) {
          count = Math.floor((partial + data.length) / packet.length);
          partial = (partial + data.length) % packet.length;
        } else {
          // Each has its identifier, and is told so.
          const bytes = rest === undefined ? data : Buffer.concat([rest, data]);
          count = Math.floor(bytes.length / packet.length);
          if (count > 0) {
            const acks = Buffer.allocUnsafe(count * 4);
            for (let i = 0; i < count; i++) {
              acks.writeUInt16BE(0x4002, i * 4);
              bytes.copy(acks, i * 4 + 2, i * packet.length + idAt, i * packet.length + idAt + 2);
            }
            socket.write(acks);
          }
          rest = count * packet.length < bytes.length ? bytes.subarray(count * packet.length) : undefined;
        }
        if (count === 0) return;
        delivered += count;
        send();
        check();
      };
      socket.on("data", take);
      socket.on("close", () => reject(new Error("a subscriber was cut off")));
      socket.on("error", reject);
    }
    publisher.on("data", (data) => {
      ackBytes += data.length;
      check();
    });
    publisher.on("close", () => reject(new Error("the publisher was cut off")));
    publisher.on("error", reject);
    send();
  });
  const seconds = (performance.now() - start) / 1_000;
  for (const socket of [publisher, ...sockets]) {
    socket.removeAllListeners("close");
    socket.end(generate({ cmd: "disconnect" }));
  }
  return { seconds };
}

process.on("message", (order: FanoutOrder) => {
  run(order).then(
    (result) => process.send?.(result),
    (error: Error) => {
      console.error(`fan-out: ${error.message}`);
      process.exit(1);
    },
  );
});
process.on("disconnect", () => process.exit());
process.send?.(0);
