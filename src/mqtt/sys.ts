import { getHeapStatistics } from "node:v8";
import { version } from "embedded:package";
import type { Aedes, Client, PublishPacket, Subscription } from "aedes";
import { counterInfos, type Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import type { Traffic } from "./gate.ts";
import type { Persistence } from "./persistence.ts";

// The broker in numbers, for programs that watch it: on topics below `$SYS/broker`, named as Mosquitto names them, since
// that is what exporters and dashboards know; what Mosquitto has no name for is below `$SYS/broker/lambdaiot`. Nothing of
// it is stored or queued: whoever subscribes gets what is so now, and from then on what has become of it.

export interface BrokerFigures extends Readonly<Traffic> {
  connected: number;
  /** The most that were connected at once. */
  maximum: number;
  /** Sessions whose clients are away. */
  disconnected: number;
  /** Sessions that outlive their connection, their clients here or away. */
  sessions: number;
  subscriptions: number;
  queued: number;
  queuedBytes: number;
  retained: number;
  retainedBytes: number;
}

export interface Sys {
  figures(): BrokerFigures;
  stop(): void;
}

export interface SysOptions {
  aedes: Aedes;
  persistence: Pick<Persistence, "stats">;
  traffic: Readonly<Traffic>;
  counters: Counters;
  log: Log;
  /** 0: no tree, figures alone. */
  intervalMs: number;
}

const root = "$SYS/broker";

/** Whether a topic is one of these. Aedes has some of its own below `$SYS`, with everybody's client ids and subscriptions. */
export const isOwnTopic = (topic: string): boolean => topic.startsWith(`${root}/`);

/** Minutes over which loads are averaged, as in Mosquitto. */
const loadMinutes = [1, 5, 15];

/** Starts to count, and to publish where there is an interval. */
export function startSys({ aedes, persistence, traffic, counters, log, intervalMs }: SysOptions): Sys {
  let maximum = 0;
  let heapMaximum = 0;
  const startedAt = performance.now();
  const dropped = (): number => counters.get("mqtt.queue_dropped");
  const loads: Load[] = [
    { name: "messages/received", read: () => traffic.packetsReceived },
    { name: "messages/sent", read: () => traffic.packetsSent },
    { name: "publish/dropped", read: dropped },
    { name: "publish/received", read: () => traffic.publishesReceived },
    { name: "publish/sent", read: () => traffic.publishesSent },
    { name: "bytes/received", read: () => traffic.bytesReceived },
    { name: "bytes/sent", read: () => traffic.bytesSent },
    { name: "sockets", read: () => traffic.sockets },
    { name: "connections", read: () => traffic.connects },
  ].map(({ name, read }) => createLoad(name, read));
  let loadedAt = startedAt;

  function figures(): BrokerFigures {
    let connected = 0;
    let here = 0;
    const stats = persistence.stats();
    let { subscriptions } = stats;
    for (const client of Object.values(clientsOf(aedes))) {
      connected += 1;
      if (client.clean) subscriptions += Object.keys(client.subscriptions).length;
      else here += 1;
    }
    return {
      ...traffic,
      ...stats,
      connected,
      maximum,
      disconnected: Math.max(0, stats.sessions - here),
      subscriptions,
    };
  }

  /** Everything there is to say now. */
  function renderTree(): [topic: string, payload: string][] {
    const now = figures();
    const heap = getHeapStatistics().used_heap_size;
    heapMaximum = Math.max(heapMaximum, heap);
    const values: Record<string, string | number> = {
      version: `lambdaiot version ${version}`,
      uptime: `${Math.floor((performance.now() - startedAt) / 1_000)} seconds`,
      "clients/total": now.connected + now.disconnected,
      "clients/connected": now.connected,
      "clients/active": now.connected,
      "clients/disconnected": now.disconnected,
      "clients/inactive": now.disconnected,
      "clients/maximum": now.maximum,
      "clients/expired": counters.get("mqtt.sessions_expired"),
      "messages/received": now.packetsReceived,
      "messages/sent": now.packetsSent,
      "messages/stored": now.queued + now.retained,
      "publish/messages/received": now.publishesReceived,
      "publish/messages/sent": now.publishesSent,
      "publish/messages/dropped": dropped(),
      "publish/bytes/received": now.payloadBytesReceived,
      "publish/bytes/sent": now.payloadBytesSent,
      "bytes/received": now.bytesReceived,
      "bytes/sent": now.bytesSent,
      "subscriptions/count": now.subscriptions,
      "retained messages/count": now.retained,
      "store/messages/count": now.queued + now.retained,
      "store/messages/bytes": now.queuedBytes + now.retainedBytes,
      "heap/current": heap,
      "heap/maximum": heapMaximum,
      "lambdaiot/sessions": now.sessions,
      "lambdaiot/queued/messages": now.queued,
      "lambdaiot/queued/bytes": now.queuedBytes,
      "lambdaiot/retained/bytes": now.retainedBytes,
    };
    for (const { name, averages } of loads) {
      for (const [i, minutes] of loadMinutes.entries())
        values[`load/${name}/${minutes}min`] = (averages[i] as number).toFixed(2);
    }
    for (const { name } of counterInfos) values[`lambdaiot/${name.replaceAll(".", "/")}`] = counters.get(name);
    return Object.entries(values).map(([name, value]) => [`${root}/${name}`, String(value)]);
  }

  /** To who has just subscribed, one after the other: a client that does not read has no pile of them before it. */
  async function tell(client: Client, filters: readonly string[][]): Promise<void> {
    for (const [topic, payload] of renderTree()) {
      if (client.closed) return;
      const levels = topic.split("/");
      if (!filters.some((filter) => matches(filter, levels))) continue;
      await new Promise<void>((resolve) => client.publish(toPacket(topic, payload, true), () => resolve()));
    }
  }

  function update(): void {
    const now = performance.now();
    for (const load of loads) load.update((now - loadedAt) / 1_000);
    loadedAt = now;
    for (const [topic, payload] of renderTree()) aedes.publish(toPacket(topic, payload, false), () => undefined);
  }

  function noteSubscriptions(subscriptions: readonly Subscription[], client: Client): void {
    // Those that were refused come along; [MQTT-4.7.2-1]: a wildcard does not stand for what begins with `$`.
    const filters = subscriptions
      .filter(({ topic, qos }) => (qos as number) !== refused && topic.startsWith("$SYS"))
      .map(({ topic }) => topic.split("/"));
    if (filters.length === 0) return;
    tell(client, filters).catch((error: unknown) => {
      counters.increment("mqtt.hook_errors");
      log.error("a broker hook failed", { error });
    });
  }

  aedes.on("client", () => {
    maximum = Math.max(maximum, aedes.connectedClients);
  });
  const timer = intervalMs > 0 ? setInterval(update, intervalMs) : undefined;
  if (timer !== undefined) aedes.on("subscribe", noteSubscriptions);

  return { figures, stop: () => clearInterval(timer) };
}

/** SUBACK's return code for a subscription that is none. */
const refused = 128;

/** QoS 0: nobody is owed an old number. */
const toPacket = (topic: string, payload: string, retain: boolean): PublishPacket => ({
  cmd: "publish",
  topic,
  payload: Buffer.from(payload),
  qos: 0,
  retain,
  dup: false,
});

/** Not in its types: the connections by client id. */
const clientsOf = (aedes: Aedes) =>
  (aedes as unknown as { clients: Record<string, { clean: boolean; subscriptions: object }> }).clients;

/** Whether a filter whose first level is no wildcard matches a topic, both by their levels. */
function matches(filter: readonly string[], topic: readonly string[]): boolean {
  for (const [i, level] of filter.entries()) {
    if (level === "#") return true;
    if (level !== topic[i] && (level !== "+" || topic[i] === undefined)) return false;
  }
  return filter.length === topic.length;
}

interface Load {
  name: string;
  /** For each of `loadMinutes`, per minute. */
  averages: number[];
  /** To be told how many seconds have gone since the last time. */
  update(seconds: number): void;
}

/** A moving average as Mosquitto computes it: what came since the last time, per minute, weighs the more the longer ago that was. */
export function createLoad(name: string, read: () => number): Load {
  let before = read();
  const averages = loadMinutes.map(() => 0);
  return {
    name,
    averages,
    update(seconds) {
      const total = read();
      const perMinute = ((total - before) * 60) / seconds;
      before = total;
      for (const [i, minutes] of loadMinutes.entries()) {
        const rest = Math.exp(-seconds / (minutes * 60));
        averages[i] = perMinute + rest * ((averages[i] as number) - perMinute);
      }
    },
  };
}
