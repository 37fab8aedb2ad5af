import { createDamage } from "./damage.ts";

// How readings lie on the disk: columns of numbers that differ little from one to the next, each written as the change
// of the change, in as few bytes as it takes. A sensor that reports each minute costs 3 to 5 bytes a reading, its id
// included, where a row with its index costs 50.

/** Readings of one sensor, column by column. */
export interface Columns {
  ids: number[];
  /** Epoch milliseconds. */
  times: number[];
  values: number[];
}

export const emptyColumns = (): Columns => ({ ids: [], times: [], values: [] });

/** Decimals with more places than that, results of a division for instance, are written as doubles. */
const maxPlaces = 9;
const powersOfTen = Array.from({ length: maxPlaces + 1 }, (_, places) => 10 ** places);
/** Scaled values and their differences stay whole numbers below 2^53. */
const maxScaled = 2 ** 50;

/** Instead of a number of places: the values are doubles, eight bytes each. */
const asDoubles = 255;
const formatVersion = 1;

/** Whole numbers of any sign below 2^52, seven bits to a byte, the sign in the lowest bit. */
function createByteWriter() {
  let bytes = Buffer.allocUnsafe(16_384);
  let length = 0;
  return {
    reset(): void {
      length = 0;
    },
    length: () => length,
    byte(value: number): void {
      reserve(1);
      bytes[length++] = value;
    },
    integer(value: number): void {
      reserve(8);
      let rest = value < 0 ? -2 * value - 1 : 2 * value;
      while (rest >= 0x4000_0000) {
        bytes[length++] = (rest % 128) | 0x80;
        rest = Math.floor(rest / 128);
      }
      while (rest >= 0x80) {
        bytes[length++] = (rest & 0x7f) | 0x80;
        rest >>>= 7;
      }
      bytes[length++] = rest;
    },
    double(value: number): void {
      reserve(8);
      length = bytes.writeDoubleLE(value, length);
    },
    /** A copy of what has been written. */
    take: (): Buffer => Buffer.from(bytes.subarray(0, length)),
  };

  function reserve(more: number): void {
    if (length + more <= bytes.length) return;
    const larger = Buffer.allocUnsafe(bytes.length * 2);
    bytes.copy(larger, 0, 0, length);
    bytes = larger;
  }
}

/** Throws where the bytes cannot be what {@link createByteWriter} has written. */
function createByteReader(bytes: Uint8Array) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  return {
    byte: (): number => bytes[at++] as number,
    /** How many readings follow, of `least` bytes each. */
    count(least: number): number {
      const count = this.integer();
      if (!(count >= 0 && count * least <= bytes.length - at)) throw createDamage();
      return count;
    },
    /** To be called when all has been read: what is missing at the end reads as zeros until then. */
    end(): void {
      if (at !== bytes.length) throw createDamage();
    },
    integer(): number {
      let byte = bytes[at++] as number;
      let raw = byte & 0x7f;
      // Up to 28 bits by shifting; what is longer, by multiplying.
      for (let shift = 7; byte >= 0x80; shift += 7) {
        byte = bytes[at++] as number;
        raw = shift < 28 ? raw | ((byte & 0x7f) << shift) : raw + (byte & 0x7f) * 2 ** shift;
      }
      if (raw < 0x8000_0000) return raw & 1 ? -((raw + 1) >>> 1) : raw >>> 1;
      return raw % 2 === 1 ? -(raw + 1) / 2 : raw / 2;
    },
    double(): number {
      at += 8;
      if (at > bytes.length) throw createDamage();
      return view.getFloat64(at - 8, true);
    },
  };
}

const writer = createByteWriter();

/** The least number of decimal places with which every value is a whole number and comes back the same to the last bit. */
function countPlaces(values: readonly number[], from: number, to: number): number {
  let places = 0;
  let largest = 0;
  for (let i = from; i < to; i++) {
    const value = values[i] as number;
    largest = Math.max(largest, Math.abs(value));
    for (;;) {
      const power = powersOfTen[places] as number;
      // The places that a small value needs are a large one's too.
      if (largest * power > maxScaled) return asDoubles;
      if (Math.round(value * power) / power === value) break;
      if (++places > maxPlaces) return asDoubles;
    }
  }
  return places;
}

