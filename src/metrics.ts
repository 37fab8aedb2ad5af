import { readdirSync, readFileSync, statSync } from "node:fs";
import { cpuUsage, memoryUsage, version as nodeVersion } from "node:process";
import { version } from "embedded:package";
import type { Domain } from "./core/ctx.ts";
import { readFigures } from "./core/figures.ts";
import { probeHealth } from "./core/health.ts";
import { measureStore } from "./core/retention.ts";
import { counterInfos, type Counters } from "./counters.ts";
import type { Live } from "./http/live.ts";
import type { Requests } from "./http/requests.ts";
import type { Broker } from "./mqtt/broker.ts";
import type { RunningProbes } from "./probes.ts";
import type { Store } from "./store/open.ts";

// What `GET /metrics` says, in the text format of Prometheus (0.0.4): the counters, what there is now, and what the
// process takes. No label has a value that comes from outside: neither clients nor devices nor topics are told apart.

interface Metric {
  type: "gauge" | "counter";
  help: string;
  /** The name of the one label, where there is one, and the values that it takes. */
  labels?: string;
}

/** All but the counters, which stand in counters.ts. Base units, names as client libraries have them where they have one. */
const table = {
  lambdaiot_build_info: { type: "gauge", help: "Always 1; the label tells the version", labels: "version" },
  lambdaiot_health_score: {
    type: "gauge",
    help: "The score of each part of the health check, 0 to 100",
    labels: "part: database, mqtt, deviceManager, dataProcessor",
  },

  lambdaiot_mqtt_connections: { type: "gauge", help: "MQTT clients that are connected" },
  lambdaiot_mqtt_connections_maximum: { type: "gauge", help: "The most MQTT clients that were connected at once" },
  lambdaiot_mqtt_connections_opened_total: { type: "counter", help: "MQTT connections that were let in" },
  lambdaiot_mqtt_connects_total: { type: "counter", help: "CONNECT packets received" },
  lambdaiot_mqtt_packets_received_total: { type: "counter", help: "MQTT packets received, of any type" },
  lambdaiot_mqtt_packets_sent_total: { type: "counter", help: "MQTT packets sent, of any type" },
  lambdaiot_mqtt_received_bytes_total: { type: "counter", help: "Bytes received over MQTT" },
  lambdaiot_mqtt_sent_bytes_total: { type: "counter", help: "Bytes sent over MQTT" },
  lambdaiot_mqtt_messages_received_total: { type: "counter", help: "PUBLISH packets received" },
  lambdaiot_mqtt_messages_sent_total: {
    type: "counter",
    help: "PUBLISH packets sent, one for each client that gets it",
  },
  lambdaiot_mqtt_payload_received_bytes_total: { type: "counter", help: "Bytes of the payloads of PUBLISH received" },
  lambdaiot_mqtt_payload_sent_bytes_total: { type: "counter", help: "Bytes of the payloads of PUBLISH sent" },
  lambdaiot_mqtt_subscriptions: { type: "gauge", help: "Subscriptions, of clients that are away too" },
  lambdaiot_mqtt_sessions: {
    type: "gauge",
    help: "Sessions that outlive their connection",
    labels: "client: here, away",
  },
  lambdaiot_mqtt_queued_messages: { type: "gauge", help: "Messages that wait in the queues of sessions" },
  lambdaiot_mqtt_queued_bytes: { type: "gauge", help: "Bytes that wait in the queues of sessions" },
  lambdaiot_mqtt_retained_messages: { type: "gauge", help: "Retained messages" },
  lambdaiot_mqtt_retained_bytes: { type: "gauge", help: "Bytes of retained messages" },

  lambdaiot_http_requests_total: {
    type: "counter",
    help: "HTTP requests answered, by API and class of status; none: the caller hung up before",
    labels: "dialect: root, v1, other; status: 2xx, 3xx, 4xx, 5xx, none",
  },
  lambdaiot_http_requests_under_way: { type: "gauge", help: "HTTP requests that are being answered" },
  lambdaiot_live_clients: { type: "gauge", help: "Listeners of /v1/live" },

  lambdaiot_store_healthy: { type: "gauge", help: "1 where the store answers and has taken the last commit, else 0" },
  lambdaiot_store_storing: {
    type: "gauge",
    help: "1 where readings are stored, 0 while less than database.min_free of the disk is free",
  },
  lambdaiot_store_pending_writes: { type: "gauge", help: "Writes that wait for their commit" },
  lambdaiot_store_commit_seconds: { type: "gauge", help: "What a commit takes, a moving average over the last ones" },
  lambdaiot_store_bytes: { type: "gauge", help: "Bytes of the store's file" },
  lambdaiot_store_used_bytes: { type: "gauge", help: "What of the store's file is in use; the rest is used again" },
  lambdaiot_store_wal_bytes: { type: "gauge", help: "Bytes of the store's write-ahead log" },
  lambdaiot_store_free_disk_bytes: { type: "gauge", help: "Bytes that are free on the store's disk" },

  lambdaiot_devices: { type: "gauge", help: "Devices by status", labels: "status: ok, pending, lost, disabled" },
  lambdaiot_alerts_active: {
    type: "gauge",
    help: "Alerts that are active, by severity",
    labels: "severity: info, warning, critical",
  },
  lambdaiot_webhooks: { type: "gauge", help: "Webhooks that are registered" },
  lambdaiot_webhook_deliveries_pending: { type: "gauge", help: "Webhook deliveries that wait to be sent" },

  process_cpu_user_seconds_total: { type: "counter", help: "Processor time in the program" },
  process_cpu_system_seconds_total: { type: "counter", help: "Processor time in the system on the program's behalf" },
  process_cpu_seconds_total: { type: "counter", help: "Both together" },
  process_start_time_seconds: { type: "gauge", help: "When the process started, seconds since 1970" },
  process_resident_memory_bytes: { type: "gauge", help: "Memory of the process that is in RAM" },
  process_open_fds: { type: "gauge", help: "Open file descriptors (Linux)" },
  process_max_fds: { type: "gauge", help: "The most file descriptors that may be open (Linux)" },
  nodejs_version_info: { type: "gauge", help: "Always 1; the label tells the version of Node", labels: "version" },
  nodejs_heap_size_total_bytes: { type: "gauge", help: "Size of the JavaScript heap" },
  nodejs_heap_size_used_bytes: { type: "gauge", help: "What of the JavaScript heap is used" },
  nodejs_external_memory_bytes: { type: "gauge", help: "Memory of JavaScript objects outside the heap" },
  nodejs_eventloop_lag_p99_seconds: {
    type: "gauge",
    help: "How late the event loop is, the 99th percentile of five seconds",
  },
} as const satisfies Record<string, Metric>;

