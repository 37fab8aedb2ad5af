import * as v from "valibot";
import type { Component } from "../../core/components.ts";
import type { Device } from "../../core/devices.ts";
import type { DomainError, ErrorCode } from "../../core/errors.ts";
import { parseUuid } from "../../core/ids.ts";
import type { Reading } from "../../core/readings.ts";
import { countText, finiteNumber, instant, integer, label, newPassword, text, uuid } from "../../core/schemas.ts";
import { formatInstant } from "../../core/time.ts";
import type { Dialect } from "../route.ts";

// The Lambda IoT Core dialect: snake_case on the wire, bare arrays, `{"error":"message"}`.

const statuses: Record<ErrorCode, number> = {
  invalid: 400,
  unauthenticated: 401,
  bad_credentials: 401,
  forbidden: 403,
  not_found: 404,
  conflict: 409,
  too_large: 413,
  rate_limited: 429,
  quota_exceeded: 403,
  unavailable: 503,
};

export const rootDialect: Dialect = {
  title: "Lambda IoT Core API",
  description:
    "Devices, their sensors and actors, and what they have measured. Log in for a token, which is good for 24 hours. A 201 means that what was sent is durable.",
  prefix: "",
  unauthenticated: "no claims",
  render: (error: DomainError) => ({ status: statuses[error.code], body: { error: error.message } }),
  internalError: { error: "internal error" },
  errorSchema: v.object({ error: v.string() }),
};

const timestamp = v.pipe(v.string(), v.metadata({ format: "date-time", examples: ["2026-01-14T10:00:00Z"] }));
const id = v.pipe(v.string(), v.metadata({ format: "uuid" }));
const rowId = v.pipe(v.number(), v.integer(), v.metadata({ format: "int64", examples: [123] }));

export const idSchema = v.object({ id });
export const rowIdSchema = v.object({ id: rowId });
export const messageSchema = v.object({ message: v.string() });
export const publishedSchema = v.object({
  status: v.literal("published"),
  topic: v.pipe(v.string(), v.examples(["lambdaiot"])),
});

/** `:id` of a path. An error in it names the thing, not the parameter: "invalid device id" is the whole answer. */
const idParams = <T>(parse: (text: string) => T | undefined, message: string, documented: Record<string, unknown>) =>
  v.pipe(
    v.object({ id: v.pipe(v.string(), v.metadata(documented)) }),
    v.rawTransform<{ id: string }, { id: T }>(({ dataset, addIssue, NEVER }) => {
      const id = parse(dataset.value.id);
      if (id !== undefined) return { id };
      addIssue({ message });
      return NEVER;
    }),
  );

export const deviceParams = idParams(parseUuid, "invalid device id", { format: "uuid" });
export const sensorParams = idParams(parseUuid, "invalid sensor id", { format: "uuid" });
export const actorParams = idParams(parseUuid, "invalid actor id", { format: "uuid" });
export const readingParams = idParams(
  (digits) => (/^\d{1,15}$/.test(digits) ? Number(digits) : undefined),
  "invalid reading id",
  { type: "integer", format: "int64", minimum: 0, examples: [123] },
);

export const credentialsInput = v.object({
  username: v.pipe(v.string("must be a string"), v.examples(["admin"])),
  password: v.pipe(v.string("must be a string"), v.metadata({ format: "password", examples: ["secret123"] })),
});

const notEmail = "must be an email address";

export const registerInput = v.object({
  username: v.pipe(
    v.string("must be a string"),
    v.minGraphemes(3, "must have 3 to 50 characters"),
    v.maxGraphemes(50, "must have 3 to 50 characters"),
    v.maxBytes(512, "must not be longer than 512 bytes"),
    v.regex(/^\P{Cc}*$/u, "must not have control characters"),
    v.check((name) => name === name.trim(), "must not begin or end with a space"),
    // The expression above needs its `u` flag, which JSON Schema has no place for.
    v.metadata({ minLength: 3, maxLength: 50, pattern: "^[^\\u0000-\\u001f\\u007f-\\u009f]*$", examples: ["admin"] }),
  ),
  password: newPassword,
  email: v.optional(
    v.union(
      [
        v.pipe(v.string(), v.maxLength(254, notEmail), v.email(notEmail), v.examples(["admin@example.com"])),
        v.literal(""),
      ],
      notEmail,
    ),
  ),
});

const statusMeaning = "1 ok, 2 pending, 3 lost, 4 disabled";

export const deviceInput = v.object({
  name: v.pipe(label(255), v.examples(["Room Sensor"])),
  description: v.pipe(text(2_000), v.examples(["Living room"])),
  location: v.pipe(text(255), v.examples(["Floor 1"])),
  status_id: v.pipe(integer(1, 4), v.description(statusMeaning)),
});

