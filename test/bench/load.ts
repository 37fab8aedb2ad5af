// The MQTT load, as a process of its own: raw sockets and packets made beforehand, so that it is never what is measured.
//
// Takes one `LoadOrder` a message from its parent and answers with a `LoadResult`.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { generate } from "mqtt-packet";

export interface LoadOrder {
  port: number;
  topic: string;
  connections: number;
  /** Messages of one connection that wait for their PUBACK at a time. */
  inFlight: number;
  /** In all. */
  messages: number;
  sensorIds: string[];
  /** With `value_at`, as in the document's example, or as a device without a clock says it. */
  isTimed: boolean;
  /** Who each connection is; absent, nobody in particular. */
  logins?: { username: string; password: string }[] | undefined;
  /** So many a second whatever has been acknowledged, instead of `inFlight`. */
  perSecond?: number;
  /** With sessions that outlive the connections. */
  isKept?: boolean;
  /** Values begin here; no value is sent twice where the next order begins after this one's last. */
  firstValue: number;
}

export interface LoadResult {
  /** From the first PUBLISH to the last PUBACK. */
  seconds: number;
  /** Epoch milliseconds of the first PUBLISH. */
  startedAt: number;
  /** From PUBLISH to PUBACK in milliseconds; only where one message was in flight, or so many a second were sent. */
  latencies: number[];
}

const firstTime = Date.parse("2026-01-14T10:00:00.000Z");

/** One PUBLISH for each sensor, and where in it the parts stand that differ from message to message. */
function makeTemplates({ topic, sensorIds, isTimed }: LoadOrder) {
  return sensorIds.map((sensorId) => {
    const time = isTimed ? `,"value_at":"2026-01-14T10:00:00.000Z"` : "";
    const payload = `{"type":"sensor_reading","sensor_id":"${sensorId}","value":10000000.5${time}}`;
    const packet = generate({ cmd: "publish", topic, payload, qos: 1, messageId: 1, retain: false, dup: false });
    return {
      packet,
      idAt: packet.indexOf(payload) - 2,
      valueAt: packet.indexOf("10000000"),
      timeAt: isTimed ? packet.indexOf("2026-01-14") : -1,
    };
  });
}

async function open({ port, logins, isKept = false }: LoadOrder, index: number): Promise<Socket> {
  const socket = connect({ port, host: "127.0.0.1", noDelay: true });
  await once(socket, "connect");
  const { username, password } = logins?.[index] ?? {};
  socket.write(
    generate({
      cmd: "connect",
      protocolId: "MQTT",
      protocolVersion: 4,
      clean: !isKept,
      clientId: `load-${index}`,
      keepalive: 0,
      ...(username !== undefined && { username }),
      ...(password !== undefined && { password: Buffer.from(password) }),
    }),
  );
  const [connack] = (await once(socket, "data")) as [Buffer];
  if (connack.length !== 4 || connack[0] !== 0x20 || connack[3] !== 0) throw new Error("the connection was refused");
  return socket;
}

async function run(order: LoadOrder): Promise<LoadResult> {
  const { connections, inFlight, messages, isTimed, firstValue, perSecond } = order;
  const templates = makeTemplates(order);
  const size = (templates[0] as (typeof templates)[0]).packet.length;
  const sockets: Socket[] = [];
  for (let i = 0; i < connections; i++) sockets.push(await open(order, i));
  const latencies: number[] = [];
  let sent = 0;
  let acknowledged = 0;

  const senders: ((count: number) => void)[] = [];
  const isMeasured = inFlight === 1 || perSecond !== undefined;
  let pace: NodeJS.Timeout | undefined;

  const startedAt = Date.now();
  const start = performance.now();
  await new Promise<void>((resolve, reject) => {
    for (const [i, socket] of sockets.entries()) {
      // Each connection is a device with its share of the sensors.
      const own = templates.filter((_, n) => n % connections === i);
      let turn = 0;
      let messageId = 0;
      /** One connection's PUBACKs come in the order of its messages. */
      const sentAt: number[] = [];
      const send = (count: number): void => {
        const n = Math.min(count, messages - sent);
        if (n <= 0) return;
        const chunk = Buffer.allocUnsafe(n * size);
        for (let offset = 0; offset < chunk.length; offset += size) {
          const { packet, idAt, valueAt, timeAt } = own[turn++ % own.length] as (typeof templates)[0];
          packet.copy(chunk, offset);
          messageId = (messageId % 65_535) + 1;
          chunk.writeUInt16BE(messageId, offset + idAt);
          chunk.write(String(10_000_000 + firstValue + sent), offset + valueAt, "latin1");
          if (isTimed) chunk.write(new Date(firstTime + firstValue + sent).toISOString(), offset + timeAt, "latin1");
          sent += 1;
        }
        if (isMeasured) for (let now = performance.now(), k = 0; k < n; k++) sentAt.push(now);
        socket.write(chunk);
      };
      let partial = 0;
      socket.on("data", (data) => {
        // Nothing but PUBACKs of four bytes comes here.
        if (data[(4 - partial) % 4] !== 0x40 && data.length > 4) reject(new Error("not a PUBACK"));
        const count = Math.floor((partial + data.length) / 4);
        partial = (partial + data.length) % 4;
        acknowledged += count;
        if (isMeasured) for (const at of sentAt.splice(0, count)) latencies.push(performance.now() - at);
        if (acknowledged === messages) resolve();
        else if (perSecond === undefined) send(count);
      });
      socket.on("close", () => reject(new Error("the connection was closed")));
      socket.on("error", reject);
      senders.push(send);
    }
    if (perSecond === undefined) for (const send of senders) send(inFlight);
    else
      pace = setInterval(() => {
        const due = Math.min(messages, Math.floor(((performance.now() - start) / 1_000) * perSecond) + 1);
        for (let n = sent; n < due; n++) senders[n % senders.length]?.(1);
      }, 1);
  });
  clearInterval(pace);
  const seconds = (performance.now() - start) / 1_000;
  for (const socket of sockets) {
    socket.removeAllListeners("close");
    socket.end(generate({ cmd: "disconnect" }));
  }
  return { seconds, startedAt, latencies };
}

process.on("message", (order: LoadOrder) => {
  run(order).then(
    (result) => process.send?.(result),
    (error: Error) => {
      console.error(`load: ${error.message}`);
      process.exit(1);
    },
  );
});
process.on("disconnect", () => process.exit());
process.send?.(0);
