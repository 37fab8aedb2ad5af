import { emptyColumns, encodeColumns, type Columns } from "./columns.ts";
import type { Place } from "./readings.ts";

// Readings of one sensor in the order (value_at, id), and how they are cut into blocks.

/** With the rest of its row, a block of that size fills a page of 4,096 bytes. */
export const maxBlockBytes = 3_950;

/** The index, `low` at least, of the first reading that does not come before the place. */
export function placeIn({ ids, times }: Columns, { at, id }: Place, low = 0): number {
  let high = ids.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const otherAt = times[middle] as number;
    if (otherAt < at || (otherAt === at && (ids[middle] as number) < id)) low = middle + 1;
    else high = middle;
  }
  return low;
}

export const slice = ({ ids, times, values }: Columns, from: number, to: number): Columns =>
  from === 0 && to === ids.length
    ? { ids, times, values }
    : { ids: ids.slice(from, to), times: times.slice(from, to), values: values.slice(from, to) };

export function cut({ ids, times, values }: Columns, i: number): void {
  for (const column of [ids, times, values]) column.splice(i, 1);
}

export function isBefore(a: Columns, i: number, b: Columns, j: number): boolean {
  const atA = a.times[i] as number;
  const atB = b.times[j] as number;
  return atA < atB || (atA === atB && (a.ids[i] as number) < (b.ids[j] as number));
}

/** Both in one order. */
export function interleave(a: Columns, b: Columns): Columns {
  const merged = emptyColumns();
  const take = (from: Columns, i: number): void => {
    merged.ids.push(from.ids[i] as number);
    merged.times.push(from.times[i] as number);
    merged.values.push(from.values[i] as number);
  };
  let i = 0;
  let j = 0;
  while (i < a.ids.length || j < b.ids.length) {
    if (j === b.ids.length || (i < a.ids.length && isBefore(a, i, b, j))) take(a, i++);
    else take(b, j++);
  }
  return merged;
}

export interface BlockValues {
  startAt: number;
  startId: number;
  endAt: number;
  count: number;
  minId: number;
  maxId: number;
  data: Buffer;
}

/**
 * Cuts readings into blocks of a page at most. The newest are packed tightly, since what comes next comes after them;
 * in between, each block keeps room for more of what comes late.
 */
export function split(readings: Columns, isLast: boolean): BlockValues[] {
  const { length } = readings.ids;
  const found: BlockValues[] = [];
  let size = length;
  if (!isLast) {
    const { length: bytes } = encodeColumns(readings);
    if (bytes > maxBlockBytes) size = Math.ceil(length / Math.ceil(bytes / (0.7 * maxBlockBytes)));
  }
  for (let from = 0; from < length;) {
    let to = Math.min(length, from + size);
    let data = encodeColumns(readings, from, to);
    while (data.length > maxBlockBytes) {
      // How much a reading takes changes little: the second try fits nearly always.
      to = from + Math.max(1, Math.floor((to - from) * (maxBlockBytes / data.length) * 0.985));
      data = encodeColumns(readings, from, to);
    }
    if (isLast) size = Math.ceil((to - from) * 1.02);
    found.push(toValues(readings, from, to, data));
    from = to;
  }
  return found;
}

function toValues({ ids, times }: Columns, from: number, to: number, data: Buffer): BlockValues {
  let minId = Infinity;
  let maxId = 0;
  for (let i = from; i < to; i++) {
    const id = ids[i] as number;
    if (id < minId) minId = id;
    if (id > maxId) maxId = id;
  }
  return {
    startAt: times[from] as number,
    startId: ids[from] as number,
    endAt: times[to - 1] as number,
    count: to - from,
    minId,
    maxId,
    data,
  };
}
