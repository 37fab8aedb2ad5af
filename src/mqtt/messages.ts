import { isUtf8 } from "node:buffer";
import * as v from "valibot";
import type { Announcement, AnnouncedComponent } from "../core/discovery.ts";
import { deriveDeviceId, parseMac, parseUuid } from "../core/ids.ts";
import { parseJson } from "../core/json.ts";
import { describeIssue, instant, integer, parsed, text, uuid } from "../core/schemas.ts";
import { parseInstant } from "../core/time.ts";

// What devices say, as the Lambda document writes it, from bytes to something the domain takes, or a reason why not.

export type Message =
  | { kind: "reading"; sensorId: string; value: number; valueAt: number | undefined }
  | { kind: "check-response"; deviceId: string; status: "ok" | "lost" | "pending" | "error" }
  | { kind: "announcement"; announcement: Announcement }
  /** Of a type that the gateway does not know, or one of its own: none of its business. */
  | { kind: "other" }
  | { kind: "rejected"; reason: RejectReason; detail?: string | undefined };

export type RejectReason =
  | "not_json"
  | "bad_reading"
  | "bad_response"
  | "bad_announcement"
  | "unknown_sensor"
  | "unknown_device"
  | "too_large"
  | "too_many_devices"
  | "forbidden";

const rejected = (reason: RejectReason, detail?: string): Message => ({ kind: "rejected", reason, detail });

const mac = parsed(parseMac, "must be a MAC address");
const nullable = <S extends v.GenericSchema>(schema: S) => v.nullish(schema);

/** Sign, digits, a point, an exponent: nothing hexadecimal, empty or padded. */
const decimal = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;

/** A finite number from a number, a boolean or a decimal string; `undefined` for anything else. Minus zero is zero. */
export function parseValue(value: unknown): number | undefined {
  const number =
    typeof value === "number"
      ? value
      : typeof value === "boolean"
        ? Number(value)
        : typeof value === "string" && decimal.test(value)
          ? Number(value)
          : NaN;
  return Number.isFinite(number) ? number + 0 : undefined;
}

const value = v.pipe(
  v.unknown(),
  v.rawTransform<unknown, number>(({ dataset, addIssue, NEVER }) => {
    const number = parseValue(dataset.value);
    if (number !== undefined) return number;
    addIssue({ message: "must be a finite number, a boolean or a decimal string" });
    return NEVER;
  }),
);

const readingSchema = v.object({ sensor_id: uuid(), value, value_at: nullable(instant) });

const responseSchema = v.object({
  device_id: uuid(),
  status: v.picklist(["ok", "lost", "pending", "error"], "must be ok, lost, pending or error"),
});

const componentSchema = v.object({
  id: nullable(uuid()),
  name: nullable(text(255)),
  type: nullable(text(255)),
  data_type_id: nullable(integer(1)),
});

/** More than any device has. Each is a row, and an announcement has room for thousands that say nothing. */
const maxComponents = 256;

const componentList = v.pipe(
  v.array(componentSchema),
  v.maxLength(maxComponents, `must not be longer than ${maxComponents}`),
);

const announcementSchema = v.object({
  mac_address: nullable(mac),
  device: nullable(
    v.object({
      id: nullable(uuid()),
      name: nullable(text(255)),
      description: nullable(text(2_000)),
      location: nullable(text(255)),
    }),
  ),
  sensors: nullable(componentList),
  actors: nullable(componentList),
});

function parseObject(payload: Uint8Array): Record<string, unknown> | undefined {
  if (!isUtf8(payload)) return undefined;
  const bytes =
    payload instanceof Buffer ? payload : Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
  const value = parseJson(bytes.toString());
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}

/** Readings come by the thousand: the schema is asked only for what is wrong with one, or looks unusual. */
function parseReading(body: Record<string, unknown>): Message {
  const { sensor_id, value_at } = body;
  const sensorId = typeof sensor_id === "string" ? parseUuid(sensor_id) : undefined;
  const number = parseValue(body["value"]);
  const valueAt = typeof value_at === "string" ? parseInstant(value_at) : undefined;
  if (sensorId !== undefined && number !== undefined && (valueAt !== undefined || value_at === undefined))
    return { kind: "reading", sensorId, value: number, valueAt };
  const { success, output, issues } = v.safeParse(readingSchema, body, { abortEarly: true });
  if (!success) return rejected("bad_reading", describeIssue(issues[0]));
  return { kind: "reading", sensorId: output.sensor_id, value: output.value, valueAt: output.value_at ?? undefined };
}

/** A message on the main topic. */
export function parseMessage(payload: Uint8Array): Message {
  const body = parseObject(payload);
  if (body === undefined) return rejected("not_json");
  switch (body["type"]) {
    case "sensor_reading":
    case "sensor_value":
      return parseReading(body);
    case "device_check_response": {
      const { success, output, issues } = v.safeParse(responseSchema, body, { abortEarly: true });
      if (!success) return rejected("bad_response", describeIssue(issues[0]));
      return { kind: "check-response", deviceId: output.device_id, status: output.status };
    }
    default:
      return { kind: "other" };
  }
}

/** A message on the discovery topic. A device without an id of its own gets the one derived from its MAC address. */
export function parseAnnouncement(payload: Uint8Array): Message {
  const body = parseObject(payload);
  if (body === undefined) return rejected("not_json");
  const { success, output, issues } = v.safeParse(announcementSchema, body, { abortEarly: true });
  if (!success) return rejected("bad_announcement", describeIssue(issues[0]));
  const { mac_address, device, sensors, actors } = output;
  const id = device?.id ?? (mac_address ? deriveDeviceId(mac_address) : undefined);
  if (id === undefined) return rejected("bad_announcement", "neither mac_address nor device.id is given");
  return {
    kind: "announcement",
    announcement: {
      id,
      mac: mac_address ?? undefined,
      name: device?.name || undefined,
      description: device?.description ?? undefined,
      location: device?.location ?? undefined,
      sensors: (sensors ?? []).map(toComponent),
      actors: (actors ?? []).map(toComponent),
    },
  };
}

const toComponent = ({ id, name, type, data_type_id }: v.InferOutput<typeof componentSchema>): AnnouncedComponent => ({
  id: id ?? undefined,
  name: name || undefined,
  type: type || undefined,
  dataTypeId: data_type_id ?? undefined,
});
