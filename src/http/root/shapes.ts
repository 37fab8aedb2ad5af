import * as v from "valibot";
import type { Component } from "../../core/components.ts";
import type { Device } from "../../core/devices.ts";
import type { DomainError, ErrorCode } from "../../core/errors.ts";
import type { Reading } from "../../core/readings.ts";
import { finiteNumber, instant, integer, label, parsed, text, uuid } from "../../core/schemas.ts";
import { formatInstant } from "../../core/time.ts";
import type { Dialect } from "../route.ts";

// The Lambda IoT Core dialect: snake_case on the wire, bare arrays, `{"error":"message"}`.

const statuses: Record<ErrorCode, number> = {
  invalid: 400,
  unauthenticated: 401,
  forbidden: 403,
  not_found: 404,
  conflict: 409,
  too_large: 413,
  rate_limited: 429,
  unavailable: 503,
};

export const rootDialect: Dialect = {
  title: "Lambda IoT Core API",
  prefix: "",
  unauthenticated: "no claims",
  render: (error: DomainError) => ({ status: statuses[error.code], body: { error: error.message } }),
  internalError: { error: "internal error" },
  errorSchema: v.object({ error: v.string() }),
};

const timestamp = v.pipe(v.string(), v.metadata({ format: "date-time" }));
const id = v.pipe(v.string(), v.metadata({ format: "uuid" }));

export const idSchema = v.object({ id });
export const messageSchema = v.object({ message: v.string() });
export const publishedSchema = v.object({ status: v.literal("published"), topic: v.string() });

/** `:id` of a path; the message is the whole answer. */
const idParams = <S extends v.GenericSchema<unknown, unknown>>(schema: S) => v.object({ id: schema });

/** An error in a path names the thing, not the parameter: "invalid device id". */
export const deviceParams = idParams(uuid("invalid device id"));
export const sensorParams = idParams(uuid("invalid sensor id"));
export const actorParams = idParams(uuid("invalid actor id"));
export const readingParams = idParams(
  parsed((digits) => (/^\d{1,15}$/.test(digits) ? Number(digits) : undefined), "invalid reading id"),
);

export const credentialsInput = v.object({
  username: v.string("must be a string"),
  password: v.string("must be a string"),
});

export const registerInput = v.object({
  username: v.pipe(
    v.string("must be a string"),
    v.minGraphemes(3, "must have 3 to 50 characters"),
    v.maxGraphemes(50, "must have 3 to 50 characters"),
    v.maxBytes(512, "must not be longer than 512 bytes"),
    v.regex(/^\P{Cc}*$/u, "must not have control characters"),
    v.check((name) => name === name.trim(), "must not begin or end with a space"),
    v.metadata({ minLength: 3, maxLength: 50 }),
  ),
  password: v.pipe(
    v.string("must be a string"),
    v.minGraphemes(6, "must have 6 characters or more"),
    v.maxBytes(128, "must not be longer than 128 bytes"),
    v.metadata({ minLength: 6 }),
  ),
  email: v.optional(
    v.union([v.literal(""), v.pipe(v.string(), v.maxLength(254), v.email())], "must be an email address"),
  ),
});

export const deviceInput = v.object({
  name: label(255),
  description: text(2_000),
  location: text(255),
  status_id: integer(1, 4),
});

export const deviceSchema = v.object({
  id,
  name: v.string(),
  description: v.string(),
  location: v.string(),
  status_id: v.pipe(v.number(), v.integer(), v.description("1 ok, 2 pending, 3 lost, 4 disabled")),
  created_at: timestamp,
  updated_at: timestamp,
});

export const toDevice = ({ id, name, description, location, statusId, createdAt, updatedAt }: Device) => ({
  id,
  name,
  description,
  location,
  status_id: statusId,
  created_at: formatInstant(createdAt),
  updated_at: formatInstant(updatedAt),
});

export const componentInput = v.object({
  device_id: uuid(),
  name: label(255),
  type: label(255),
  data_type_id: integer(1),
});

export const componentSchema = v.object({
  id,
  device_id: id,
  name: v.string(),
  type: v.string(),
  data_type_id: v.pipe(v.number(), v.integer()),
  active: v.optional(v.pipe(v.literal(false), v.description("Present where the device no longer announces it."))),
  created_at: timestamp,
  updated_at: timestamp,
});

export const toComponent = ({ id, deviceId, name, type, dataTypeId, isActive, createdAt, updatedAt }: Component) => ({
  id,
  device_id: deviceId,
  name,
  type,
  data_type_id: dataTypeId,
  ...(!isActive && { active: false as const }),
  created_at: formatInstant(createdAt),
  updated_at: formatInstant(updatedAt),
});

export const readingInput = v.object({ sensor_id: uuid(), value: finiteNumber, value_at: v.optional(instant) });

export const readingUpdate = v.object({ value: v.optional(finiteNumber), value_at: v.optional(instant) });

export const readingSchema = v.object({
  id: v.pipe(v.number(), v.integer()),
  sensor_id: id,
  value: v.number(),
  value_at: timestamp,
});

export const toReading = ({ id, sensorId, value, valueAt }: Reading) => ({
  id,
  sensor_id: sensorId,
  value,
  value_at: formatInstant(valueAt),
});

const maxLimit = 1_000;
const wholeNumber = (fallback: number, max: number, description: string) =>
  v.pipe(
    v.optional(
      parsed(
        (digits) => (/^\d+$/.test(digits) ? Math.min(Number(digits), max) : undefined),
        "must be a whole number, 0 or more",
      ),
      String(fallback),
    ),
    v.description(description),
  );

export const readingQuery = v.object({
  sensor_id: v.optional(uuid()),
  limit: wholeNumber(100, maxLimit, `Number of results; more than ${maxLimit} counts as ${maxLimit}`),
  page: wholeNumber(0, Math.floor(Number.MAX_SAFE_INTEGER / maxLimit), "Page number, from 0"),
  from: v.optional(instant),
  to: v.optional(instant),
});