export const deviceSchema = v.pipe(
  v.object({
    id,
    name: v.pipe(v.string(), v.examples(["Room Sensor"])),
    description: v.pipe(v.string(), v.examples(["Living room"])),
    location: v.pipe(v.string(), v.examples(["Floor 1"])),
    status_id: v.pipe(v.number(), v.integer(), v.metadata({ description: statusMeaning, minimum: 1, maximum: 4 })),
    created_at: timestamp,
    updated_at: timestamp,
  }),
  v.title("Device"),
);

export const toDevice = ({ id, name, description, location, statusId, createdAt, updatedAt }: Device) => ({
  id,
  name,
  description,
  location,
  status_id: statusId,
  created_at: formatInstant(createdAt),
  updated_at: formatInstant(updatedAt),
});

const dataTypeMeaning = "1 boolean (digital), 2 number (analog); others are the device's own";

export const componentInput = v.object({
  device_id: uuid(),
  name: v.pipe(label(255), v.examples(["Temperature"])),
  type: v.pipe(label(255), v.examples(["temperature"])),
  data_type_id: v.pipe(integer(1), v.metadata({ description: dataTypeMeaning, examples: [2] })),
});

const retentionMeaning = "Days for which readings are kept, 0 for ever";

/** (+) how long its readings are kept. */
export const sensorInput = v.object({
  ...componentInput.entries,
  retention_days: v.pipe(
    v.optional(v.nullable(integer(0, 36_500))),
    v.metadata({ description: `${retentionMeaning}; null: as \`retention.raw_days\` of the configuration says` }),
  ),
});

/** Sensors and actors have one shape, and a name each in the OpenAPI document. */
const describeComponent = <E extends v.ObjectEntries>(title: string, example: { name: string; type: string }, own: E) =>
  v.pipe(
    v.object({
      id,
      device_id: id,
      name: v.pipe(v.string(), v.examples([example.name])),
      type: v.pipe(v.string(), v.examples([example.type])),
      data_type_id: v.pipe(
        v.number(),
        v.integer(),
        v.metadata({ description: dataTypeMeaning, minimum: 1, examples: [2] }),
      ),
      active: v.optional(
        v.pipe(v.literal(false), v.description("Present, and false, where the device no longer announces it")),
      ),
      ...own,
      created_at: timestamp,
      updated_at: timestamp,
    }),
    v.title(title),
  );

export const componentSchemas = {
  sensor: describeComponent(
    "Sensor",
    { name: "Temperature", type: "temperature" },
    {
      retention_days: v.optional(
        v.pipe(
          v.number(),
          v.integer(),
          v.metadata({ description: `${retentionMeaning}; present where it was set for this sensor`, minimum: 0 }),
        ),
      ),
    },
  ),
  actor: describeComponent("Actor", { name: "Lamp", type: "led" }, {}),
};

export const toComponent = ({
  id,
  deviceId,
  name,
  type,
  dataTypeId,
  isActive,
  retentionDays,
  createdAt,
  updatedAt,
}: Component) => ({
  id,
  device_id: deviceId,
  name,
  type,
  data_type_id: dataTypeId,
  ...(!isActive && { active: false as const }),
  ...(retentionDays !== null && { retention_days: retentionDays }),
  created_at: formatInstant(createdAt),
  updated_at: formatInstant(updatedAt),
});

const optionalTime = (description: string) => v.pipe(v.optional(instant), v.description(description));

export const readingInput = v.object({
  sensor_id: uuid(),
  value: finiteNumber,
  value_at: optionalTime("With any offset, at most 24 hours ahead; absent, it is now"),
});

export const readingUpdate = v.object({
  value: v.optional(finiteNumber),
  value_at: optionalTime("With any offset, at most 24 hours ahead"),
});

export const readingSchema = v.pipe(
  v.object({
    id: rowId,
    sensor_id: id,
    value: v.pipe(v.number(), v.examples([22.5])),
    value_at: timestamp,
  }),
  v.title("Reading"),
);

export const toReading = ({ id, sensorId, value, valueAt }: Reading) => ({
  id,
  sensor_id: sensorId,
  value,
  value_at: formatInstant(valueAt),
});

const maxLimit = 1_000;
const wholeNumber = (fallback: number, max: number, documented: { description: string; maximum?: number }) =>
  v.pipe(
    v.optional(countText(max), String(fallback)),
    // A query is text; what it spells is a number.
    v.metadata({ type: "integer", default: fallback, minimum: 0, ...documented }),
  );

export const readingQuery = v.object({
  sensor_id: v.pipe(v.optional(uuid()), v.description("Readings of this sensor alone; absent, of all sensors")),
  limit: wholeNumber(100, maxLimit, {
    description: `Number of results; more than ${maxLimit} counts as ${maxLimit}`,
    maximum: maxLimit,
  }),
  page: wholeNumber(0, Math.floor(Number.MAX_SAFE_INTEGER / maxLimit), { description: "Page number, from 0" }),
  from: optionalTime("Readings of this time or later"),
  to: optionalTime("Readings before this time"),
});
