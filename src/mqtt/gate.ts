import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import { normalizeAddress } from "../core/peers.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import {
  checkConnect,
  checkFirstByte,
  checkFrame,
  connectByte,
  measureFrame,
  measurePayload,
  packetType,
  qosMask,
  type Fault,
} from "./frames.ts";

// What stands between the network and Aedes: only whole packets that a client may send get through, in their time, and no
// more of them than can be acknowledged soon.

export interface GateOptions {
  log: Log;
  counters: Counters;
  /** The largest CONNECT: all that somebody who has not logged in can make the gateway keep. */
  maxConnectBytes: number;
  /** The largest packet after that. */
  maxPacketBytes: number;
  /** QoS 1 and 2 messages of one connection that may wait for their acknowledgement at once. */
  maxInFlight: number;
  /** A connection must have said CONNECT by then. */
  connectTimeoutMs: number;
  maxConnectionsPerAddress: number;
  /** Speak for many, and are not counted as one address. */
  trustedProxies: readonly string[];
  /** What one client may leave unread, a packet in any case; who is further behind is cut off. */
  maxUnreadBytes: number;
  /** What all clients together may leave unread; then whoever is behind is cut off. */
  maxUnreadBytesTotal: number;
  /** A client for which something waits must read some of it within this time. */
  drainTimeoutMs: number;
}

/** What has come and gone since the start: plain numbers, since they are counted for every packet. */
export interface Traffic {
  /** Connections that were let in. */
  sockets: number;
  /** CONNECTs among the packets received. */
  connects: number;
  packetsReceived: number;
  packetsSent: number;
  /** PUBLISH packets, and the bytes of their payloads. */
  publishesReceived: number;
  publishesSent: number;
  payloadBytesReceived: number;
  payloadBytesSent: number;
  bytesReceived: number;
  bytesSent: number;
}

export interface Gate {
  traffic: Readonly<Traffic>;
  /** Readies a TCP connection for the broker. @returns `undefined` where there is no room for it; it is closed then */
  admitSocket(socket: Socket): Duplex | undefined;
  /**
   * Makes room for a TCP connection that has its TLS handshake before it: an address that has too many connections gets
   * none. @returns `false` where there is no room; it is closed then
   */
  reserve(socket: Socket): boolean;
  /** Readies a connection for the broker for which room has been made. */
  admitSecured(socket: Socket): Duplex;
  /** Readies any connection, of a peer at `address`, for the broker. */
  admitStream(stream: Duplex, address: string): Duplex | undefined;
  /**
   * The message with this payload, which is about to be sent, is one of many that are there already: retained ones, or a
   * session's queue. They go out as fast as the client reads, where what is published now waits for nobody.
   */
  pace(connection: unknown, payload: unknown): void;
  /** A message is about to be sent to a subscriber: it shares a system call with those that follow at once. */
  gather(connection: unknown): void;
}

/** A device that has vanished without a word is noticed by TCP itself, also where it asked for no keep-alive. */
const tcpKeepAliveMs = 60_000;
/** What is taken in from a connection beyond its messages in flight, for the sake of a PINGREQ among it. */
const maxWaitingBytes = 65_536;
/** Packets up to this are put into one piece for the socket. */
const maxJoinedBytes = 16_384;
/** A larger one is handed over in pieces, so that it is seen whether the client reads. */
const maxPieceBytes = 65_536;

const pingResponse = Buffer.of(0xd0, 0);
/** CONNACK, return code 1: unacceptable protocol version. */
const versionRefusal = Buffer.of(0x20, 2, 0, 1);
const nothing = Buffer.alloc(0);

