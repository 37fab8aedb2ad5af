import * as v from "valibot";
import type { DomainError, ErrorCode } from "../../core/errors.ts";
import type { DeviceDetail, DeviceSummary, ListedDevice } from "../../core/device-list.ts";
import { countText, integer, label, text } from "../../core/schemas.ts";
import { statusWords } from "../../core/status.ts";
import { formatInstant } from "../../core/time.ts";
import type { Dialect } from "../route.ts";

// The IoT Backbone dialect: camelCase on the wire, objects around lists, `{"error":{"code","message","details"}}`.

const answers: Record<ErrorCode, { status: number; code: string }> = {
  invalid: { status: 400, code: "VALIDATION_ERROR" },
  unauthenticated: { status: 401, code: "INVALID_TOKEN" },
  bad_credentials: { status: 401, code: "INVALID_CREDENTIALS" },
  forbidden: { status: 403, code: "FORBIDDEN" },
  quota_exceeded: { status: 403, code: "QUOTA_EXCEEDED" },
  not_found: { status: 404, code: "NOT_FOUND" },
  conflict: { status: 409, code: "CONFLICT" },
  too_large: { status: 413, code: "PAYLOAD_TOO_LARGE" },
  rate_limited: { status: 429, code: "RATE_LIMITED" },
  unavailable: { status: 503, code: "UNAVAILABLE" },
};

export const v1Dialect: Dialect = {
  title: "IoT Backbone API",
  description:
    "Devices and their data, access to it as products, webhooks and alerts. Log in for a token, here or at the root, or make an API key. Lists have `limit` and `offset`; a 201 means that what was sent is durable.",
  prefix: "/v1",
  unauthenticated: "Invalid or expired authentication token",
  render: ({ code, message, details }: DomainError) => {
    const answer = answers[code];
    return { status: answer.status, body: { error: { code: answer.code, message, details } } };
  },
  internalError: { error: { code: "INTERNAL", message: "Internal server error", details: {} } },
  errorSchema: v.object({
    error: v.object({
      code: v.picklist([...Object.values(answers).map(({ code }) => code), "INTERNAL"]),
      message: v.string(),
      details: v.record(v.string(), v.unknown()),
    }),
  }),
};

export const timestamp = v.pipe(v.string(), v.metadata({ format: "date-time" }), v.examples(["2026-02-06T20:00:00Z"]));

export const successSchema = v.object({ success: v.literal(true) });

/** A number in a query; what is above the maximum counts as the maximum. */
export const wholeNumber = (max: number, documented: Record<string, unknown> = {}) =>
  countText(max, { type: "integer", minimum: 0, maximum: max, ...documented });

/** `limit` and `offset` of a list. */
export const pageQuery = (max: number, fallback: number) => ({
  limit: v.pipe(
    v.optional(wholeNumber(max, { default: fallback }), String(fallback)),
    v.description("Number of results"),
  ),
  offset: v.pipe(
    v.optional(wholeNumber(Number.MAX_SAFE_INTEGER, { default: 0 }), "0"),
    v.description("Pagination offset"),
  ),
});

export const deviceParams = v.object({ deviceId: label(64) });

export const deviceQuery = v.object({
  status: v.optional(v.picklist(statusWords, `must be one of ${statusWords.join(", ")}`)),
  type: v.optional(text(255)),
  include: v.optional(
    v.pipe(
      v.picklist(["lastReading"], "must be lastReading"),
      v.description("Adds to each device `lastReading` and `lastValue`: its primary sensor's newest reading"),
    ),
  ),
  ...pageQuery(100, 50),
});

const ownId = v.pipe(
  v.string("must be a string"),
  v.regex(/^[A-Za-z0-9._-]{1,64}$/, "must be 1 to 64 letters, digits, dots, underscores or dashes"),
  v.examples(["SC-TEMP-001"]),
);

const deviceFields = {
  name: v.pipe(label(255), v.examples(["Room Sensor"])),
  type: v.pipe(label(255), v.examples(["temperature"])),
  manufacturer: v.optional(text(255)),
  model: v.optional(text(255)),
  location: v.optional(text(255)),
};

export const deviceInput = v.object({ id: v.optional(ownId), ...deviceFields });

export const deviceUpdate = v.object({
  ...v.partial(v.object(deviceFields)).entries,
  status: v.optional(
    v.pipe(
      v.picklist(["online", "offline"], "must be online or offline"),
      v.description("To enable or to disable the device."),
    ),
  ),
});

