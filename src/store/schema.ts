import { blob, index, integer, primaryKey, real, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";

// Every instant is UTC epoch milliseconds. Every `pk` is internal: it never leaves the process, it keeps the hot tables
// narrow, and AUTOINCREMENT promises that the number of a deleted row is never given out again.

export const users = sqliteTable("users", {
  id: text().primaryKey(),
  username: text().notNull(),
  /** `username` as it compares: NFKC and case-folded. */
  usernameKey: text("username_key").notNull().unique(),
  email: text(),
  /** `email` as it compares: case-folded. */
  emailKey: text("email_key").unique(),
  passwordHash: text("password_hash").notNull(),
  role: text({ enum: ["admin", "member"] }).notNull(),
  /** Tokens carry the version they were issued under; raising it makes all older ones worthless. */
  tokenVersion: integer("token_version").notNull().default(0),
  createdAt: integer("created_at").notNull(),
});

export const devices = sqliteTable("devices", {
  pk: integer().primaryKey({ autoIncrement: true }),
  id: text().notNull().unique(),
  /** The name of its own that a device made through /v1 may carry there instead of its UUID. */
  externalId: text("external_id").unique(),
  name: text().notNull(),
  description: text().notNull(),
  location: text().notNull(),
  /** Null: its primary sensor's type. */
  type: text(),
  manufacturer: text(),
  model: text(),
  /** 1 ok, 2 pending, 3 lost, 4 disabled. */
  statusId: integer("status_id").notNull(),
  /** The device has reported a fault, and not yet that it is over. */
  isFaulty: integer("is_faulty", { mode: "boolean" }).notNull().default(false),
  mac: text(),
  /** SHA-256 of the token by which the device proves that it is itself, hexadecimal; null: it has none. */
  tokenHash: text("token_hash"),
  /** The fields that a user has set over REST; an announcement leaves them alone. */
  editedFields: text("edited_fields", { mode: "json" }).$type<string[]>().notNull().default([]),
  /** When it was last seen, as far as that is saved: up to a minute old. What counts is `lastSeenAt` (core/sightings.ts). */
  savedSeenAt: integer("last_seen_at"),
  createdAt: integer("created_at").notNull(),
  updatedAt: integer("updated_at").notNull(),
});

/** Sensors and actors have one shape; what differs is what refers to them. */
const componentColumns = () => ({
  pk: integer().primaryKey({ autoIncrement: true }),
  id: text().notNull().unique(),
  devicePk: integer("device_pk")
    .notNull()
    .references(() => devices.pk, { onDelete: "cascade" }),
  name: text().notNull(),
  type: text().notNull(),
  dataTypeId: integer("data_type_id").notNull(),
  /** The device has announced it. What only users know of, no announcement takes away. */
  announced: integer({ mode: "boolean" }).notNull().default(false),
  /** False once the device announces itself without it. */
  active: integer({ mode: "boolean" }).notNull().default(true),
  editedFields: text("edited_fields", { mode: "json" }).$type<string[]>().notNull().default([]),
  createdAt: integer("created_at").notNull(),
  updatedAt: integer("updated_at").notNull(),
});

export const sensors = sqliteTable(
  "sensors",
  {
    ...componentColumns(),
    /** Null until a reading names one; from then on a reading with another one is refused. */
    unit: text(),
    /** How many days its readings are kept; 0: for ever; null: as long as all others'. */
    retentionDays: integer("retention_days"),
    /** Its readings before this instant, a whole hour, are gone or going; their sums stay. Null: none have gone yet. */
    droppedBefore: integer("dropped_before"),
  },
  (t) => [index("sensors_device").on(t.devicePk)],
);

export const actors = sqliteTable("actors", componentColumns(), (t) => [index("actors_device").on(t.devicePk)]);

export const dataTypes = sqliteTable("data_types", {
  id: integer().primaryKey(),
  name: text().notNull(),
});

/** Readings in the order of arrival, those of one commit a row (see arrivals.ts). Ids of a row follow one another. */
export const arrivals = sqliteTable("arrivals", {
  firstId: integer("first_id").primaryKey(),
  count: integer().notNull(),
  data: blob({ mode: "buffer" }).notNull(),
});

/** Sealed readings: consecutive ones of one sensor, a page of them (see blocks.ts). */
export const blocks = sqliteTable(
  "blocks",
  {
    pk: integer().primaryKey(),
    // No foreign key: the readings of a deleted sensor are removed in the background (see `purges`).
    sensorPk: integer("sensor_pk").notNull(),
    /** The place of the first reading in the order (value_at, id). */
    startAt: integer("start_at").notNull(),
    startId: integer("start_id").notNull(),
    endAt: integer("end_at").notNull(),
    count: integer().notNull(),
    minId: integer("min_id").notNull(),
    maxId: integer("max_id").notNull(),
    data: blob({ mode: "buffer" }).notNull(),
  },
  (t) => [
    uniqueIndex("blocks_sensor_time").on(t.sensorPk, t.startAt, t.startId),
    // To find a reading by its id alone.
    index("blocks_ids").on(t.maxId, t.minId),
  ],
);

/** Of a sealing under way: the sensors whose arrivals up to an id are in blocks already. */
export const sealed = sqliteTable("sealed", {
  sensorPk: integer("sensor_pk").primaryKey(),
  upToId: integer("up_to_id").notNull(),
});

/** Sensors that are gone and whose readings are still to be removed. */
export const purges = sqliteTable("purges", {
  sensorPk: integer("sensor_pk").primaryKey(),
});

/** Sums over an hour or a day of one sensor, of all readings up to the watermark in `progress`. */
export const rollups = sqliteTable(
  "rollups",
  {
    /** The width in milliseconds: 3,600,000 or 86,400,000, aligned to UTC. */
    width: integer().notNull(),
    sensorPk: integer("sensor_pk").notNull(),
    startAt: integer("start_at").notNull(),
    count: integer().notNull(),
    /** The sum, rounded. */
    sum: real().notNull(),
    /** What the rounding left over, so that sums of sums stay exact (see core/exact-sum); null: nothing. */
    sumRest: blob("sum_rest"),
    min: real().notNull(),
    max: real().notNull(),
  },
  // WITHOUT ROWID in the migration: the key is the row's place, and a range is read in one sweep.
  (t) => [primaryKey({ columns: [t.width, t.sensorPk, t.startAt] })],
);

/** How far the background work has come, by the name of the work: a reading's id, or an instant. */
export const progress = sqliteTable("progress", {
  name: text().primaryKey(),
  value: integer().notNull(),
});

export const apiKeys = sqliteTable(
  "api_keys",
  {
    /** The part of the key that is no secret. */
    id: text().primaryKey(),
    userId: text("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    name: text().notNull(),
    /** SHA-256 of the whole key, hexadecimal. */
    hash: text().notNull(),
    createdAt: integer("created_at").notNull(),
    /** To a resolution of one minute. */
    lastUsedAt: integer("last_used_at"),
  },
  (t) => [index("api_keys_user").on(t.userId)],
);

/** What a user has bought: the right to read one device's data with a key. No money moves here. */
export const purchases = sqliteTable(
  "purchases",
  {
    id: text().primaryKey(),
    productId: text("product_id").notNull(),
    userId: text("user_id")
      .notNull()
      .references(() => users.id, { onDelete: "cascade" }),
    devicePk: integer("device_pk")
      .notNull()
      .references(() => devices.pk, { onDelete: "cascade" }),
    quantity: integer().notNull(),
    /** Millionths of the currency's unit. */
    totalMicros: integer("total_micros").notNull(),
    currency: text().notNull(),
    /** SHA-256 of the access key, hexadecimal. */
    keyHash: text("key_hash").notNull().unique(),
    /** Records that may still be read; null: not counted. */
    remaining: integer(),
    expiresAt: integer("expires_at"),
    /** Only aggregates may be read. */
    isAggregatedOnly: integer("is_aggregated_only", { mode: "boolean" }).notNull(),
    idempotencyKey: text("idempotency_key"),
    createdAt: integer("created_at").notNull(),
  },
  (t) => [
    uniqueIndex("purchases_idempotency").on(t.userId, t.idempotencyKey),
    index("purchases_product").on(t.userId, t.productId),
    index("purchases_device").on(t.devicePk),
  ],
);

export const webhooks = sqliteTable("webhooks", {
  pk: integer().primaryKey({ autoIncrement: true }),
  id: text().notNull().unique(),
  url: text().notNull(),
  events: text({ mode: "json" }).$type<string[]>().notNull(),
  /** Needed in the clear to sign with. */
  secret: text().notNull(),
  isEnabled: integer("is_enabled", { mode: "boolean" }).notNull().default(true),
  /** The last reading that a `data.received` has carried. */
  lastReadingId: integer("last_reading_id").notNull(),
  /** When the last `data.received` was made up. */
  lastDataAt: integer("last_data_at").notNull().default(0),
  /** Deliveries given up because too many were waiting. */
  dropped: integer().notNull().default(0),
  createdAt: integer("created_at").notNull(),
});

/** The outbox: written in the transaction that caused the event, and kept for a while as a log. */
export const deliveries = sqliteTable(
  "deliveries",
  {
    pk: integer().primaryKey({ autoIncrement: true }),
    /** `webhook-id`, the same on every try. */
    id: text().notNull(),
    webhookPk: integer("webhook_pk")
      .notNull()
      .references(() => webhooks.pk, { onDelete: "cascade" }),
    event: text().notNull(),
    body: text().notNull(),
    status: text({ enum: ["pending", "delivered", "failed"] }).notNull(),
    attempts: integer().notNull().default(0),
    nextAttemptAt: integer("next_attempt_at").notNull(),
    lastAttemptAt: integer("last_attempt_at"),
    /** The receiver's HTTP status, or null where there was none. */
    responseStatus: integer("response_status"),
    error: text(),
    createdAt: integer("created_at").notNull(),
  },
  (t) => [
    // What is due is looked for webhook by webhook: a long queue of one costs the others nothing.
    index("deliveries_due").on(t.webhookPk, t.status, t.nextAttemptAt),
    // SQLite appends the pk: a webhook's log in order.
    index("deliveries_webhook").on(t.webhookPk),
  ],
);

export const alertRules = sqliteTable(
  "alert_rules",
  {
    pk: integer().primaryKey({ autoIncrement: true }),
    id: text().notNull().unique(),
    devicePk: integer("device_pk")
      .notNull()
      .references(() => devices.pk, { onDelete: "cascade" }),
    sensorPk: integer("sensor_pk")
      .notNull()
      .references(() => sensors.pk, { onDelete: "cascade" }),
    condition: text({ enum: ["gt", "gte", "lt", "lte", "outside", "no_data"] }).notNull(),
    /** The bound, or the lower one of `outside`; null for `no_data`. */
    threshold: real(),
    /** The upper bound of `outside`. */
    thresholdHigh: real("threshold_high"),
    /** How long the condition must hold, or, for `no_data`, how long silence must last. */
    forMs: integer("for_ms").notNull(),
    /** Where the alert clears again; null: where the condition ends. */
    clear: real(),
    cooldownMs: integer("cooldown_ms").notNull(),
    severity: text({ enum: ["info", "warning", "critical"] }).notNull(),
    isEnabled: integer("is_enabled", { mode: "boolean" }).notNull(),
    /** Since when the condition holds; null: it does not. */
    pendingSince: integer("pending_since"),
    /** When it last fired, for the cooldown. */
    lastFiredAt: integer("last_fired_at"),
    /** The newest reading that the rule has seen: its own time, its value, and when it came. */
    lastValueAt: integer("last_value_at"),
    lastValue: real("last_value"),
    lastArrivalAt: integer("last_arrival_at"),
    createdAt: integer("created_at").notNull(),
    updatedAt: integer("updated_at").notNull(),
  },
  (t) => [index("alert_rules_sensor").on(t.sensorPk), index("alert_rules_device").on(t.devicePk)],
);

export const alerts = sqliteTable(
  "alerts",
  {
    pk: integer().primaryKey({ autoIncrement: true }),
    id: text().notNull().unique(),
    rulePk: integer("rule_pk")
      .notNull()
      .references(() => alertRules.pk, { onDelete: "cascade" }),
    devicePk: integer("device_pk").notNull(),
    /** The value that fired it; null for `no_data`. */
    value: real(),
    triggeredAt: integer("triggered_at").notNull(),
    resolvedAt: integer("resolved_at"),
  },
  (t) => [index("alerts_rule").on(t.rulePk, t.resolvedAt), index("alerts_device").on(t.devicePk, t.resolvedAt)],
);

// What the broker must not forget. Memory answers; these tables are what it is filled from at the start.

/** Clients that asked for a session that outlives their connection (clean session 0). */
export const mqttSessions = sqliteTable("mqtt_sessions", {
  clientId: text("client_id").primaryKey(),
  /** Whose session it is: nobody else may take the client id over. */
  owner: text().notNull(),
  /** When the client was last connected, for the session's expiry. */
  seenAt: integer("seen_at").notNull(),
});

export const mqttSubscriptions = sqliteTable(
  "mqtt_subscriptions",
  { clientId: text("client_id").notNull(), topic: text().notNull(), qos: integer().notNull() },
  (t) => [primaryKey({ columns: [t.clientId, t.topic] })],
);

/** Messages on their way to persistent sessions, in the order of their arrival. */
export const mqttQueued = sqliteTable(
  "mqtt_queued",
  {
    pk: integer().primaryKey({ autoIncrement: true }),
    clientId: text("client_id").notNull(),
    /** `publish`, or `pubrel` once the receiver has confirmed a QoS 2 message. */
    cmd: text({ enum: ["publish", "pubrel"] }).notNull(),
    messageId: integer("message_id"),
    topic: text().notNull(),
    payload: blob({ mode: "buffer" }).notNull(),
    qos: integer().notNull(),
    retain: integer({ mode: "boolean" }).notNull(),
  },
  (t) => [index("mqtt_queued_client").on(t.clientId)],
);

/** QoS 2 messages that were received and not yet released: what is sent again is known. */
export const mqttIncoming = sqliteTable(
  "mqtt_incoming",
  { clientId: text("client_id").notNull(), messageId: integer("message_id").notNull() },
  (t) => [primaryKey({ columns: [t.clientId, t.messageId] })],
);

export const mqttRetained = sqliteTable("mqtt_retained", {
  topic: text().primaryKey(),
  payload: blob({ mode: "buffer" }).notNull(),
  qos: integer().notNull(),
});

/** Wills of connected clients, to be published at the next start where the gateway ended before they did. */
export const mqttWills = sqliteTable("mqtt_wills", {
  clientId: text("client_id").primaryKey(),
  topic: text().notNull(),
  payload: blob({ mode: "buffer" }).notNull(),
  qos: integer().notNull(),
  retain: integer({ mode: "boolean" }).notNull(),
});