type Sample = { labels: Readonly<Record<string, string>>; value: number };
/** `undefined`: not to be had now, or not on this system. */
type Value = number | readonly Sample[] | undefined;

export interface MetricsOptions {
  domain: Domain;
  store: Store;
  broker: Broker;
  live: Live;
  requests: Requests;
  probes: RunningProbes;
  counters: Counters;
}

export interface Metrics {
  /** All of it, in the text format. What cannot be measured is left out: a store that does not answer is one to be told of. */
  render(): string;
}

const system = { kind: "system" } as const;

export function createMetrics({ domain, store, broker, live, requests, probes, counters }: MetricsOptions): Metrics {
  const maxFds = readMaxFds();
  const counterFamilies = listCounterFamilies();

  function read(): Record<keyof typeof table, Value> {
    const mqtt = broker.figures();
    const isHealthy = store.isHealthy();
    const database = probes.database();
    const size = attempt(() => domain.read(system, measureStore));
    const figures = attempt(() => domain.read(system, readFigures));
    const health = attempt(() => domain.read(system, (ctx) => probeHealth(ctx, probes)));
    const cpu = cpuUsage();
    const memory = memoryUsage();
    return {
      lambdaiot_build_info: [{ labels: { version }, value: 1 }],
      lambdaiot_health_score:
        health && Object.entries(health.metrics).map(([part, { score }]) => ({ labels: { part }, value: score })),

      lambdaiot_mqtt_connections: mqtt.connected,
      lambdaiot_mqtt_connections_maximum: mqtt.maximum,
      lambdaiot_mqtt_connections_opened_total: mqtt.sockets,
      lambdaiot_mqtt_connects_total: mqtt.connects,
      lambdaiot_mqtt_packets_received_total: mqtt.packetsReceived,
      lambdaiot_mqtt_packets_sent_total: mqtt.packetsSent,
      lambdaiot_mqtt_received_bytes_total: mqtt.bytesReceived,
      lambdaiot_mqtt_sent_bytes_total: mqtt.bytesSent,
      lambdaiot_mqtt_messages_received_total: mqtt.publishesReceived,
      lambdaiot_mqtt_messages_sent_total: mqtt.publishesSent,
      lambdaiot_mqtt_payload_received_bytes_total: mqtt.payloadBytesReceived,
      lambdaiot_mqtt_payload_sent_bytes_total: mqtt.payloadBytesSent,
      lambdaiot_mqtt_subscriptions: mqtt.subscriptions,
      lambdaiot_mqtt_sessions: split("client", { here: mqtt.sessions - mqtt.disconnected, away: mqtt.disconnected }),
      lambdaiot_mqtt_queued_messages: mqtt.queued,
      lambdaiot_mqtt_queued_bytes: mqtt.queuedBytes,
      lambdaiot_mqtt_retained_messages: mqtt.retained,
      lambdaiot_mqtt_retained_bytes: mqtt.retainedBytes,

      lambdaiot_http_requests_total: requests
        .counts()
        .map(({ dialect, status, count }) => ({ labels: { dialect, status }, value: count })),
      lambdaiot_http_requests_under_way: requests.underWay(),
      lambdaiot_live_clients: live.count(),

      lambdaiot_store_healthy: Number(isHealthy),
      lambdaiot_store_storing: Number(database.storing),
      lambdaiot_store_pending_writes: probes.processor().pendingWrites,
      lambdaiot_store_commit_seconds: database.commitMs / 1_000,
      lambdaiot_store_bytes: statSync(store.path, { throwIfNoEntry: false })?.size,
      lambdaiot_store_used_bytes: size && size.bytes - size.freeBytes,
      lambdaiot_store_wal_bytes: database.walBytes,
      lambdaiot_store_free_disk_bytes: database.freeBytes,

      lambdaiot_devices: figures && split("status", figures.devices),
      lambdaiot_alerts_active: figures && split("severity", figures.activeAlerts),
      lambdaiot_webhooks: figures?.webhooks,
      lambdaiot_webhook_deliveries_pending: figures?.pendingDeliveries,

      process_cpu_user_seconds_total: cpu.user / 1e6,
      process_cpu_system_seconds_total: cpu.system / 1e6,
      process_cpu_seconds_total: (cpu.user + cpu.system) / 1e6,
      process_start_time_seconds: performance.timeOrigin / 1_000,
      process_resident_memory_bytes: memory.rss,
      process_open_fds: attempt(() => readdirSync("/proc/self/fd").length - 1),
      process_max_fds: maxFds,
      nodejs_version_info: [{ labels: { version: nodeVersion }, value: 1 }],
      nodejs_heap_size_total_bytes: memory.heapTotal,
      nodejs_heap_size_used_bytes: memory.heapUsed,
      nodejs_external_memory_bytes: memory.external,
      nodejs_eventloop_lag_p99_seconds: probes.mqtt().loopLagMs / 1_000,
    };
  }

  return {
    render() {
      const parts = Object.entries(read()).map(([name, value]) => {
        const { type, help } = table[name as keyof typeof table];
        const samples = typeof value === "number" ? [{ labels: {}, value }] : value;
        return renderFamily(name, type, help, samples ?? []);
      });
      for (const { name, help, members } of counterFamilies) {
        const samples = members.map((member) => ({
          labels: member.reason === undefined ? {} : { reason: member.reason.word },
          value: counters.get(member.name),
        }));
        parts.push(renderFamily(name, "counter", help, samples));
      }
      return parts.join("");
    },
  };
}

