// Sums of doubles without rounding on the way, after J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic"
// (1997): a sum is a list of doubles that do not overlap, smallest first. Sums of sums come out the same in whatever
// order and grouping they are made, which is what lets a year of rollups equal the year's raw readings to the last bit.

export type ExactSum = number[];

/** Adds `x` to `sum`, in place. Beyond the range of doubles the sum stays at its edge. */
export function addExact(sum: ExactSum, x: number): void {
  let used = 0;
  for (let i = 0; i < sum.length; i++) {
    let y = sum[i] as number;
    if (Math.abs(x) < Math.abs(y)) [x, y] = [y, x];
    const high = x + y;
    if (!Number.isFinite(high)) {
      sum.length = 0;
      sum.push(Math.sign(high) * Number.MAX_VALUE);
      return;
    }
    const low = y - (high - x);
    if (low !== 0) sum[used++] = low;
    x = high;
  }
  sum.length = used;
  if (x !== 0 || used === 0) sum.push(x);
}

/** The double nearest to the sum, ties to even. */
export function roundSum(sum: ExactSum): number {
  let n = sum.length;
  if (n === 0) return 0;
  let high = sum[--n] as number;
  let low = 0;
  while (n > 0) {
    const x = high;
    const y = sum[--n] as number;
    high = x + y;
    low = y - (high - x);
    if (low !== 0) break;
  }
  // What is left decides a tie: without it, a half-way case would be rounded as if nothing followed.
  const next = n > 0 ? (sum[n - 1] as number) : 0;
  if ((low < 0 && next < 0) || (low > 0 && next > 0)) {
    const twice = low * 2;
    const x = high + twice;
    if (twice === x - high) high = x;
  }
  return high;
}

/**
 * What rounding has left over of a sum: nothing, mostly one number, seldom more of them, as doubles in a row. A number by
 * itself is a column like any other to SQLite; bytes would be an object for each row.
 */
export type SumRest = null | number | Buffer;

/** A sum as it is stored: rounded, and what the rounding left over. */
export function packSum(sum: ExactSum): { sum: number; rest: SumRest } {
  const rounded = roundSum(sum);
  const rest = [...sum];
  addExact(rest, -rounded);
  const parts = rest.filter((part) => part !== 0);
  const [first = null] = parts;
  return { sum: rounded, rest: parts.length < 2 ? first : Buffer.from(new Float64Array(parts).buffer) };
}

/** Adds a stored sum to `sum`, in place. */
export function addPacked(sum: ExactSum, rounded: number, rest: SumRest): void {
  addExact(sum, rounded);
  if (rest === null) return;
  if (typeof rest === "number") {
    addExact(sum, rest);
    return;
  }
  for (let i = 0; i < rest.length; i += 8) addExact(sum, rest.readDoubleLE(i));
}