export function createGate(given: GateOptions): Gate {
  const { log, counters, maxConnectionsPerAddress, trustedProxies } = given;
  /** Open connections by address; as many as there are connections. */
  const connections = new Map<string, number>();
  const traffic: Traffic = {
    sockets: 0,
    connects: 0,
    packetsReceived: 0,
    packetsSent: 0,
    publishesReceived: 0,
    publishesSent: 0,
    payloadBytesReceived: 0,
    payloadBytesSent: 0,
    bytesReceived: 0,
    bytesSent: 0,
  };
  const options = { ...given, traffic };
  const unread: Unread = { bytes: 0 };

  /** Counts a connection. @returns what ends that; `undefined` where there is no room for it, and it is closed */
  function enter(stream: Duplex, peer: string): (() => void) | undefined {
    const address = normalizeAddress(peer);
    const count = connections.get(address) ?? 0;
    if (count >= maxConnectionsPerAddress && !trustedProxies.includes(address)) {
      counters.increment("mqtt.gate.address_full");
      log.sampled("mqtt.gate.address_full", "connection refused", { reason: "too many from one address", peer });
      stream.on("error", () => undefined).destroy();
      return undefined;
    }
    connections.set(address, count + 1);
    return () => {
      const left = (connections.get(address) ?? 1) - 1;
      if (left > 0) connections.set(address, left);
      else connections.delete(address);
    };
  }

  function admitStream(stream: Duplex, peer: string): Duplex | undefined {
    const leave = enter(stream, peer);
    return leave && new GatedConnection(stream, peer, options, unread, leave);
  }

  return {
    traffic,
    admitSocket(socket) {
      tune(socket);
      return admitStream(socket, socket.remoteAddress ?? "");
    },
    reserve(socket) {
      tune(socket);
      const leave = enter(socket, socket.remoteAddress ?? "");
      if (leave !== undefined) socket.once("close", leave);
      return leave !== undefined;
    },
    admitSecured: (socket) => new GatedConnection(socket, socket.remoteAddress ?? "", options, unread, () => undefined),
    admitStream,
    pace(connection, payload) {
      if (connection instanceof GatedConnection) connection.pace(payload);
    },
    gather(connection) {
      if (connection instanceof GatedConnection) connection.gather();
    },
  };
}

function tune(socket: Socket): void {
  socket.setNoDelay(true); // a PUBACK waits for nothing
  socket.setKeepAlive(true, tcpKeepAliveMs);
}

type ConnectionOptions = GateOptions & { traffic: Traffic };

/** What waits for all clients together. */
interface Unread {
  bytes: number;
}

/** What a client takes too long for, or leaves lying. */
type Delay = "connect_timeout" | "keepalive_timeout" | "drain_timeout" | "unread_full" | "unread_total_full";

/** Small parts put together, large ones cut. */
function toPieces(parts: Buffer[]): Buffer[] {
  const pieces: Buffer[] = [];
  let from = 0;
  let length = 0;
  const join = (to: number): void => {
    if (to - from === 1) pieces.push(parts[from] as Buffer);
    else if (to > from) pieces.push(Buffer.concat(parts.slice(from, to), length));
    from = to;
    length = 0;
  };
  for (const [i, part] of parts.entries()) {
    if (length + part.length > maxJoinedBytes) join(i);
    length += part.length;
    if (part.length <= maxPieceBytes) continue;
    for (let at = 0; at < part.length; at += maxPieceBytes) pieces.push(part.subarray(at, at + maxPieceBytes));
    from = i + 1;
    length = 0;
  }
  join(parts.length);
  return pieces;
}

/** A packet that waits until others have been acknowledged. */
interface Waiting {
  frame: Buffer;
  isCounted: boolean;
}

/**
 * One connection as Aedes sees it. What the client sends is cut into packets, and each is checked:
 *
 * - `new`: only a CONNECT is taken, and in time.
 * - `connecting`: until Aedes answers it, what comes behind stays with the network.
 * - `open`: packets go to Aedes as they come. Beyond `maxInFlight` messages without acknowledgement they wait here, and
 *   when enough of them wait, the network does. Aedes has no such bound: it would take in whatever comes.
 *
 * PINGREQ is answered here, and the keep-alive watched here: Aedes does not come to either while the messages before it
 * are being committed, and would take a client for dead that it has kept waiting itself.
 *
 * What goes to the client is taken in at once, and waits here. Aedes would wait itself, and let everybody else wait with
 * it: a message counts as delivered when the last subscriber has made room for it. Who leaves too much unread, or reads
 * nothing for a while, is cut off.
 */
class GatedConnection extends Duplex {
  readonly remoteAddress: string;
  readonly #source: Duplex;
  readonly #options: ConnectionOptions;
  readonly #traffic: Traffic;
  readonly #unread: Unread;
  readonly #onGone: () => void;
  #phase: "new" | "connecting" | "open" = "new";
  #deadline: NodeJS.Timeout | undefined;
  /** What came behind a CONNECT that has no answer yet. */
  #behindConnect: Buffer = nothing;
  /** The beginning of a packet, its length, and how much must be there before it is worth another look. */
  #partial: Buffer = nothing;
  #partialLength = 0;
  #needed = 0;
  /** Messages that Aedes has and has not acknowledged. */
  #inFlight = 0;
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  /** Aedes does not come to read. */
  #isFull = false;
  #isPaused = false;
  #hasEnded = false;
  /** PINGRESP that a client has not made room for. */
  #owedPings = 0;
  #onSent: (() => void) | undefined;
  /** Runs while something waits for the client to read. */
  #stall: NodeJS.Timeout | undefined;
  /** What of this connection is counted in `#unread`. */
  #counted = 0;
  #paced: unknown;
  #isGathering = false;
  /** Where the packet that is being sent is: its first byte next, its length, its topic's, or so many bytes of it left. */
  #sent: "type" | "length" | "topic" | "body" = "type";
  #sentType = 0;
  #sentLeft = 0;
  #sentFactor = 1;
  /** What of a PUBLISH is not payload: its message identifier, and the first byte of its topic's length, shifted. */
  #sentIdBytes = 0;
  #sentTopic = -1;

