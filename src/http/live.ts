import type { Bus, EventMap } from "../core/events.ts";
import { DomainError } from "../core/errors.ts";
import { formatInstant } from "../core/time.ts";
import type { Counters } from "../counters.ts";

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

export function createLive({ bus, counters, maxClients }: LiveOptions): Live {
  /** Who listens to the same, by the device, and `undefined` for all of them. */
  const audiences = new Map<string | undefined, { clients: Set<LiveClient>; unsent: string }>();
  let count = 0;
  let isFlushDue = false;

  function broadcast(event: string, deviceId: string, data: object): void {
    let text: string | undefined;
    for (const wanted of [undefined, deviceId]) {
      const audience = audiences.get(wanted);
      if (audience !== undefined) audience.unsent += text ??= `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
    }
    if (text === undefined || isFlushDue) return;
    isFlushDue = true;
    setImmediate(flush); // what one commit has brought goes out in one piece
  }

  function flush(): void {
    isFlushDue = false;
    for (const audience of audiences.values()) {
      if (audience.unsent === "") continue;
      const chunk = encoder.encode(audience.unsent); // once, however many listen
      audience.unsent = "";
      for (const client of audience.clients) client.send(chunk);
    }
  }

  function join(wanted: string | undefined, client: LiveClient): void {
    const audience = audiences.get(wanted) ?? { clients: new Set(), unsent: "" };
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

  const broadcastReading = ({ readingId, deviceId, sensorId, valueAt, value }: EventMap["reading.stored"]): void =>
    broadcast("reading", deviceId, {
      id: readingId,
      deviceId,
      sensor: sensorId,
      timestamp: formatInstant(valueAt),
      value,
    });
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
