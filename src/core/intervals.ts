// The buckets of a time series: where one begins and ends, on the clock of a place, right across daylight saving.

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
const dayMs = 24 * hourMs;
const weekMs = 7 * dayMs;

/** The intervals of `/v1/data`, in milliseconds where they have a fixed length. */
const lengths = {
  "1m": minuteMs,
  "5m": 5 * minuteMs,
  "15m": 15 * minuteMs,
  "1h": hourMs,
  "1d": dayMs,
  "1w": weekMs,
  "1mo": 30 * dayMs,
} as const;

export type Interval = keyof typeof lengths;
export const intervals = Object.keys(lengths) as [Interval, ...Interval[]];

/** A bucket's usual length: a month counts 30 days. */
export const lengthOf = (interval: Interval): number => lengths[interval];

/** A place's clock. */
export interface Zone {
  /** What the clock is ahead of UTC at an instant, in milliseconds, whole minutes. */
  offsetAt(at: number): number;
}

export const utc: Zone = { offsetAt: () => 0 };

const zones = new Map<string, Zone>();
const maxZones = 64;

/** The clock of an IANA time zone such as `Europe/Ljubljana`; `undefined` where there is none of that name. */
export function openZone(name: string): Zone | undefined {
  if (name === "UTC") return utc;
  const known = zones.get(name);
  if (known !== undefined) return known;
  let format: Intl.DateTimeFormat;
  try {
    format = new Intl.DateTimeFormat("en", { timeZone: name, timeZoneName: "longOffset" });
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
  if (zones.size >= maxZones) zones.clear();
  const zone = createZone((at) => readOffset(format, at));
  zones.set(name, zone);
  return zone;
}

/** "GMT+05:30" or "GMT" from the platform's time-zone data; the seconds of the 19th century's local times are dropped. */
function readOffset(format: Intl.DateTimeFormat, at: number): number {
  const name = format.formatToParts(at).find(({ type }) => type === "timeZoneName")?.value ?? "";
  const match = /([+-])(\d\d):(\d\d)/.exec(name);
  if (match === null) return 0;
  const offset = Number(match[2]) * hourMs + Number(match[3]) * minuteMs;
  return match[1] === "-" ? -offset : offset;
}

/** Asks the platform twice a week of the calendar, not once a reading: that costs microseconds each time. */
function createZone(read: (at: number) => number): Zone {
  const weeks = new Map<number, { before: number; after: number; changesAt: number }>();
  const maxWeeks = 10_000;
  return {
    offsetAt(at) {
      const index = Math.floor(at / weekMs);
      let week = weeks.get(index);
      if (week === undefined) {
        if (weeks.size >= maxWeeks) weeks.clear();
        week = findChange(read, index * weekMs);
        weeks.set(index, week);
      }
      return at < week.changesAt ? week.before : week.after;
    },
  };
}

function findChange(read: (at: number) => number, start: number): { before: number; after: number; changesAt: number } {
  const before = read(start);
  const after = read(start + weekMs - 1);
  if (before === after) return { before, after, changesAt: start };
  let low = start; // still `before`
  let high = start + weekMs - 1; // already `after`
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (read(middle) === before) low = middle;
    else high = middle;
  }
  return { before, after, changesAt: high };
}

export interface Buckets {
  /** The start of the bucket that `at` lies in. */
  startOf(at: number): number;
  /** The start of the bucket after the one that begins at `start`. */
  endOf(start: number): number;
}

/** Weeks begin on Monday (ISO 8601), days and months at the place's midnight or what comes instead of it. */
export function createBuckets(interval: Interval, zone: Zone): Buckets {
  if (lengths[interval] <= hourMs) return createClockBuckets(lengths[interval], zone);
  const floor = { "1d": floorDay, "1w": floorWeek, "1mo": floorMonth }[interval as "1d" | "1w" | "1mo"];
  const next = { "1d": (day: number) => day + dayMs, "1w": (week: number) => week + weekMs, "1mo": nextMonth }[
    interval as "1d" | "1w" | "1mo"
  ];
  const localStart = (at: number): number => floor(at + zone.offsetAt(at));
  return {
    startOf: (at) => fromLocal(localStart(at), zone),
    endOf: (start) => fromLocal(next(localStart(start)), zone),
  };
}

/** Up to an hour: marks on the place's clock. The hour that comes twice in autumn is two buckets. */
function createClockBuckets(length: number, zone: Zone): Buckets {
  const startOf = (at: number): number => {
    const offset = zone.offsetAt(at);
    return Math.floor((at + offset) / length) * length - offset;
  };
  return { startOf, endOf: (start) => startOf(start + length) };
}

const floorDay = (local: number): number => Math.floor(local / dayMs) * dayMs;

/** 1970-01-01 was a Thursday. */
const floorWeek = (local: number): number => Math.floor((local + 3 * dayMs) / weekMs) * weekMs - 3 * dayMs;

// Not with Date.UTC, which takes the years 0 to 99 for 1900 to 1999.
const floorMonth = (local: number): number => new Date(floorDay(local)).setUTCDate(1);

function nextMonth(month: number): number {
  const date = new Date(month);
  return date.setUTCMonth(date.getUTCMonth() + 1);
}

/** The first instant at which the place's clock shows `local` or, where it skips that, what comes after. */
function fromLocal(local: number, zone: Zone): number {
  const before = zone.offsetAt(local - dayMs);
  const after = zone.offsetAt(local + dayMs);
  const candidates = [local - before, local - after].filter((at) => at + zone.offsetAt(at) === local);
  if (candidates.length > 0) return Math.min(...candidates);
  let low = local - Math.max(before, after); // before the clock is put forward
  let high = local - Math.min(before, after);
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (zone.offsetAt(middle) === before) low = middle;
    else high = middle;
  }
  return zone.offsetAt(low) === before ? high : low;
}