  constructor(source: Duplex, remoteAddress: string, options: ConnectionOptions, unread: Unread, onGone: () => void) {
    super({ allowHalfOpen: false });
    this.remoteAddress = remoteAddress;
    this.#source = source;
    this.#options = options;
    this.#traffic = options.traffic;
    this.#traffic.sockets++;
    this.#unread = unread;
    this.#onGone = onGone;
    this.#deadline = setTimeout(() => this.#refuse("connect_timeout"), options.connectTimeoutMs);
    this.on("drain", () => this.#answerPings());
    source.on("data", (chunk: Buffer) => this.#take(chunk));
    source.on("drain", () => this.#onSent?.());
    source.on("end", () => {
      this.#hasEnded = true;
      clearTimeout(this.#deadline);
      if (this.#waiting.length === 0) this.push(null);
    });
    // What a client sent before it left is taken in to the end, though nobody hears the answers.
    source.on("error", (error) => !this.#hasEnded && this.destroy(error));
    source.on("close", () => {
      if (this.#hasEnded) this.#onSent?.();
      else this.destroy();
    });
  }

  /**
   * Aedes reads once each time that it is told of data, and takes it that it gets all there is; from Node 26 on `read()`
   * gives one chunk of it, and the rest would lie there unread.
   */
  override read(size?: number): unknown {
    return super.read(size ?? (this.readableLength || undefined));
  }

  override _read(): void {
    this.#isFull = false;
    this.#steer();
  }

  pace(payload: unknown): void {
    this.#paced = payload;
  }

  /** Aedes writes each message in a turn of its own: all that one segment of a publisher's brings are there after two. */
  gather(): void {
    if (this.writableLength > maxPieceBytes) return this.#scatter();
    if (this.#isGathering) return;
    this.#isGathering = true;
    this.cork();
    setImmediate(() => setImmediate(() => this.#scatter()));
  }

  #scatter(): void {
    if (!this.#isGathering) return;
    this.#isGathering = false;
    this.uncork();
  }

  /** There is always room, but for what is paced; or it is the end of the connection. */
  override write(chunk: unknown, ...rest: never[]): boolean {
    const { maxUnreadBytes, maxUnreadBytesTotal, maxPacketBytes } = this.#options;
    const waiting = this.writableLength;
    const paced = this.writableHighWaterMark;
    if (waiting > Math.max(maxUnreadBytes, paced + maxPacketBytes)) this.#refuse("unread_full");
    else if (waiting > paced && this.#unread.bytes > maxUnreadBytesTotal) this.#refuse("unread_total_full");
    const hasRoom = super.write(chunk, ...rest);
    this.#count();
    if (this.#paced === undefined || chunk !== this.#paced) return true;
    this.#paced = undefined;
    return hasRoom;
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: () => void): void {
    this.#send([chunk], done);
  }

  /** Aedes writes packets in small parts, all that belong to one at once. */
  override _writev(items: { chunk: Buffer }[], done: () => void): void {
    this.#send(
      items.map(({ chunk }) => chunk),
      done,
    );
  }

  #count(): void {
    const waiting = this.destroyed ? 0 : this.writableLength;
    this.#unread.bytes += waiting - this.#counted;
    this.#counted = waiting;
  }

  override _final(done: () => void): void {
    this.#source.end();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearTimeout(this.#deadline);
    clearTimeout(this.#stall);
    this.#count();
    this.#source.destroy();
    this.#onGone();
    done(error);
  }

  #refuse(fault: Fault | Delay): void {
    if (this.destroyed) return;
    const { counters, log } = this.#options;
    counters.increment(`mqtt.gate.${fault}`);
    log.sampled(`mqtt.gate.${fault}`, "connection closed", { reason: fault, peer: this.remoteAddress });
    this.destroy(new Error(`closed by the gate: ${fault}`));
  }

  #take(chunk: Buffer): void {
    this.#traffic.bytesReceived += chunk.length;
    const bytes = this.#complete(chunk);
    if (bytes !== undefined) this.#scan(bytes);
    this.#steer();
  }

  /** @returns what came, with the beginning that was kept; `undefined` where the packet is still not all there */
  #complete(chunk: Buffer): Buffer | undefined {
    if (this.#partialLength === 0) return chunk;
    const length = this.#partialLength + chunk.length;
    if (length > this.#partial.length) {
      // Twice as large each time, so that a packet that comes byte by byte is not copied as often as it has bytes; and
      // no larger than what has come warrants: a length that is only announced costs nothing.
      const grown = Buffer.allocUnsafe(Math.max(length, Math.min(this.#needed, 2 * this.#partial.length)));
      this.#partial.copy(grown, 0, 0, this.#partialLength);
      this.#partial = grown;
    }
    chunk.copy(this.#partial, this.#partialLength);
    this.#partialLength = length;
    if (length < this.#needed) return undefined;
    const bytes = this.#partial.subarray(0, length);
    this.#partial = nothing;
    this.#partialLength = 0;
    return bytes;
  }

  /** Goes through the packets in `bytes`; what may go to Aedes goes there in as few pieces as possible. */
  #scan(bytes: Buffer): void {
    const { maxConnectBytes, maxPacketBytes, maxInFlight } = this.#options;
    let passed = 0;
    let at = 0;
    let needed = 0;
    while (at < bytes.length && this.#phase !== "connecting") {
      const first = bytes[at] as number;
      const isNew = this.#phase === "new";
      if (isNew && first !== connectByte) return this.#refuse("not_connect"); // [MQTT-3.1.0-1]
      let fault = checkFirstByte(first);
      if (fault !== undefined) return this.#refuse(fault);
      const size = measureFrame(bytes, at);
      if (size < 0) return this.#refuse("malformed");
      // Told by the length that is announced: nothing of it is kept.
      if (size > (isNew ? maxConnectBytes : maxPacketBytes)) return this.#refuse("too_large");
      const end = at + size;
      if (size === 0 || end > bytes.length) {
        needed = size === 0 ? bytes.length - at + 1 : size;
        break;
      }
      fault = isNew ? this.#connect(bytes, at, end) : checkFrame(bytes, at, end);
      if (fault !== undefined) return this.#refuse(fault);
      if (!isNew) this.#deadline?.refresh();
      this.#traffic.packetsReceived++;

      const isPublish = first >> 4 === packetType.publish;
      if (isPublish) {
        this.#traffic.publishesReceived++;
        this.#traffic.payloadBytesReceived += measurePayload(bytes, at, end);
      }
      const isCounted = isPublish && (first & qosMask) !== 0;
      if (first >> 4 === packetType.pingreq) {
        this.#pass(bytes, passed, at);
        passed = end;
        this.#owedPings++;
        this.#answerPings();
      } else if (this.#waiting.length > 0 || (isCounted && this.#inFlight >= maxInFlight)) {
        this.#pass(bytes, passed, at);
        passed = end;
        if (this.#waiting.length === 0) this.#options.counters.increment("mqtt.inflight_waits");
        this.#waiting.push({ frame: bytes.subarray(at, end), isCounted });
        this.#waitingBytes += size;
      } else if (isCounted) this.#inFlight++;
      at = end;
    }
    this.#pass(bytes, passed, at);
    if (this.#phase === "connecting") this.#behindConnect = bytes.subarray(at);
    else if (at < bytes.length) {
      this.#partial = Buffer.from(bytes.subarray(at)); // a copy: the rest of what it lies in is not kept for it
      this.#partialLength = this.#partial.length;
      this.#needed = needed;
    }
  }

  /** Takes a CONNECT, and its keep-alive over from Aedes. */
  #connect(bytes: Buffer, start: number, end: number): Fault | undefined {
    const connect = checkConnect(bytes, start, end);
    if (connect === "unsupported_version") this.#source.write(versionRefusal);
    if (typeof connect === "string") return connect;
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
    const keepAlive = bytes.readUInt16BE(connect.keepAliveAt);
    bytes.writeUInt16BE(0, connect.keepAliveAt);
    if (keepAlive > 0) {
      // [MQTT-3.1.2-24]: silent for one and a half times of what it promised. Not where it may have spoken unheard.
      this.#deadline = setTimeout(() => {
        if (this.#isPaused) this.#deadline?.refresh();
        else this.#refuse("keepalive_timeout");
      }, keepAlive * 1_500);
    }
    this.#phase = "connecting";
    this.#traffic.connects++;
    return undefined;
  }

  /** Hands packets to Aedes. */
  #pass(bytes: Buffer, from: number, to: number): void {
    if (from < to && !this.push(bytes.subarray(from, to))) this.#isFull = true;
  }

  /** Lets as many go on as have been acknowledged. */
  #release(): void {
    let count = 0;
    for (const { frame, isCounted } of this.#waiting) {
      if (isCounted && this.#inFlight >= this.#options.maxInFlight) break;
      if (isCounted) this.#inFlight++;
      this.#pass(frame, 0, frame.length);
      this.#waitingBytes -= frame.length;
      count++;
    }
    if (count === 0) return;
    this.#waiting.splice(0, count);
    if (this.#hasEnded && this.#waiting.length === 0) this.push(null);
  }

  /** Reads from the network, or leaves there what there is no room for. */
  #steer(): void {
    const mustPause = this.#phase === "connecting" || this.#isFull || this.#waitingBytes >= maxWaitingBytes;
    if (mustPause === this.#isPaused) return;
    this.#isPaused = mustPause;
    if (mustPause) this.#source.pause();
    else this.#source.resume();
  }

  /** [MQTT-3.12.4-1]; a client that does not read gets them when it does. */
  #answerPings(): void {
    while (this.#owedPings > 0 && !this.writableNeedDrain && this.writable) {
      this.#owedPings--;
      this.write(pingResponse);
    }
  }

  /** Hands over as much as the network takes, and the rest when it takes more. */
  #send(parts: Buffer[], done: () => void): void {
    const pieces = toPieces(parts);
    let next = 0;
    const goOn = (): void => {
      this.#onSent = undefined;
      clearTimeout(this.#stall);
      this.#stall = undefined;
      while (next < pieces.length) {
        const piece = pieces[next++] as Buffer;
        const isTaken = !this.#source.writable || this.#source.write(piece);
        this.#watch(piece);
        if (isTaken) continue;
        this.#onSent = goOn;
        this.#watchStall();
        return;
      }
      done();
      this.#count();
    };
    goOn();
  }

  #watchStall(): void {
    const stall = (this.#stall = setTimeout(() => {
      // What the network has told while this process did something else comes first.
      setImmediate(() => this.#stall === stall && this.#refuse("drain_timeout"));
    }, this.#options.drainTimeoutMs));
  }

  /** Looks for the acknowledgements in what goes out, and counts it. */
  #watch(bytes: Buffer): void {
    const before = this.#inFlight;
    this.#traffic.bytesSent += bytes.length;
    for (let at = 0; at < bytes.length;) {
      if (this.#sent === "body") {
        const step = Math.min(this.#sentLeft, bytes.length - at);
        at += step;
        this.#sentLeft -= step;
        if (this.#sentLeft > 0) break;
        this.#sent = "type";
        // Its last byte is the return code: 0, accepted.
        if (this.#sentType === packetType.connack && bytes[at - 1] === 0) this.#open();
        continue;
      }
      const byte = bytes[at++] as number;
      if (this.#sent === "type") {
        this.#sentType = byte >> 4;
        this.#sentIdBytes = (byte & qosMask) === 0 ? 0 : 2;
        this.#sentFactor = 1;
        this.#sent = "length";
        this.#traffic.packetsSent++;
        if ((this.#sentType === packetType.puback || this.#sentType === packetType.pubrec) && this.#inFlight > 0)
          this.#inFlight--;
      } else if (this.#sent === "topic") {
        this.#sentLeft--;
        if (this.#sentTopic < 0) this.#sentTopic = byte << 8;
        else {
          this.#traffic.payloadBytesSent += this.#sentLeft - (this.#sentTopic | byte) - this.#sentIdBytes;
          this.#sentTopic = -1;
          this.#sent = "body";
        }
      } else {
        this.#sentLeft += (byte & 0x7f) * this.#sentFactor;
        this.#sentFactor *= 128;
        if (byte >= 0x80) continue;
        if (this.#sentType === packetType.publish) {
          this.#traffic.publishesSent++;
          this.#sent = "topic";
        } else this.#sent = this.#sentLeft > 0 ? "body" : "type";
      }
    }
    if (this.#inFlight < before && this.#waiting.length > 0) {
      this.#release();
      this.#steer();
    }
  }

  #open(): void {
    const bytes = this.#behindConnect;
    this.#behindConnect = nothing;
    this.#phase = "open";
    this.#scan(bytes);
    this.#steer();
  }
}
