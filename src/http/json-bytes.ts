// JSON straight to bytes, for answers of hundreds or thousands of numbers and instants: to make objects and strings of them,
// which JSON.stringify and the socket then turn into bytes, takes longer than to find them in the store.

const dayMs = 86_400_000;

const zero = 0x30;
const minus = 0x2d;
const point = 0x2e;
const colon = 0x3a;

/** A number of 17 digits with sign, point and exponent. */
export const maxNumberBytes = 25;
/** RFC 3339 with milliseconds. */
export const maxInstantBytes = 24;

export const ascii = (text: string): Uint8Array => Buffer.from(text, "latin1");

export function writeBytes(bytes: Buffer, at: number, text: Uint8Array): number {
  bytes.set(text, at);
  return at + text.length;
}

/** Not negative. */
export function writeInteger(bytes: Buffer, at: number, value: number): number {
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
export function writeNumber(bytes: Buffer, at: number, value: number): number {
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
let written = { day: NaN, date: ascii("") };

/** `formatInstant` (core/time) as bytes, without the Z after it. */
export function writeInstant(bytes: Buffer, at: number, instant: number): number {
  const day = Math.floor(instant / dayMs);
  if (day !== written.day)
    written = { day, date: ascii(new Date(day * dayMs).toISOString().slice(0, -"00:00:00.000Z".length)) };
  at = writeBytes(bytes, at, written.date);
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