const status = v.picklist(statusWords);
const uuidText = v.pipe(v.string(), v.metadata({ format: "uuid" }));

const summaryEntries = {
  id: v.pipe(v.string(), v.examples(["SC-TEMP-001"])),
  name: v.pipe(v.string(), v.examples(["Room Sensor"])),
  type: v.pipe(v.string(), v.examples(["temperature"])),
  status,
  lastSeen: v.nullable(timestamp),
};

const listedSchema = v.pipe(
  v.object({
    ...summaryEntries,
    lastReading: v.optional(v.pipe(v.nullable(timestamp), v.description("With `include=lastReading`"))),
    lastValue: v.optional(v.pipe(v.nullable(v.number()), v.description("Likewise"), v.examples([21.5]))),
  }),
  v.title("DeviceSummary"),
);

export const deviceListSchema = v.object({
  devices: v.array(listedSchema),
  total: v.pipe(v.number(), v.integer()),
  limit: v.pipe(v.number(), v.integer()),
  offset: v.pipe(v.number(), v.integer()),
});

const sensorSchema = v.pipe(
  v.object({
    id: uuidText,
    name: v.pipe(v.string(), v.examples(["Temperature"])),
    type: v.pipe(v.string(), v.examples(["temperature"])),
    unit: v.nullable(v.pipe(v.string(), v.examples(["°C"]))),
    active: v.pipe(v.boolean(), v.description("False where the device no longer announces it")),
    lastReading: v.nullable(timestamp),
    lastValue: v.nullable(v.pipe(v.number(), v.examples([21.5]))),
  }),
  v.title("Sensor"),
);

const actorSchema = v.pipe(
  v.object({
    id: uuidText,
    name: v.pipe(v.string(), v.examples(["Lamp"])),
    type: v.pipe(v.string(), v.examples(["led"])),
    active: v.boolean(),
  }),
  v.title("Actor"),
);

export const detailSchema = v.pipe(
  v.object({
    ...summaryEntries,
    uuid: uuidText,
    manufacturer: v.nullable(v.string()),
    model: v.nullable(v.string()),
    location: v.pipe(v.string(), v.examples(["Living room"])),
    connected: v.pipe(v.boolean(), v.description("An MQTT session of its own is open")),
    lastReading: v.pipe(v.nullable(timestamp), v.description("The newest of all its sensors")),
    createdAt: timestamp,
    updatedAt: timestamp,
    sensors: v.array(sensorSchema),
    actors: v.array(actorSchema),
  }),
  v.title("Device"),
);

const toTime = (at: number | null | undefined): string | null =>
  at === null || at === undefined ? null : formatInstant(at);

export const toSummary = ({ id, name, type, status, lastSeenAt }: DeviceSummary) => ({
  id,
  name,
  type,
  status,
  lastSeen: toTime(lastSeenAt),
});

/** Field by field: a hundred spreads are a tenth of what a page takes. */
export function toListed(device: ListedDevice) {
  const { lastReading } = device;
  if (lastReading === undefined) return toSummary(device);
  const { id, name, type, status, lastSeen } = toSummary(device);
  return {
    id,
    name,
    type,
    status,
    lastSeen,
    lastReading: toTime(lastReading?.at),
    lastValue: lastReading?.value ?? null,
  };
}

export function toDetail(detail: DeviceDetail, isConnected: boolean) {
  const { device, sensors, actors } = detail;
  const newest = Math.max(...sensors.map(({ lastReading }) => lastReading?.at ?? -Infinity));
  return {
    ...toSummary(detail),
    uuid: device.id,
    manufacturer: device.manufacturer,
    model: device.model,
    location: device.location,
    connected: isConnected,
    lastReading: Number.isFinite(newest) ? formatInstant(newest) : null,
    createdAt: formatInstant(device.createdAt),
    updatedAt: formatInstant(device.updatedAt),
    sensors: sensors.map(({ id, name, type, unit, isActive, lastReading }) => ({
      id,
      name,
      type,
      unit,
      active: isActive,
      lastReading: toTime(lastReading?.at),
      lastValue: lastReading?.value ?? null,
    })),
    actors: actors.map(({ id, name, type, isActive }) => ({ id, name, type, active: isActive })),
  };
}

export const quantity = integer(1, 1_000_000_000);
