import { runToEnd, type Steps } from "../steps.ts";
import type { Ctx } from "./ctx.ts";

/** After so many tries it is read without a pause: it changes all the time. */
const maxTries = 4;

/**
 * Reads of a sensor, or of all, what is there at one moment, in steps: where something of it changes between two of them,
 * which is seldom, anew. `read` keeps to readings up to {@link Readings.lastId} at its start.
 */
export function* ofOneMoment<T>(ctx: Ctx, sensorPk: number | undefined, read: () => Steps<T>): Steps<T> {
  for (let tries = 1; tries < maxTries; tries++) {
    const revision = ctx.readings.revisionOf(sensorPk);
    const steps = read();
    while (ctx.readings.revisionOf(sensorPk) === revision) {
      const step = steps.next();
      if (step.done === true) return step.value;
      yield;
    }
  }
  return runToEnd(read());
}
