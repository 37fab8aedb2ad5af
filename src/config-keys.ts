import * as v from "valibot";
import { logLevels } from "./log.ts";
import { durabilities } from "./store/wal.ts";

// One schema for config.toml and the environment: each key once, with what it means, its default, and what it takes.
// The printed sample, the README's table and the check at the start are made from it.

export interface Key<S extends v.GenericSchema = v.GenericSchema> {
  doc: string;
  default: v.InferOutput<S> | undefined;
  schema: S;
}

const key = <S extends v.GenericSchema>(
  schema: S,
  fallback: v.InferOutput<S>,
  doc: string,
): Key<S> & { default: v.InferOutput<S> } => ({ doc, default: fallback, schema });
const optional = <S extends v.GenericSchema>(schema: S, doc: string): Key<S> & { default: undefined } => ({
  doc,
  default: undefined,
  schema,
});

const string = v.string("must be a string");
const integer = (min: number, max: number) => {
  const message = `must be a whole number from ${min} to ${max}`;
  return v.pipe(v.number(message), v.integer(message), v.minValue(min, message), v.maxValue(max, message));
};
/** Megabytes, from `least` on, or 0 for none. */
const size = (least: number) =>
  v.pipe(
    integer(0, 1_000_000_000),
    v.check((megabytes) => megabytes === 0 || megabytes >= least, `must be 0, or ${least} or more`),
  );
const port = integer(0, 65_535);
const oneOf = <const T extends readonly string[]>(values: T) =>
  v.picklist(values, `must be one of ${values.join(", ")}`);
