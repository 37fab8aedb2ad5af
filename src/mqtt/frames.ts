import { isUtf8 } from "node:buffer";

// MQTT 3.1 and 3.1.1 on the wire: where a control packet ends, and whether a client may have sent it. Bytes are looked at
// where they lie; payloads are not looked at.

/** What is wrong with what a client sent. Each is a counter, `mqtt.gate.*`. */
export type Fault = "not_connect" | "too_large" | "malformed" | "bad_text" | "bad_topic" | "unsupported_version";

/** Control packet types, table 2.1: the high half of the first byte. */
export const packetType = {
  connect: 1,
  connack: 2,
  publish: 3,
  puback: 4,
  pubrec: 5,
  pubrel: 6,
  pubcomp: 7,
  subscribe: 8,
  unsubscribe: 10,
  pingreq: 12,
  disconnect: 14,
} as const;

/** The first byte of every CONNECT: its flags are reserved [MQTT-2.2.2-1]. */
export const connectByte = packetType.connect << 4;
/** The flags of a PUBLISH that ask for an acknowledgement. */
export const qosMask = 0b0110;

/** The rest of the first byte where it is reserved, by type, table 2.2; -1: no client sends this type. */
const reservedFlags = [-1, 0, -1, -1, 0, 0, 2, 0, 2, -1, 2, -1, 0, -1, 0, -1];

/**
 * Bytes of the packet that begins at `at`, with its header.
 * @returns 0 where not all of the length is there yet, -1 where it goes on after four bytes (section 2.2.3)
 */
export function measureFrame(bytes: Buffer, at: number): number {
  let length = 0;
  for (let i = 1, factor = 1; i <= 4; i++, factor *= 128) {
    const byte = bytes[at + i];
    if (byte === undefined) return 0;
    length += (byte & 0x7f) * factor;
    if (byte < 0x80) return 1 + i + length;
  }
  return -1;
}

/** Whether a packet may begin with this byte. */
export function checkFirstByte(byte: number): Fault | undefined {
  const type = byte >> 4;
  if (type === packetType.publish) return (byte & qosMask) === qosMask ? "malformed" : undefined; // [MQTT-3.3.1-4]
  return (byte & 0x0f) === reservedFlags[type] ? undefined : "malformed"; // [MQTT-2.2.2-2]
}

/** Whether the whole packet from `start` to `end`, any but CONNECT, is one; its first byte has been checked. */
export function checkFrame(bytes: Buffer, start: number, end: number): Fault | undefined {
  const first = bytes[start] as number;
  const body = skipHeader(bytes, start);
  switch (first >> 4) {
    case packetType.publish:
      return checkPublish(bytes, body, end, (first & qosMask) !== 0);
    case packetType.subscribe:
      return checkFilters(bytes, body, end, true);
    case packetType.unsubscribe:
      return checkFilters(bytes, body, end, false);
    case packetType.pingreq:
    case packetType.disconnect:
      return body === end ? undefined : "malformed";
    case packetType.puback:
    case packetType.pubrec:
    case packetType.pubrel:
    case packetType.pubcomp:
      return end - body === 2 && hasId(bytes, body) ? undefined : "malformed";
    default:
      return "malformed"; // a second CONNECT [MQTT-3.1.0-2]
  }
}

/** Bytes of the payload of the whole, checked PUBLISH from `start` to `end`. */
export function measurePayload(bytes: Buffer, start: number, end: number): number {
  const topic = skipHeader(bytes, start);
  const hasMessageId = ((bytes[start] as number) & qosMask) !== 0;
  return end - topic - 2 - readLength(bytes, topic) - (hasMessageId ? 2 : 0);
}

/** Where the keep-alive stands in a CONNECT: two bytes, seconds. */
export interface ConnectFrame {
  keepAliveAt: number;
}

/** Whether the whole packet from `start` to `end` is a CONNECT as section 3.1 has it. */
export function checkConnect(bytes: Buffer, start: number, end: number): ConnectFrame | Fault {
  let at = skipHeader(bytes, start);
  /** Steps over a field with a length before it. @returns where its content begins, or -1 where it is cut off */
  const next = (): number => {
    const from = at + 2;
    if (from > end) return -1;
    at = from + readLength(bytes, from - 2);
    return at <= end ? from : -1;
  };
  const name = next();
  if (name < 0) return "malformed";
  const protocol = bytes.toString("latin1", name, at);
  if (protocol !== "MQTT" && protocol !== "MQIsdp") return "not_connect"; // [MQTT-3.1.2-1]
  if (at + 4 > end) return "malformed";
  // Bridges set the highest bit.
  const level = (bytes[at] as number) & 0x7f;
  if (level !== 3 && level !== 4) return "unsupported_version"; // [MQTT-3.1.2-2]
  const flags = bytes[at + 1] as number;
  if (!areConnectFlags(flags)) return "malformed";
  const keepAliveAt = at + 2;
  at += 4;

  const clientId = next();
  if (clientId < 0) return "malformed";
  if (!isText(bytes, clientId, at)) return "bad_text"; // [MQTT-3.1.3-4]
  if ((flags & 0x04) !== 0) {
    const topic = next();
    if (topic < 0) return "malformed";
    const fault = checkTopicName(bytes, topic, at); // [MQTT-3.1.3-10]
    if (fault !== undefined) return fault;
    if (next() < 0) return "malformed";
  }
  if ((flags & 0x80) !== 0) {
    const username = next();
    if (username < 0) return "malformed";
    if (!isText(bytes, username, at)) return "bad_text"; // [MQTT-3.1.3-11]
  }
  if ((flags & 0x40) !== 0 && next() < 0) return "malformed";
  return at === end ? { keepAliveAt } : "malformed";
}

