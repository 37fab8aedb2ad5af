import { connect, type Socket } from "node:net";

// Control packets of MQTT 3.1.1 byte by byte, and a connection that sends just them: what no client library would send.

const toBytes = (content: string | Buffer): Buffer => (typeof content === "string" ? Buffer.from(content) : content);

const text = (content: string | Buffer): Buffer => {
  const bytes = toBytes(content);
  return Buffer.concat([Buffer.of(bytes.length >> 8, bytes.length & 0xff), bytes]);
};

const id = (messageId: number): Buffer => Buffer.of(messageId >> 8, messageId & 0xff);

/** A packet with its header, whatever the parts are. */
export function frame(first: number, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const length: number[] = [];
  let rest = body.length;
  do {
    length.push((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    rest >>= 7;
  } while (rest > 0);
  return Buffer.concat([Buffer.of(first, ...length), body]);
}

export interface ConnectParts {
  clientId?: string | Buffer;
  keepAlive?: number;
  isClean?: boolean;
  level?: number;
  will?: { topic: string | Buffer; payload: string };
  username?: string | Buffer;
  password?: string;
}

export const connectFrame = (parts: ConnectParts = {}): Buffer => {
  const { clientId = "", keepAlive = 0, isClean = true, level = 4, will, username, password } = parts;
  const flags =
    (isClean ? 0x02 : 0) |
    (will === undefined ? 0 : 0x04) |
    (username === undefined ? 0 : 0x80) |
    (password === undefined ? 0 : 0x40);
  return frame(
    0x10,
    text("MQTT"),
    Buffer.of(level, flags),
    id(keepAlive),
    text(clientId),
    ...(will === undefined ? [] : [text(will.topic), text(will.payload)]),
    ...(username === undefined ? [] : [text(username)]),
    ...(password === undefined ? [] : [text(password)]),
  );
};

export const publishFrame = (topic: string | Buffer, payload: string | Buffer, qos: 0 | 1 | 2 = 0, messageId = 1) =>
  frame(0x30 | (qos << 1), text(topic), ...(qos > 0 ? [id(messageId)] : []), toBytes(payload));

export const subscribeFrame = (messageId: number, ...filters: (string | Buffer)[]): Buffer =>
  frame(0x82, id(messageId), ...filters.map((filter) => Buffer.concat([text(filter), Buffer.of(1)])));

export const unsubscribeFrame = (messageId: number, ...filters: (string | Buffer)[]): Buffer =>
  frame(0xa2, id(messageId), ...filters.map(text));

/** PUBACK 0x40, PUBREC 0x50, PUBREL 0x62, PUBCOMP 0x70. */
export const idFrame = (first: number, messageId: number): Buffer => frame(first, id(messageId));

export const pingFrame = frame(0xc0);
export const disconnectFrame = frame(0xe0);

export interface Wire {
  socket: Socket;
  /** All packets received, each whole. */
  received: Buffer[];
  send(...frames: Buffer[]): void;
  /** Resolves with the first packet, past or to come, whose first byte is `first` and that `isWanted`. */
  next(first: number, isWanted?: (packet: Buffer) => boolean): Promise<Buffer>;
  /** Resolves when the other side has cut the connection. */
  closed: Promise<void>;
  isClosed: () => boolean;
  end(): Promise<void>;
}

/** A TCP connection that cuts what it receives into packets. */
export async function openWire(url: string): Promise<Wire> {
  const socket = connect(Number(new URL(url).port), "127.0.0.1").setNoDelay(true);
  const received: Buffer[] = [];
  const waiting: (() => void)[] = [];
  let isClosed = false;
  let bytes = Buffer.alloc(0);
  const wake = (): void => waiting.splice(0).forEach((go) => go());
  socket.on("data", (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk]);
    for (;;) {
      let length = 0;
      let at = 1;
      let isMeasured = false;
      for (let shift = 0; at < bytes.length; shift += 7) {
        const byte = bytes[at++] as number;
        length |= (byte & 0x7f) << shift;
        isMeasured = byte < 0x80;
        if (isMeasured) break;
      }
      if (!isMeasured || bytes.length < at + length) break;
      received.push(bytes.subarray(0, at + length));
      bytes = bytes.subarray(at + length);
    }
    wake();
  });
  socket.on("error", () => undefined);
  const closed = new Promise<void>((resolve) => {
    socket.once("close", () => {
      isClosed = true;
      wake();
      resolve();
    });
  });
  await new Promise<void>((resolve) => {
    socket.once("connect", () => resolve());
    socket.once("close", () => resolve());
  });
  return {
    socket,
    received,
    closed,
    isClosed: () => isClosed,
    send: (...frames) => frames.forEach((one) => void socket.write(one)),
    async next(first, isWanted = () => true) {
      for (;;) {
        const found = received.find((packet) => packet[0] === first && isWanted(packet));
        if (found !== undefined) return found;
        if (isClosed) throw new Error(`the connection was closed before ${first.toString(16)} came`);
        await new Promise<void>((resolve) => void waiting.push(resolve));
      }
    },
    async end() {
      socket.destroy();
      await closed;
    },
  };
}

/** A wire on which the gateway has said yes. */
export async function openClient(url: string, parts: ConnectParts = {}): Promise<Wire> {
  const wire = await openWire(url);
  wire.send(connectFrame(parts));
  await wire.next(0x20);
  return wire;
}

export const messageIdOf = (packet: Buffer): number => packet.readUInt16BE(packet.length - 2);