function writeChanges(column: readonly number[], from: number, to: number): void {
  let last = 0;
  let lastChange = 0;
  for (let i = from; i < to; i++) {
    const value = column[i] as number;
    const change = value - last;
    writer.integer(change - lastChange);
    // The first one is the distance from zero, and says nothing about the next.
    lastChange = i === from ? 0 : change;
    last = value;
  }
}

function writeDecimals(values: readonly number[], from: number, to: number, places: number): void {
  const power = powersOfTen[places] as number;
  let last = 0;
  for (let i = from; i < to; i++) {
    const scaled = Math.round((values[i] as number) * power);
    writer.integer(scaled - last);
    last = scaled;
  }
}

/** The readings [from, to) of `columns` as bytes. Values are finite, and none is minus zero. */
export function encodeColumns({ ids, times, values }: Columns, from = 0, to = ids.length): Buffer {
  writer.reset();
  writer.byte(formatVersion);
  writer.integer(to - from);
  writeChanges(times, from, to);
  writeChanges(ids, from, to);
  const places = countPlaces(values, from, to);
  writer.byte(places);
  if (places === asDoubles) for (let i = from; i < to; i++) writer.double(values[i] as number);
  else writeDecimals(values, from, to, places);
  return writer.take();
}

/** What {@link encodeColumns} has written. @throws SQLITE_CORRUPT for what it never writes */
export function decodeColumns(bytes: Uint8Array): Columns {
  const reader = createByteReader(bytes);
  const version = reader.byte();
  if (version !== formatVersion) throw createDamage();
  const count = reader.count(2);
  const times = readChanges(reader, count);
  const ids = readChanges(reader, count);
  const places = reader.byte();
  const values: number[] = [];
  if (places === asDoubles) for (let i = 0; i < count; i++) values.push(reader.double());
  else {
    const power = powersOfTen[places];
    if (power === undefined) throw createDamage();
    let scaled = 0;
    for (let i = 0; i < count; i++) {
      scaled += reader.integer();
      values.push(scaled / power);
    }
  }
  reader.end();
  return { ids, times, values };
}

function readChanges(reader: ReturnType<typeof createByteReader>, count: number): number[] {
  const column: number[] = [];
  let value = 0;
  let change = 0;
  for (let i = 0; i < count; i++) {
    change += reader.integer();
    value += change;
    column.push(value);
    if (i === 0) change = 0;
  }
  return column;
}

/** A reading that has come, in the order of arrival; `sensorPk` 0 where it is not there any more. */
export interface Arrival {
  sensorPk: number;
  valueAt: number;
  value: number;
  /** By which a message that is sent again is known; 0: by nothing. */
  fingerprint: number;
}

/** Readings of consecutive ids, of whatever sensors, as bytes. `at(i)` may give the same object each time. */
export function encodeArrivals(count: number, at: (i: number) => Arrival): Buffer {
  writer.reset();
  writer.byte(formatVersion);
  writer.integer(count);
  let lastAt = 0;
  for (let i = 0; i < count; i++) {
    const { sensorPk, valueAt, value, fingerprint } = at(i);
    const isMarked = fingerprint !== 0;
    writer.integer(isMarked ? -sensorPk - 1 : sensorPk);
    if (isMarked) writer.double(fingerprint);
    if (sensorPk === 0) continue;
    writer.integer(valueAt - lastAt);
    lastAt = valueAt;
    writer.double(value);
  }
  return writer.take();
}

/** What {@link encodeArrivals} has written, one after the other. @returns how many there were */
export function decodeArrivals(
  bytes: Uint8Array,
  visit: (i: number, sensorPk: number, valueAt: number, value: number, fingerprint: number) => void,
): number {
  const reader = createByteReader(bytes);
  const version = reader.byte();
  if (version !== formatVersion) throw createDamage();
  const count = reader.count(1);
  let valueAt = 0;
  for (let i = 0; i < count; i++) {
    const marked = reader.integer();
    const sensorPk = marked < 0 ? -marked - 1 : marked;
    const fingerprint = marked < 0 ? reader.double() : 0;
    if (sensorPk === 0) visit(i, 0, 0, 0, fingerprint);
    else {
      valueAt += reader.integer();
      visit(i, sensorPk, valueAt, reader.double(), fingerprint);
    }
  }
  reader.end();
  return count;
}
