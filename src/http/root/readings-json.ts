import type { Reading } from "../../core/readings.ts";
import {
  ascii,
  maxInstantBytes,
  maxNumberBytes,
  writeBytes,
  writeInstant,
  writeInteger,
  writeNumber,
} from "../json-bytes.ts";

// A list of readings as JSON: what clients ask for most, a hundred at a time.

/** The names and signs, a UUID, an id of 16 digits, a number and a time, and some. */
const maxBytesEach = 128 + maxNumberBytes + maxInstantBytes;

const beforeFirst = ascii('[{"id":');
const beforeNext = ascii('Z"},{"id":');
const beforeTime = ascii(',"value_at":"');
const afterLast = ascii('Z"}]');

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
    at = writeBytes(bytes, at, beforeTime);
    at = writeInstant(bytes, at, reading.valueAt);
  }
  at = writeBytes(bytes, at, afterLast);
  return bytes.subarray(0, at);
}
