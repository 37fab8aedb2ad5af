import type { Data } from "../../core/points.ts";
import type { Steps } from "../../steps.ts";
import {
  ascii,
  maxInstantBytes,
  maxNumberBytes,
  writeBytes,
  writeInstant,
  writeInteger,
  writeNumber,
} from "../json-bytes.ts";

// Points as JSON: a chart of a year has thousands of them.

/** To write so many takes about 0.2 ms. */
const pointsPerStep = 512;

const beforeTime = ascii('{"timestamp":"');
const beforeValue = ascii('Z","value":');
const beforeCount = ascii(',"count":');
const afterLast = ascii("}");
const comma = ascii(",");

const bytesAround = beforeTime.length + beforeValue.length + beforeCount.length + 2;

/** The same text as `JSON.stringify` makes of the data in the shape of the API (see `dataSchema` in data.ts). */
export function* writeData(deviceId: string, { points, unit, total }: Data): Steps<Uint8Array> {
  const unitBytes = Buffer.from(unit === null ? "" : `,"unit":${JSON.stringify(unit)}`);
  const maxBytesEach = bytesAround + maxInstantBytes + 2 * maxNumberBytes + unitBytes.length;
  const parts: Uint8Array[] = [Buffer.from(`{"deviceId":${JSON.stringify(deviceId)},"data":[`)];
  for (let from = 0; from < points.length; from += pointsPerStep) {
    if (from > 0) yield;
    const to = Math.min(points.length, from + pointsPerStep);
    const bytes = Buffer.allocUnsafe((to - from) * maxBytesEach);
    let at = 0;
    for (let i = from; i < to; i++) {
      const { at: instant, value, count } = points[i] as Data["points"][number];
      if (i > 0) at = writeBytes(bytes, at, comma);
      at = writeBytes(bytes, at, beforeTime);
      at = writeInstant(bytes, at, instant);
      at = writeBytes(bytes, at, beforeValue);
      at = writeNumber(bytes, at, value);
      at = writeBytes(bytes, at, unitBytes);
      if (count !== undefined) at = writeInteger(bytes, writeBytes(bytes, at, beforeCount), count);
      at = writeBytes(bytes, at, afterLast);
    }
    parts.push(bytes.subarray(0, at));
  }
  parts.push(ascii(`],"total":${total}}`));
  return Buffer.concat(parts);
}