/** A function, so that nothing newer than Node 20 runs before an old Node is told that it is too old. */
const listCounterFamilies = () =>
  [...Map.groupBy(counterInfos, ({ metric }) => metric)].map(([metric, members]) => ({
    name: `lambdaiot_${metric}_total`,
    help: members[0]?.help ?? "",
    members,
  }));

const split = (label: string, values: Readonly<Record<string, number>>): Sample[] =>
  Object.entries(values).map(([word, value]) => ({ labels: { [label]: word }, value }));

/** Nothing of a family that has no samples now. */
export function renderFamily(name: string, type: Metric["type"], help: string, samples: readonly Sample[]): string {
  if (samples.length === 0) return "";
  const lines = samples.map(({ labels, value }) => {
    const pairs = Object.entries(labels).map(([label, word]) => `${label}="${escape(word).replaceAll('"', '\\"')}"`);
    return `${name}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} ${formatValue(value)}\n`;
  });
  return `# HELP ${name} ${escape(help)}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}

const escape = (text: string): string => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");

/** As Go reads it. */
const formatValue = (value: number): string =>
  Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf";

function attempt<T>(measure: () => T): T | undefined {
  try {
    return measure();
  } catch {
    return undefined;
  }
}

function readMaxFds(): number | undefined {
  const limits = attempt(() => readFileSync("/proc/self/limits", "utf8"));
  const limit = /^Max open files +(\d+)/m.exec(limits ?? "")?.[1];
  return limit === undefined ? undefined : Number(limit);
}

/** docs/metrics.md. */
export function renderMetricsPage(): string {
  const rows = Object.entries(table as Record<string, Metric>).map(
    ([name, { type, labels = "", help }]) => `| \`${name}\` | ${type} | ${labels} | ${help} |`,
  );
  const counterRows = listCounterFamilies().flatMap(({ name, help, members }) => [
    `| \`${name}\` |  | ${help} |`,
    ...members.flatMap(({ reason }) => (reason === undefined ? [] : `|  | \`${reason.word}\` | ${reason.help} |`)),
  ]);
  return `# Metrics

<!-- Written by \`npm run openapi\`. -->

What \`GET /metrics\` says. Every name is there from the start, but for what this system does not tell; counters begin
with 0 at each start. No label tells clients, devices or topics apart.

<!-- prettier-ignore-start -->

## What is counted as dropped, refused, failed or done

Each of these is also a topic below \`$SYS/broker/lambdaiot\`, and logged when the gateway stops.

| counter | reason | meaning |
| --- | --- | --- |
${counterRows.join("\n")}

## What there is, and what comes and goes

| name | type | labels | meaning |
| --- | --- | --- | --- |
${rows.join("\n")}

<!-- prettier-ignore-end -->
`;
}