const peerRule = oneOf(["open", "lan", "off"]);
const ignored = v.union([v.string(), v.number()], "must be a string or a number");
const topicName = v.pipe(
  string,
  v.regex(/^[^#+\0$][^#+\0]*$/, "must be a topic name: not empty, without # + and NUL, not beginning with $"),
  v.regex(/[^/]$/, "must not end with /"),
);

/** Secrets that stand in documents and examples: whoever copies one has none. */
const sampleSecrets = [
  "your-secret-key",
  "your_secret_key",
  "changeme",
  "change-me",
  "secret",
  "jwt-secret",
  "jwt_secret",
];

const jwtSecret = v.pipe(
  string,
  v.check(
    (secret) => !sampleSecrets.includes(secret.toLowerCase()),
    "is a sample that everybody knows; leave it out and one is generated",
  ),
  v.check((secret) => Buffer.byteLength(secret) >= 32, "must be 32 bytes or longer; leave it out and one is generated"),
);

const price = v.pipe(
  v.number("must be a number"),
  v.minValue(0, "must be 0 or more"),
  v.maxValue(1_000_000, "must not be more than 1000000"),
  v.check((amount) => Number.isInteger(toMicros(amount)), "must not be finer than a millionth"),
);

/** Millionths of a decimal number, by its digits: 0.001 is 1000 and not 1000.0000000000001. */
export function toMicros(amount: number): number {
  const [whole = "0", fraction = ""] = amount.toFixed(10).split(".");
  return Number(whole) * 1_000_000 + Number(`${fraction.slice(0, 6)}.${fraction.slice(6)}`);
}

export const product = v.strictObject({
  id: v.pipe(string, v.regex(/^[A-Za-z0-9._-]{1,64}$/, "must be 1 to 64 letters, digits, dots, underscores or dashes")),
  name: string,
  type: oneOf(["per_read", "subscription"]),
  price,
  currency: v.optional(v.pipe(string, v.regex(/^[A-Z]{3}$/, "must be a currency's three letters")), "USD"),
  description: v.optional(string),
  access: v.optional(oneOf(["raw", "aggregated"]), "raw"),
});

const defaultProducts: v.InferOutput<typeof product>[] = [
  {
    id: "prod_raw_streams",
    name: "Raw Data Streams",
    type: "per_read",
    price: 0.001,
    currency: "USD",
    description: "Access raw sensor data in real-time",
    access: "raw",
  },
  {
    id: "prod_aggregated",
    name: "Aggregated Metrics",
    type: "subscription",
    price: 99,
    currency: "USD",
    access: "aggregated",
  },
];

export const rulePattern = /^(readwrite|read|write) +(\S.*)$/;

const megabyte = 1024 * 1024;
/** What an MQTT packet has besides its payload: its header, its topic and more. */
export const maxHeaderBytes = 1024;

export const sections = {
  server: {
    address: key(
      v.pipe(string, v.regex(/^(?:[^:[\]]*|\[[^\]]+\])(?::\d{1,5})?$/, "must be host:port, :port or host")),
      ":8080",
      "where the API listens; an empty host is every interface",
    ),
    port: optional(port, "the API's port; wins over the one in `address`; 0 takes a free one"),
    jwt_secret: optional(
      jwtSecret,
      "signs the tokens; 32 bytes or longer; absent, one is generated and kept in the data folder",
    ),
    trusted_proxies: key(
      v.array(v.pipe(string, v.ip("must be an IP address"))),
      [] as string[],
      "addresses of reverse proxies whose X-Forwarded-For is believed",
    ),
    max_body_bytes: key(
      integer(1_024, 16 * megabyte),
      262_144,
      "the largest request body; a larger one is answered 413",
    ),
    max_connections: key(integer(1, 65_535), 512, "HTTP connections at once, and as many over HTTPS"),
    max_live_clients: key(integer(1, 10_000), 50, "clients of /v1/live at once; one more is answered 503"),
    rate_limit_burst: key(
      integer(1, 1_000_000),
      100,
      "calls of /v1 at once, by API key, user or address; one more is answered 429",
    ),
    rate_limit_per_minute: key(integer(1, 10_000_000), 1_000, "calls of /v1 in a minute after that"),
    public_metrics: key(
      v.boolean("must be true or false"),
      false,
      "whether programs on this machine may read /metrics without a token",
    ),
    log_level: key(oneOf(logLevels), "info", "what is logged: debug, info, warn or error"),
  },
  database: {
    path: key(
      v.pipe(string, v.nonEmpty("must not be empty")),
      "data/lambdaiot.db",
      "the store's file; its folder holds the token secret and own certificates too",
    ),
    durability: key(
      oneOf(durabilities),
      "full",
      "when a write counts: `full`, when the disk has it; `normal`, which has it a second later; `relaxed`, some time",
    ),
    max_recent_readings: key(
      integer(1_000, 1_000_000),
      131_072,
      "readings kept in memory, 40 bytes each; beyond it the older half goes into compressed blocks",
    ),
    max_wal: key(
      integer(1, 1_024),
      16,
      "megabytes of changes that gather in the write-ahead log before they are carried into the store's file",
    ),
    max_pending_writes: key(
      integer(100, 10_000_000),
      100_000,
      "writes that may wait for their commit; more are refused",
    ),
    max_size: key(
      size(16),
      0,
      "megabytes that the store's file may take up, 16 or more; then the oldest readings go first; 0: as many as it needs",
    ),
    min_free: key(
      size(1),
      64,
      "megabytes of the disk that stay free: below, no readings are stored or acknowledged until there is room; 0: no limit",
    ),
    host: optional(ignored, "accepted and ignored: the store is built in"),
    port: optional(ignored, "accepted and ignored"),
    user: optional(ignored, "accepted and ignored"),
    password: optional(ignored, "accepted and ignored"),
    name: optional(ignored, "accepted and ignored"),
  },
  retention: {
    raw_days: key(
      integer(0, 36_500),
      90,
      "days for which readings are kept, unless their sensor's `retention_days` says otherwise; 0: for ever",
    ),
    rollup_days: key(
      integer(0, 36_500),
      3_650,
      "days for which sums by hour and day are kept, and no shorter than the readings themselves; 0: for ever",
    ),
  },
  mqtt: {
    broker: key(
      string,
      "tcp://localhost:1883",
      "this gateway's own listener; the broker is built in, so a remote host is refused",
    ),
    address: key(string, "", "the interface the broker listens on; empty is every one"),
    port: optional(port, "the broker's port; wins over the one in `broker`; 0 takes a free one"),
    topic: key(topicName, "lambdaiot", "carries readings, checks and commands; `{topic}/discovery` the announcements"),
    client_id: key(
      string,
      "lambdaiot-core",
      "accepted for the document's sake: the gateway is no client of its own broker",
    ),
    username: key(string, "", "with `password`, required of every device"),
    password: key(string, "", "with `username`, required of every device"),
    anonymous: key(peerRule, "lan", "who may connect without credentials: open, lan or off"),
    sys_interval: key(
      integer(0, 86_400),
      10,
      "seconds between two updates of the `$SYS` tree, which administrators may subscribe to; 0 turns it off",
    ),
    device_check_interval: key(
      integer(1, 86_400),
      60,
      "seconds between two checks of a device; after three without a sign of life it is lost",
    ),
    max_payload_bytes: key(
      integer(1_024, 16 * megabyte),
      65_536,
      "the largest reading or announcement; a larger one is acknowledged, counted and not stored",
    ),
    max_packet_bytes: key(
      integer(2_048, 32 * megabyte),
      262_144,
      "the largest MQTT packet, 1024 bytes more than `max_payload_bytes` or larger; who sends a larger one is cut off",
    ),
    max_connect_bytes: key(integer(256, 65_536), 4_096, "the largest CONNECT, its will with it"),
    max_inflight: key(
      integer(1, 10_000),
      256,
      "QoS 1 and 2 messages that one client may have without acknowledgement; more wait",
    ),
    max_unread_bytes: key(
      integer(65_536, 1_024 * megabyte),
      megabyte,
      "bytes that one client may leave unread, `max_packet_bytes` at least; who is further behind is cut off",
    ),
    max_unread_bytes_total: key(
      integer(megabyte, 1_024 * megabyte),
      64 * megabyte,
      "bytes that all clients together may leave unread; then those who are behind are cut off",
    ),
    drain_timeout: key(integer(1, 3_600), 5, "seconds in which a client must read some of what waits for it"),
    connect_timeout: key(integer(1, 300), 10, "seconds in which a new connection must say CONNECT"),
    max_connections_per_address: key(
      integer(1, 65_535),
      100,
      "MQTT connections from one address at once, this machine's own too; trusted proxies are not counted",
    ),
    max_devices: key(integer(1, 1_000_000), 10_000, "devices that announcements may bring into being"),
    max_connections: key(
      integer(1, 65_535),
      1_000,
      "MQTT connections at once, over TCP, and as many over TLS and over WebSocket",
    ),
    rules: key(
      v.array(v.pipe(string, v.regex(rulePattern, "must be read, write or readwrite, and a topic pattern"))),
      [] as string[],
      'what devices with a token may use besides the gateway\'s topics: "readwrite tele/%u/#"; %u is the username, %c the client id',
    ),
    max_subscriptions: key(integer(1, 10_000), 50, "subscriptions of one client"),
    max_sessions: key(integer(1, 1_000_000), 1_000, "sessions that outlive their connection"),
    session_expiry_days: key(integer(1, 3_650), 7, "days after which the session of a client that stays away is over"),
    max_queued_messages: key(integer(1, 60_000), 1_000, "messages that wait for one session; more are dropped"),
    max_queued_bytes: key(
      integer(65_536, 1_024 * megabyte),
      64 * megabyte,
      "bytes that wait for all sessions together",
    ),
    max_unreleased_messages: key(
      integer(1, 65_535),
      1_000,
      "QoS 2 messages of one client that may wait for its PUBREL; one more ends its connection",
    ),
    max_unreleased_total: key(integer(1, 10_000_000), 100_000, "the same of all clients together"),
    max_retained_messages: key(integer(0, 1_000_000), 10_000, "retained messages"),
    max_retained_bytes: key(integer(0, 1_024 * megabyte), 16 * megabyte, "bytes of retained messages"),
    resend_window: key(
      integer(256, 500_000),
      10_000,
      "readings without value_at for which a resend is still recognised",
    ),
  },
  tls: {
    certificate: optional(
      v.pipe(string, v.nonEmpty("must not be empty")),
      "PEM file of the certificate, the chain behind it; absent, the one that `lambdaiot cert init` made, and without that no TLS",
    ),
    key: optional(v.pipe(string, v.nonEmpty("must not be empty")), "PEM file of its private key"),
    address: optional(
      string,
      "the interface that TLS is on, empty for every one; absent, those of `mqtt.address` and `server.address`",
    ),
    mqtts_port: key(port, 8_883, "the broker's port for TLS; 0 takes a free one"),
    https_port: key(port, 8_443, "the API's port for TLS; 0 takes a free one"),
    handshake_timeout: key(integer(1, 300), 10, "seconds in which a TLS handshake must be done"),
  },
  auth: {
    registration: key(
      oneOf(["open", "lan", "first", "off"]),
      "lan",
      "who may register: open, lan, first (only the first user), off",
    ),
    public_devices: key(peerRule, "lan", "who may list the devices without a token: open, lan or off"),
    attempts_burst: key(integer(1, 10_000), 20, "failed logins, and registrations, from one address at once"),
    max_api_keys: key(integer(1, 10_000), 20, "API keys that one user may have"),
    attempts_per_minute: key(
      integer(1, 10_000),
      10,
      "failed logins, and registrations, from one address in a minute after that",
    ),
  },
  webhooks: {
    max_webhooks: key(integer(1, 1_000), 20, "webhooks that may be registered"),
    max_pending: key(
      integer(10, 1_000_000),
      10_000,
      "deliveries that may wait for one webhook; the oldest are given up and counted",
    ),
  },
  alerts: {
    max_rules: key(integer(1, 100_000), 500, "alert rules that may exist"),
  },
  products: {
    catalog: key(
      v.pipe(
        v.array(product, "must be a list of products"),
        v.check(
          (products) => new Set(products.map(({ id }) => id)).size === products.length,
          "must not name an id twice",
        ),
      ),
      defaultProducts,
      "what users may buy access to; price per read, or per month of a subscription; no payment is taken",
    ),
    max_purchases: key(
      integer(1, 1_000_000),
      1_000,
      "purchases that one user may have; the oldest that is used up makes room",
    ),
  },
} as const satisfies Record<string, Record<string, Key>>;
