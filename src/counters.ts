// Counts of what was dropped, refused or went wrong, and of what went well beside it. Every limit of the gateway has one,
// so that nothing is lost quietly. Each stands in the table below with what it means: what is logged at the end, `$SYS`,
// `/metrics` and docs/metrics.md are all made from it.

/** A counter, or several that differ in one word: then each word has its meaning too. */
interface Entry {
  help: string;
  /** What tells the counters of a family apart, each with its meaning. */
  reasons?: Readonly<Record<string, string>>;
  /** Its name in Prometheus, where it is not that of the family. */
  metric?: string;
}

/** By name, dotted; a counter of a family has its reason as the last part. The texts are for whoever reads a dashboard. */
export const counterTable = {
  "readings.stored": { help: "Readings stored, whichever way they came; resends are not among them" },

  "readings.refused": {
    help: "Readings refused because less than database.min_free of the disk was free; nothing of them was acknowledged",
  },

  "mqtt.readings": { help: "Readings stored that came over MQTT" },
  "mqtt.resends": { help: "Readings over MQTT that had been stored before: the same message again" },
  "mqtt.clock_ahead": { help: "Readings over MQTT more than 24 hours ahead, stored with the gateway's own time" },
  "mqtt.foreign_components": {
    help: "Sensors and actors in announcements that belong to another device; they stay there",
  },
  "mqtt.rejected": {
    help: "Messages over MQTT that were acknowledged and not taken",
    metric: "mqtt_messages_rejected",
    reasons: {
      not_json: "not a JSON object in UTF-8",
      bad_reading: "a reading without a valid sensor, value or time",
      bad_response: "an answer to a check without a valid device or status",
      bad_announcement: "an announcement that is not as the API has it",
      unknown_sensor: "a reading of a sensor that nobody has announced",
      unknown_device: "an answer to a check of a device that nobody has announced",
      too_large: "larger than mqtt.max_payload_bytes",
      too_many_devices: "a new device past mqtt.max_devices",
      forbidden: "not its sender's to publish; it was forwarded to nobody either",
    },
  },
  "mqtt.gate": {
    help: "MQTT connections that were closed for what they sent, left unsaid or left unread",
    metric: "mqtt_connections_closed",
    reasons: {
      not_connect: "the first packet was no CONNECT",
      too_large: "a packet larger than mqtt.max_packet_bytes, or a CONNECT larger than mqtt.max_connect_bytes",
      malformed: "a packet that is none, or that no client may send",
      bad_text: "text that is not UTF-8, or has U+0000 in it",
      bad_topic: "a topic or a filter that may not be",
      unsupported_version: "a protocol version other than 3.1 and 3.1.1",
      connect_timeout: "no CONNECT within mqtt.connect_timeout",
      keepalive_timeout: "silent for one and a half times of its keep-alive",
      drain_timeout: "nothing of what was sent to it was read for mqtt.drain_timeout",
      unread_full: "more than mqtt.max_unread_bytes were left unread",
      unread_total_full: "behind with reading when mqtt.max_unread_bytes_total were left unread by all",
      address_full: "past mqtt.max_connections_per_address",
    },
  },
  "mqtt.inflight_waits": {
    help: "Times that a client had mqtt.max_inflight messages unacknowledged, and its next ones waited",
  },
  "mqtt.connections_dropped": { help: "MQTT connections past mqtt.max_connections, closed unheard" },
  "mqtt.handshakes_refused": { help: "WebSocket handshakes that are none (400)" },
  "mqtt.connections_refused": {
    help: "CONNECTs that were answered with a refusal",
    reasons: {
      identifier_rejected:
        "a client id that is somebody else's, none where a session was to be kept, or no room for one",
      unavailable: "the login failed by a fault of the gateway, or took too long",
      bad_credentials: "a name that is known with a wrong proof, or a key that is not",
      not_authorized: "no credentials where some are needed, or too many attempts",
    },
  },
  "mqtt.connection_errors": { help: "Errors on MQTT connections that were no clients yet" },
  "mqtt.client_errors": { help: "Errors on the connections of MQTT clients, also of those that the gateway closes" },
  "mqtt.broker_errors": { help: "Faults inside the broker library" },
  "mqtt.hook_errors": { help: "Faults in the gateway's own part of the broker; what had caused them was refused" },
  "mqtt.subscriptions_refused": { help: "Subscriptions that were not allowed" },
  "mqtt.subscriptions_over_limit": { help: "Subscriptions past mqtt.max_subscriptions" },
  "mqtt.persistence_errors": { help: "Changes of sessions, queues or retained messages that could not be written" },
  "mqtt.queue_dropped": {
    help: "Messages dropped because a queue was full: mqtt.max_queued_messages or mqtt.max_queued_bytes",
  },
  "mqtt.retained_refused": {
    help: "Retained messages not kept, past mqtt.max_retained_messages or mqtt.max_retained_bytes",
  },
  "mqtt.sessions_dropped": { help: "Stored sessions that were over mqtt.max_sessions at the start" },
  "mqtt.unreleased_refused": {
    help: "QoS 2 messages not taken, past mqtt.max_unreleased_messages or mqtt.max_unreleased_total",
  },
  "mqtt.connections_revoked": { help: "Connections ended because what they logged in with was replaced or taken away" },
  "mqtt.sessions_refused": { help: "Sessions that were to be kept, past mqtt.max_sessions" },
  "mqtt.sessions_expired": { help: "Sessions ended because their clients stayed away for mqtt.session_expiry_days" },

  "http.refused": {
    help: "Requests that were answered with an error",
    metric: "http_requests_refused",
    reasons: {
      invalid: "input that breaks a rule (400)",
      unauthenticated: "no token, or one that is not valid (401)",
      bad_credentials: "a login with a wrong name or password (401)",
      forbidden: "not allowed with these credentials (403)",
      quota_exceeded: "what was bought is used up (403)",
      not_found: "no such path or thing (404)",
      conflict: "already taken, or past one of the limits on what may exist (409)",
      too_large: "a body larger than server.max_body_bytes (413)",
      rate_limited: "too many calls or attempts (429)",
      unavailable: "the store takes no writes now, or there is no room for another listener (503)",
    },
  },
  "http.errors": { help: "Requests that failed by a fault of the gateway (500)" },
  "http.bodies_refused": { help: "Request bodies larger than server.max_body_bytes" },
  "http.bodies_cut_off": { help: "Request bodies that ended early" },
  "http.calls_refused": { help: "Calls of /v1 past the rate limit" },
  "http.callers_forgotten": {
    help: "Callers whose spent budget of calls or attempts was forgotten, because ten thousand others had come since",
  },
  "http.connections_dropped": { help: "HTTP connections past server.max_connections, closed unheard" },
  "http.malformed": { help: "HTTP requests that are none (400)" },
  "http.headers_refused": { help: "HTTP requests whose headers are larger than 8 KiB (431)" },
  "http.timeouts": { help: "HTTP requests that took too long to arrive (408)" },
  "auth.attempts_refused": { help: "Failed logins and registrations past auth.attempts_burst, over HTTP and MQTT" },
  "live.refused": { help: "Listeners of /v1/live past server.max_live_clients" },
  "live.dropped": { help: "Listeners of /v1/live that were cut off because they did not read" },

  "webhooks.delivered": { help: "Webhook deliveries that their receivers have taken" },
  "webhooks.attempts_failed": { help: "Tries of webhook deliveries that failed; most are tried again" },
  "webhooks.dropped": { help: "Webhook deliveries given up past webhooks.max_pending" },

  "tls.handshakes_failed": { help: "TLS connections that ended before they were secured" },
  "tls.reloads_failed": { help: "Times that a new certificate could not be read; the one before it stays" },

  "retention.readings": {
    help: "Readings removed, their sums kept",
    metric: "retention_readings_removed",
    reasons: {
      age: "older than retention.raw_days, or than their sensor's own limit",
      size: "the oldest, because the store had reached database.max_size",
    },
  },
  "retention.rollups": {
    help: "Sums by hour and day removed, older than retention.rollup_days",
    metric: "retention_rollups_removed",
  },
  "retention.bytes": {
    help: "Bytes of the store's file given back to the disk",
    metric: "retention_given_back_bytes",
  },
  "retention.too_large": {
    help: "Times that the store stayed above database.max_size with no readings left that may go",
  },
  "store.floors": { help: "Times that less than database.min_free of the disk was free" },

  "store.commits": { help: "Transactions committed and synced to the disk" },
  "store.commits_failed": { help: "Transactions that failed; nothing of them was acknowledged" },
  "store.syncs_failed": { help: "Syncs that the disk failed, of what had been acknowledged (database.durability)" },
  "store.checkpoints_failed": { help: "Times that the write-ahead log could not be carried into the store" },
  "store.damaged": { help: "Times that a damaged page of the store was met" },
  "store.busy": { help: "Times that a transaction waited for another program to let go of the store" },
  "store.writes_refused": { help: "Writes refused past database.max_pending_writes, or while the gateway stopped" },
} as const satisfies Readonly<Record<string, Entry>>;

