import { createHash, randomUUID } from "node:crypto";

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** The DNS namespace of RFC 9562, under which devices' ids are derived from their MAC address. */
const dnsNamespace = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/** UUIDs that were read lately: a gateway reads the same ones thousands of times a second. */
const known = new Set<string>();
const maxKnown = 10_000;

/** A UUID of any version in lower case, or `undefined` where `text` is none. */
export function parseUuid(text: string): string | undefined {
  if (known.has(text)) return text;
  const lower = text.toLowerCase();
  if (!uuidPattern.test(lower)) return undefined;
  if (known.size >= maxKnown) known.clear();
  known.add(lower);
  return lower;
}

export const newUuid = (): string => randomUUID();

/** UUID version 5 of `name` in `namespace` (RFC 9562, section 5.5). */
export function deriveUuid(namespace: string, name: string): string {
  const hash = createHash("sha1")
    .update(Buffer.from(namespace.replaceAll("-", ""), "hex"))
    .update(name)
    .digest();
  hash.writeUInt8((hash.readUInt8(6) & 0x0f) | 0x50, 6);
  hash.writeUInt8((hash.readUInt8(8) & 0x3f) | 0x80, 8);
  const hex = hash.toString("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`;
}

/** Twelve hex digits in lower case from a MAC address with colons, dashes, dots or no separators; else `undefined`. */
export function parseMac(text: string): string | undefined {
  const digits = text.replaceAll(/[:.-]/g, "").toLowerCase();
  return /^[0-9a-f]{12}$/.test(digits) ? digits : undefined;
}

/** @example deriveDeviceId("aabbccddeeff") // "3814fb88-565c-5dc8-9b91-60d4002b6edc" */
export const deriveDeviceId = (mac: string): string => deriveUuid(dnsNamespace, mac);

/** The id of the sensor or actor that stands at `position` (from 0) in its device's announcement. */
export const deriveComponentId = (deviceId: string, kind: "sensor" | "actor", position: number): string =>
  deriveUuid(deviceId, `${kind}-${position}`);
