import type { Reading } from "../../core/readings.ts";

// A list of readings as JSON, straight to bytes. It is what clients ask for most, a hundred at a time, and to make it of
// objects and strings, which JSON.stringify and the socket then turn into bytes, took longer than to find it in the store.

const dayMs = 86_400_000;
/** The names and signs, a UUID, an id of 16 digits, a number of 17 with sign, point and exponent, and a time: 156, and some. */
const maxBytesEach = 192;

const ascii = (text: string): Uint8Array => Buffer.from(text, "latin1");
const beforeFirst = ascii('[{"id":');
const beforeNext = ascii('Z"},{"id":');
const afterLast = ascii('Z"}]');

const zero = 0x30;
const minus = 0x2d;
const point = 0x2e;
const colon = 0x3a;

/** The same text as `JSON.stringify` makes of the readings in the shape of the API (see shapes.ts). */
export function writeReadings(readings: readonly Reading[]): Uint8Array {
  if (readings.length === 0) return ascii("[]");
  const bytes = Buffer.allocUnsafe(readings.length * maxBytesEach);
  let sensorId = "";
  let beforeValue = ascii("");
  let at = 0;
  for (let i = 0; i < readings.length; i++) {
    const reading = readings[i] as Reading;
    if (reading.sensorId !== sensorId) {
      ({ sensorId } = reading);
      beforeValue = ascii(`,"sensor_id":"${sensorId}","value":`);
    }
    at = writeBytes(bytes, at, i === 0 ? beforeFirst : beforeNext);
    at = writeInteger(bytes, at, reading.id);
    at = writeBytes(bytes, at, beforeValue);
    at = writeNumber(bytes, at, reading.value);
    at = writeInstant(bytes, at, reading.valueAt);
  }
  at = writeBytes(bytes, at, afterLast);
  return bytes.subarray(0, at);
}

function writeBytes(bytes: Buffer, at: number, text: Uint8Array): number {
  bytes.set(text, at);
  return at + text.length;
}

/** Not negative. */
function writeInteger(bytes: Buffer, at: number, value: number): number {
  if (value >= 2 ** 31) return at + bytes.write(String(value), at, "latin1");
  let digits = 1;
  for (let power = 10; value >= power; power *= 10) digits++;
  let rest = value | 0;
  for (let i = at + digits - 1; i >= at; i--) {
    const tenth = (rest / 10) | 0;
    bytes[i] = zero + rest - tenth * 10;
    rest = tenth;
  }
  return at + digits;
}

function writeTwoDigits(bytes: Buffer, at: number, value: number): number {
  const tens = (value / 10) | 0;
  bytes[at] = zero + tens;
  bytes[at + 1] = zero + value - tens * 10;
  return at + 2;
}

/** Most values have up to three decimals; all others are written as JavaScript writes them. */
function writeNumber(bytes: Buffer, at: number, value: number): number {
  const thousandths = Math.round(value * 1_000);
  if (thousandths / 1_000 !== value || Math.abs(thousandths) >= 2 ** 31)
    return at + bytes.write(String(value), at, "latin1");
  let rest = thousandths | 0;
  if (rest < 0) {
    bytes[at++] = minus;
    rest = -rest;
  }
  const whole = (rest / 1_000) | 0;
  at = writeInteger(bytes, at, whole);
  rest -= whole * 1_000;
  if (rest === 0) return at;
  bytes[at++] = point;
  for (let power = 100; rest > 0; power /= 10) {
    const digit = (rest / power) | 0;
    bytes[at++] = zero + digit;
    rest -= digit * power;
  }
  return at;
}

/** The instants of one answer mostly share their date. */
let written = { day: NaN, before: ascii("") };

/** {@link formatInstant} as bytes, with the name before it and without the Z after it. */
function writeInstant(bytes: Buffer, at: number, instant: number): number {
  const day = Math.floor(instant / dayMs);
  if (day !== written.day)
    written = {
      day,
      before: ascii(`,"value_at":"${new Date(day * dayMs).toISOString().slice(0, -"00:00:00.000Z".length)}`),
    };
  at = writeBytes(bytes, at, written.before);
  const milliseconds = (instant - day * dayMs) | 0;
  const seconds = (milliseconds / 1_000) | 0;
  const minutes = (seconds / 60) | 0;
  const hours = (minutes / 60) | 0;
  at = writeTwoDigits(bytes, at, hours);
  bytes[at++] = colon;
  at = writeTwoDigits(bytes, at, minutes - hours * 60);
  bytes[at++] = colon;
  at = writeTwoDigits(bytes, at, seconds - minutes * 60);
  const fraction = milliseconds - seconds * 1_000;
  if (fraction > 0) {
    bytes[at++] = point;
    const hundreds = (fraction / 100) | 0;
    bytes[at++] = zero + hundreds;
    at = writeTwoDigits(bytes, at, fraction - hundreds * 100);
  }
  return at;
}