function areConnectFlags(flags: number): boolean {
  const hasWill = (flags & 0x04) !== 0;
  const willQos = (flags >> 3) & 3;
  return (
    (flags & 0x01) === 0 && // [MQTT-3.1.2-3]
    willQos !== 3 && // [MQTT-3.1.2-14]
    (hasWill || (flags & 0x38) === 0) && // [MQTT-3.1.2-11]
    (flags & 0xc0) !== 0x40 // [MQTT-3.1.2-22]: no password without a username
  );
}

function checkPublish(bytes: Buffer, body: number, end: number, hasMessageId: boolean): Fault | undefined {
  const topic = body + 2;
  const topicEnd = topic <= end ? topic + readLength(bytes, body) : topic;
  if (topicEnd + (hasMessageId ? 2 : 0) > end) return "malformed";
  if (hasMessageId && !hasId(bytes, topicEnd)) return "malformed"; // [MQTT-2.3.1-1]
  return checkTopicName(bytes, topic, topicEnd);
}

/** SUBSCRIBE, whose filters have a QoS byte each, and UNSUBSCRIBE. */
function checkFilters(bytes: Buffer, body: number, end: number, hasQos: boolean): Fault | undefined {
  // One filter at least [MQTT-3.8.3-3], [MQTT-3.10.3-2]; an id that is not 0 [MQTT-2.3.1-1].
  if (body + 4 > end || !hasId(bytes, body)) return "malformed";
  for (let at = body + 2; at < end;) {
    const filter = at + 2;
    if (filter > end) return "malformed";
    const filterEnd = filter + readLength(bytes, at);
    at = filterEnd + (hasQos ? 1 : 0);
    if (at > end) return "malformed";
    if (hasQos && (bytes[filterEnd] as number) > 2) return "malformed"; // [MQTT-3.8.3-4]
    if (!isText(bytes, filter, filterEnd)) return "bad_text"; // [MQTT-3.8.3-1]
    if (!isTopicFilter(bytes, filter, filterEnd)) return "bad_topic";
  }
  return undefined;
}

const hash = 0x23;
const plus = 0x2b;
const slash = 0x2f;

/** A topic to publish to: not empty [MQTT-4.7.3-1], no wildcards [MQTT-3.3.2-2], UTF-8 without U+0000. */
function checkTopicName(bytes: Buffer, from: number, to: number): Fault | undefined {
  if (!isText(bytes, from, to)) return "bad_text";
  if (from === to) return "bad_topic";
  for (let i = from; i < to; i++) {
    if (bytes[i] === hash || bytes[i] === plus) return "bad_topic";
  }
  return undefined;
}

/** Not empty; `#` alone in the last level [MQTT-4.7.1-2], `+` alone in any [MQTT-4.7.1-3]. */
function isTopicFilter(bytes: Buffer, from: number, to: number): boolean {
  for (let i = from; i < to; i++) {
    const byte = bytes[i];
    if (byte !== hash && byte !== plus) continue;
    if (i > from && bytes[i - 1] !== slash) return false;
    if (i + 1 < to && (byte === hash || bytes[i + 1] !== slash)) return false;
  }
  return from < to;
}

/** UTF-8, without surrogates and overlong forms [MQTT-1.5.3-1], without U+0000 [MQTT-1.5.3-2]. */
function isText(bytes: Buffer, from: number, to: number): boolean {
  let isAscii = true;
  for (let i = from; i < to; i++) {
    const byte = bytes[i] as number;
    if (byte === 0) return false;
    if (byte > 0x7f) isAscii = false;
  }
  return isAscii || isUtf8(bytes.subarray(from, to));
}

/** Where a packet's body begins. The length is known to be there. */
function skipHeader(bytes: Buffer, start: number): number {
  let at = start + 1;
  while ((bytes[at] as number) > 0x7f) at++;
  return at + 1;
}

const readLength = (bytes: Buffer, at: number): number => ((bytes[at] as number) << 8) | (bytes[at + 1] as number);

const hasId = (bytes: Buffer, at: number): boolean => bytes[at] !== 0 || bytes[at + 1] !== 0;
