import type { Bus } from "../core/events.ts";
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

export function createLive({ bus, counters, maxClients }: LiveOptions): Live {
  const clients = new Set<{
    wants: (deviceId: string) => boolean;
    send: (chunk: Uint8Array) => void;
    end: () => void;
  }>();

  function broadcast(event: string, deviceId: string, data: object): void {
    let chunk: Uint8Array | undefined; // written once, and kept once, however many listen
    for (const client of clients) {
      if (!client.wants(deviceId)) continue;
      client.send((chunk ??= encoder.encode(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)));
    }
  }

  bus.on("reading.stored", ({ readingId, deviceId, sensorId, valueAt, value }) => {
    if (clients.size === 0) return;
    broadcast("reading", deviceId, {
      id: readingId,
      deviceId,
      sensor: sensorId,
      timestamp: formatInstant(valueAt),
      value,
    });
  });
  bus.on("device.status", (data) => broadcast("status", data.deviceId, data));
  bus.on("alert", ({ event, deviceId, data }) => broadcast(event, deviceId, data));

  const heartbeat = setInterval(() => {
    for (const client of clients) client.send(encoder.encode(": alive\n\n"));
  }, heartbeatMs);
  heartbeat.unref();

  return {
    open(wanted, cutOff) {
      if (clients.size >= maxClients) {
        counters.increment("live.refused");
        throw new DomainError("unavailable", "too many clients listen already", { retryAfterSeconds: 30 });
      }
      let client: Parameters<typeof clients.add>[0];
      const stream = new ReadableStream<Uint8Array>(
        {
          start(controller) {
            const leave = (): void => void clients.delete(client);
            client = {
              wants: (deviceId) => wanted === undefined || deviceId === wanted,
              send(chunk) {
                if ((controller.desiredSize ?? 0) <= 0) {
                  leave();
                  counters.increment("live.dropped");
                  cutOff();
                  return;
                }
                controller.enqueue(chunk);
              },
              end() {
                leave();
                controller.close();
              },
            };
            clients.add(client);
            controller.enqueue(encoder.encode("retry: 2000\n\n"));
          },
          cancel: () => void clients.delete(client),
        },
        new ByteLengthQueuingStrategy({ highWaterMark: maxWaitingBytes }),
      );
      return new Response(stream, {
        headers: { "Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no" },
      });
    },
    count: () => clients.size,
    close() {
      clearInterval(heartbeat);
      for (const client of clients) client.end();
    },
  };
}
