import { index, integer, real, sqliteTable, text } from "drizzle-orm/sqlite-core";

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
  name: text().notNull(),
  description: text().notNull(),
  location: text().notNull(),
  /** 1 ok, 2 pending, 3 lost, 4 disabled. */
  statusId: integer("status_id").notNull(),
  mac: text(),
  /** The fields that a user has set over REST; an announcement leaves them alone. */
  editedFields: text("edited_fields", { mode: "json" }).$type<string[]>().notNull().default([]),
  /** Any message of the device's own, to a resolution of one second. */
  lastSeenAt: integer("last_seen_at"),
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
  /** False once the device announces itself without it. */
  active: integer({ mode: "boolean" }).notNull().default(true),
  editedFields: text("edited_fields", { mode: "json" }).$type<string[]>().notNull().default([]),
  createdAt: integer("created_at").notNull(),
  updatedAt: integer("updated_at").notNull(),
});

export const sensors = sqliteTable("sensors", componentColumns(), (t) => [index("sensors_device").on(t.devicePk)]);

export const actors = sqliteTable("actors", componentColumns(), (t) => [index("actors_device").on(t.devicePk)]);

export const dataTypes = sqliteTable("data_types", {
  id: integer().primaryKey(),
  name: text().notNull(),
});

export const readings = sqliteTable(
  "readings",
  {
    id: integer().primaryKey({ autoIncrement: true }),
    // No foreign key: the readings of a deleted sensor are removed in the background (see `purges`), and a check per
    // insert would cost the hot path for a rule that the domain already keeps.
    sensorPk: integer("sensor_pk").notNull(),
    valueAt: integer("value_at").notNull(),
    value: real().notNull(),
  },
  // Also serves "newest first": SQLite appends the rowid, so equal instants come in order of arrival.
  (t) => [index("readings_sensor_time").on(t.sensorPk, t.valueAt)],
);

/** Sensors that are gone and whose readings are still to be removed. */
export const purges = sqliteTable("purges", {
  sensorPk: integer("sensor_pk").primaryKey(),
});

/**
 * Fingerprints of the last untimed QoS 1 and 2 readings, so that a message sent again after a crash is known for what it
 * is. `seq` only rises and the oldest go: writes stay on one page, and the table stays small.
 */
export const resends = sqliteTable("resends", {
  seq: integer().primaryKey(),
  fingerprint: integer().notNull(),
});
