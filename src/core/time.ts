// Instants are UTC epoch milliseconds inside, RFC 3339 outside.

const rfc3339 = /^(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))$/;

const dayMs = 86_400_000;

const firstInstant = Date.parse("0000-01-01T00:00:00Z");
export const lastInstant = Date.parse("9999-12-31T23:59:59.999Z");

/** How far ahead of the gateway's clock a reading's time may lie. */
export const maxAheadMs = 24 * 60 * 60 * 1000;

/**
 * Epoch milliseconds of an RFC 3339 date-time with any offset; finer fractions are cut to milliseconds.
 * `undefined` for anything else: date alone, no offset, a day that the month does not have, a leap second.
 *
 * @example parseInstant("2026-01-14T11:00:00.250+01:00") // 1768384800250
 */
export function parseInstant(text: string): number | undefined {
  const usual = parseOfDay(text);
  if (usual !== undefined) return usual;
  const match = rfc3339.exec(text);
  if (match === null) return undefined;
  const [year, month, day, hour, minute, second] = match.slice(1, 7).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const offsetHour = Number(match[9] ?? 0);
  const offsetMinute = Number(match[10] ?? 0);
  if (hour > 23 || minute > 59 || second > 59 || offsetHour > 23 || offsetMinute > 59) return undefined;
  const milliseconds = Number((match[7] ?? "").slice(0, 3).padEnd(3, "0"));
  // Date.UTC takes years 0 to 99 for 1900 to 1999; setUTCFullYear does not.
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day);
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) return undefined;
  date.setUTCHours(hour, minute, second, milliseconds);
  const offsetMs = (offsetHour * 60 + offsetMinute) * 60_000;
  readDay = { date: text.slice(0, 10), startAt: Math.floor(date.getTime() / dayMs) * dayMs };
  const at = date.getTime() - (match[8] === "-" ? -offsetMs : offsetMs);
  // The offset may lead out of the years that RFC 3339 can write.
  return at < firstInstant || at > lastInstant ? undefined : at;
}

/** The instants that come at a time mostly share their date; the calendar is asked once. */
let readDay = { date: "", startAt: NaN };

/** `2026-01-14T10:00:00Z` or with milliseconds, on the day that was read last; `undefined`: to be read in full. */
function parseOfDay(text: string): number | undefined {
  const { length } = text;
  if ((length !== 20 && length !== 24) || readDay.date === "" || !text.startsWith(readDay.date)) return undefined;
  if (text[10] !== "T" || text[13] !== ":" || text[16] !== ":" || text[length - 1] !== "Z") return undefined;
  const hour = readTwoDigits(text, 11);
  const minute = readTwoDigits(text, 14);
  const second = readTwoDigits(text, 17);
  if (!(hour <= 23 && minute <= 59 && second <= 59)) return undefined;
  const whole = readDay.startAt + hour * 3_600_000 + minute * 60_000 + second * 1_000;
  if (length === 20) return whole;
  const thousandths = text.charCodeAt(22) - 48;
  const milliseconds = readTwoDigits(text, 20) * 10 + thousandths;
  const isFraction = text[19] === "." && thousandths >= 0 && thousandths <= 9 && milliseconds >= 0;
  return isFraction ? whole + milliseconds : undefined;
}

/** NaN where they are none. */
function readTwoDigits(text: string, at: number): number {
  const tens = text.charCodeAt(at) - 48;
  const ones = text.charCodeAt(at + 1) - 48;
  return tens >= 0 && tens <= 9 && ones >= 0 && ones <= 9 ? tens * 10 + ones : NaN;
}

const twoDigits = Array.from({ length: 60 }, (_, n) => String(n).padStart(2, "0"));
/** The instants of one answer mostly share their date, and `toISOString` takes as long as to read a row. */
let written = { day: NaN, date: "" };

/** RFC 3339 in UTC, with a fraction only where it is not zero, so that `2026-01-14T10:00:00Z` comes back as it went in. */
export function formatInstant(at: number): string {
  const day = Math.floor(at / dayMs);
  if (day !== written.day)
    written = { day, date: new Date(day * dayMs).toISOString().slice(0, -"00:00:00.000Z".length) };
  const milliseconds = at - day * dayMs;
  const seconds = Math.floor(milliseconds / 1_000);
  const minutes = Math.floor(seconds / 60);
  const time = `${twoDigits[Math.floor(minutes / 60)]}:${twoDigits[minutes % 60]}:${twoDigits[seconds % 60]}`;
  const fraction = milliseconds % 1_000;
  return `${written.date}${time}${fraction === 0 ? "" : `.${String(fraction).padStart(3, "0")}`}Z`;
}