type Table = typeof counterTable;
type NamesOf<F extends keyof Table> = Table[F] extends { reasons: infer R extends object }
  ? `${F}.${keyof R & string}`
  : F;

/** A counter that has no meaning in the table is none. */
export type CounterName = { [F in keyof Table]: NamesOf<F> }[keyof Table];

export interface CounterInfo {
  name: CounterName;
  /** Its family's name in Prometheus, without prefix and suffix. */
  metric: string;
  help: string;
  /** Which of its family it is, and what that means. */
  reason: { word: string; help: string } | undefined;
}

/** All there are, those of one family together. */
export const counterInfos: readonly CounterInfo[] = Object.entries(counterTable as Record<string, Entry>).flatMap(
  ([family, { help, reasons, metric = family.replaceAll(".", "_") }]): CounterInfo[] =>
    reasons === undefined
      ? [{ name: family as CounterName, metric, help, reason: undefined }]
      : Object.entries(reasons).map(([word, meaning]) => ({
          name: `${family}.${word}` as CounterName,
          metric,
          help,
          reason: { word, help: meaning },
        })),
);

export interface Counters {
  /** Adds `by` (default 1). */
  increment(name: CounterName, by?: number): void;
  get(name: CounterName): number;
  /** Those that have counted anything. */
  snapshot(): Record<string, number>;
}

/** Names are fixed in the table, never taken from input: nothing grows with traffic. */
export function createCounters(): Counters {
  const counts = Object.fromEntries(counterInfos.map(({ name }) => [name, 0])) as Record<CounterName, number>;
  return {
    increment(name, by = 1) {
      counts[name] += by;
    },
    get: (name) => counts[name],
    snapshot: () => Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0)),
  };
}
