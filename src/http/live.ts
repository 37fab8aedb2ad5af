import type { Bus, EventMap } from "../core/events.ts";
import { DomainError } from "../core/errors.ts";
import type { Counters } from "../counters.ts";
import {
  ascii,
  maxInstantBytes,
  maxNumberBytes,
  writeBytes,
  writeInstant,
  writeInteger,
  writeNumber,
} from "./json-bytes.ts";

// Server-sent events. Fed from memory: what a client misses while it is away it reads from the data routes.

export interface LiveOptions {
  bus: Bus;
  counters: Counters;
  maxClients: number;
}

export interface Live {
  /**
   * A stream of events of one device, or of all. `cutOff` ends the connection of a client that does not read: the stream
   * itself could end only after what waits in it.
   * @throws {DomainError} `unavailable` where there are too many clients
   */
  open(deviceId: string | undefined, cutOff: () => void): Response;
  /** Clients that listen now. */
  count(): number;
  /** Ends every stream. */
  close(): void;
}

/**
 * Bytes that may wait for one client; a client that falls further behind is cut off, and the others wait for nobody. Much
 * more than one commit brings about: what comes in one go, nobody can have read in between.
 */
const maxWaitingBytes = 2 * 1024 * 1024;
/** A comment now and then, so that proxies and clients see that the line is alive. */
const heartbeatMs = 15_000;

const encoder = new TextEncoder();

interface LiveClient {
  send(chunk: Uint8Array): void;
  end(): void;
}

const beforeId = ascii('event: reading\ndata: {"id":');
const beforeValue = ascii('Z","value":');
const afterLast = ascii("}\n\n");
/** Of a reading, beside its device's and its sensor's ids. */
const maxReadingBytes = 128 + maxNumberBytes + maxInstantBytes;

/** What has come for an audience since the last flush, as bytes: readings come by the thousand. */
interface Unsent {
  add(text: string): void;
  addReading(reading: EventMap["reading.stored"]): void;
  /** All of it; it is empty then. */
  take(): Uint8Array;
}

const firstRoom = 16 * 1024;

function createUnsent(): Unsent {
  let bytes = Buffer.allocUnsafe(firstRoom);
  let length = 0;

  function makeRoom(more: number): void {
    if (length + more <= bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(length + more, bytes.length * 2));
    larger.set(bytes.subarray(0, length));
    bytes = larger;
  }

  return {
    add(text) {
      makeRoom(text.length * 3);
      length += bytes.write(text, length);
    },
    addReading({ readingId, deviceId, sensorId, valueAt, value }) {
      const between = describeSource(deviceId, sensorId);
      makeRoom(maxReadingBytes + between.length);
      let at = writeBytes(bytes, length, beforeId);
      at = writeInteger(bytes, at, readingId);
      at = writeBytes(bytes, at, between);
      at = writeInstant(bytes, at, valueAt);
      at = writeBytes(bytes, at, beforeValue);
      at = writeNumber(bytes, at, value);
      length = writeBytes(bytes, at, afterLast);
    },
    take() {
      const taken = bytes.subarray(0, length);
      // About as much comes next time.
      if (length > 0) bytes = Buffer.allocUnsafe(Math.max(firstRoom, length));
      length = 0;
      return taken;
    },
  };
}

/** What an event says between a reading's id and its time, by sensor. */
const described = new Map<string, { deviceId: string; bytes: Uint8Array }>();
const maxDescribed = 10_000;

function describeSource(deviceId: string, sensorId: string): Uint8Array {
  const known = described.get(sensorId);
  if (known?.deviceId === deviceId) return known.bytes;
  if (described.size >= maxDescribed) described.clear();
  const text = `,"deviceId":${JSON.stringify(deviceId)},"sensor":"${sensorId}","timestamp":"`;
  const bytes = Buffer.from(text);
  described.set(sensorId, { deviceId, bytes });
  return bytes;
}

export function createLive({ bus, counters, maxClients }: LiveOptions): Live {
  /** Who listens to the same, by the device, and `undefined` for all of them. */
  const audiences = new Map<string | undefined, { clients: Set<LiveClient>; unsent: Unsent }>();
  let count = 0;
  let isFlushDue = false;

  /** `write` is asked for the event once for everybody who listens to all devices, and once for those of the one. */
  function tell(deviceId: string, write: (into: Unsent) => void): void {
    const all = audiences.get(undefined);
    const ofDevice = audiences.get(deviceId);
    if (all !== undefined) write(all.unsent);
    if (ofDevice !== undefined) write(ofDevice.unsent);
    if (isFlushDue || (all === undefined && ofDevice === undefined)) return;
    isFlushDue = true;
    setImmediate(flush); // what one commit has brought goes out in one piece
  }

  const broadcast = (event: string, deviceId: string, data: object): void =>
    tell(deviceId, (unsent) => unsent.add(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`));

  function flush(): void {
    isFlushDue = false;
    for (const { clients, unsent } of audiences.values()) {
      const chunk = unsent.take(); // once, however many listen
      if (chunk.length > 0) for (const client of clients) client.send(chunk);
    }
  }

  function join(wanted: string | undefined, client: LiveClient): void {
    const audience = audiences.get(wanted) ?? { clients: new Set(), unsent: createUnsent() };
    audiences.set(wanted, audience);
    audience.clients.add(client);
    count += 1;
    stopListening ??= bus.on("reading.stored", broadcastReading);
  }

  function leave(wanted: string | undefined, client: LiveClient): void {
    const audience = audiences.get(wanted);
    if (audience?.clients.delete(client) !== true) return;
    if (audience.clients.size === 0) audiences.delete(wanted);
    count -= 1;
    if (count > 0) return;
    stopListening?.();
    stopListening = undefined;
  }

  const everybody = (): LiveClient[] => [...audiences.values()].flatMap(({ clients }) => [...clients]);

  const broadcastReading = (reading: EventMap["reading.stored"]): void =>
    tell(reading.deviceId, (unsent) => unsent.addReading(reading));
  /** Takes the listener away again: where nobody listens, nobody tells of each reading. */
  let stopListening: (() => void) | undefined;
  bus.on("device.status", (data) => broadcast("status", data.deviceId, data));
  bus.on("alert", ({ event, deviceId, data }) => broadcast(event, deviceId, data));

  const heartbeat = setInterval(() => {
    for (const client of everybody()) client.send(encoder.encode(": alive\n\n"));
  }, heartbeatMs);
  heartbeat.unref();

  return {
    open(wanted, cutOff) {
      if (count >= maxClients) {
        counters.increment("live.refused");
        throw new DomainError("unavailable", "too many clients listen already", { retryAfterSeconds: 30 });
      }
      let client: LiveClient;
      const stream = new ReadableStream<Uint8Array>(
        {
          start(controller) {
            client = {
              send(chunk) {
                if ((controller.desiredSize ?? 0) <= 0) {
                  leave(wanted, client);
                  counters.increment("live.dropped");
                  cutOff();
                  return;
                }
                controller.enqueue(chunk);
              },
              end() {
                leave(wanted, client);
                controller.close();
              },
            };
            join(wanted, client);
            controller.enqueue(encoder.encode("retry: 2000\n\n"));
          },
          cancel: () => leave(wanted, client),
        },
        new ByteLengthQueuingStrategy({ highWaterMark: maxWaitingBytes }),
      );
      return new Response(stream, {
        headers: { "Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no" },
      });
    },
    count: () => count,
    close() {
      clearInterval(heartbeat);
      flush();
      for (const client of everybody()) client.end();
    },
  };
}
