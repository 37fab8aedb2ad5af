import * as v from "valibot";
import { aggregations } from "../../core/collected.ts";
import { displayIdOf } from "../../core/devices.ts";
import { DomainError } from "../../core/errors.ts";
import { intervals, openZone } from "../../core/intervals.ts";
import {
  openBoughtData,
  readData,
  spendOnData,
  submitPoints,
  type Data,
  type DataPoint,
  type DataQuery,
} from "../../core/points.ts";
import { finiteNumber, instant, label, text, uuid } from "../../core/schemas.ts";
import { formatInstant } from "../../core/time.ts";
import { runToEnd } from "../../steps.ts";
import { route, type Call } from "../route.ts";
import { writeData } from "./data-json.ts";
import { deviceParams, timestamp, wholeNumber } from "./shapes.ts";

const tag = "Data";
const maxPoints = 1_000;

const pointInput = v.pipe(
  v.object({ timestamp: instant, value: finiteNumber, unit: v.optional(label(32)) }),
  v.title("NewPoint"),
);

const pointList = v.pipe(
  v.array(pointInput),
  v.minLength(1, "at least one point is needed"),
  v.maxLength(maxPoints, `no more than ${maxPoints} points at once`),
);

/** One point, or up to a thousand. Not a union: that would say of a wrong point only that it is neither. */
const dataInput = v.lazy((input) => (Array.isArray(input) ? pointList : pointInput));

const pointEntries = {
  timestamp,
  value: v.pipe(v.number(), v.examples([22.5])),
  unit: v.optional(v.pipe(v.string(), v.examples(["°C"]))),
  count: v.optional(v.pipe(v.number(), v.integer(), v.description("Readings behind an aggregated value"))),
};

const pointSchema = v.pipe(v.object(pointEntries), v.title("Point"));

const dataSchema = v.object({ deviceId: v.string(), data: v.array(pointSchema), total: v.number() });

const storedSchema = v.object({ deviceId: v.string(), ...pointEntries });

const dataQuery = v.object({
  from: v.optional(v.pipe(instant, v.description("Start, inclusive"))),
  to: v.optional(v.pipe(instant, v.description("End, exclusive"))),
  limit: v.optional(
    v.pipe(
      wholeNumber(maxPoints),
      v.description("Number of records: 100 by default, and at most 1000; of a series all, unless it is given"),
    ),
  ),
  aggregation: v.optional(v.picklist(aggregations, `must be one of ${aggregations.join(", ")}`)),
  interval: v.optional(v.picklist(intervals, `must be one of ${intervals.join(", ")}`)),
  tz: v.optional(
    v.pipe(
      text(64),
      v.description("The time zone whose hours, days and months the intervals are"),
      v.examples(["Europe/Ljubljana"]),
    ),
  ),
  sensor: v.optional(v.pipe(uuid(), v.description("Another sensor than the primary one"))),
});

function toQuery({ from, to, limit, aggregation, interval, tz, sensor }: v.InferOutput<typeof dataQuery>): DataQuery {
  const zone = openZone(tz ?? "UTC");
  if (zone === undefined)
    throw new DomainError("invalid", "tz must be an IANA time zone, such as Europe/Ljubljana", {
      details: { field: "tz" },
    });
  if (interval !== undefined && aggregation === undefined) {
    throw new DomainError("invalid", "interval needs aggregation", { details: { field: "interval" } });
  }
  if (from !== undefined && to !== undefined && from > to) {
    throw new DomainError("invalid", "from must not be later than to", { details: { field: "from" } });
  }
  return { from, to, limit, aggregation, interval, zone, sensorId: sensor };
}

/** For whoever bought it: what they get to see is counted off first. */
async function readBought(
  { isHead, read, readInSteps, commit }: Call,
  purchaseId: string,
  deviceId: string,
  asked: DataQuery,
): Promise<Data> {
  const left = read((ctx) => openBoughtData(ctx, purchaseId, deviceId, asked));
  const data = await readInSteps((ctx) => readData(ctx, deviceId, asked, left));
  return isHead ? data : await commit((ctx) => spendOnData(ctx, purchaseId, data, asked));
}

export const dataRoutes = () => [
  route({
    method: "get",
    path: "/data/:deviceId",
    access: "data",
    tag,
    summary: "Get a device's data",
    description:
      "Points of the primary sensor, newest first. With `aggregation` one value over the range; with `interval` besides, a series, oldest first, each value stamped at its interval's start. Access keys of a purchase are taken here too.",
    params: deviceParams,
    query: dataQuery,
    status: 200,
    response: dataSchema,
    errors: { 403: "FORBIDDEN or QUOTA_EXCEEDED: not what this access key has bought", 404: "NOT_FOUND" },
    async handle(call, { params: { deviceId }, query }) {
      const asked = toQuery(query);
      const { actor, readInSteps } = call;
      const data =
        actor.kind === "access-key"
          ? await readBought(call, actor.purchaseId, deviceId, asked)
          : await readInSteps((ctx) => readData(ctx, deviceId, asked));
      return await readInSteps(() => writeData(displayIdOf(data.device), data));
    },
  }),
  route({
    method: "post",
    path: "/data/:deviceId",
    tag,
    summary: "Submit device data",
    description:
      "One point, or an array of up to 1000 that are stored together or not at all. Answers once they are durable.",
    params: deviceParams,
    query: v.object({ sensor: v.optional(uuid()) }),
    body: dataInput,
    bodyDocument: v.union([pointInput, pointList]),
    status: 201,
    response: v.union([storedSchema, dataSchema]),
    errors: {
      404: "NOT_FOUND",
      503: "UNAVAILABLE: the store takes no readings now; come back after `Retry-After` seconds",
    },
    async handle({ commit }, { params: { deviceId }, query: { sensor }, body }) {
      const points = (Array.isArray(body) ? body : [body]).map(({ timestamp: at, value, unit }) => ({
        at,
        value,
        unit,
      }));
      const data = await commit((ctx) => submitPoints(ctx, deviceId, sensor, points));
      const shownId = displayIdOf(data.device);
      if (Array.isArray(body)) return runToEnd(writeData(shownId, data));
      const { unit } = data;
      const [{ at, value }] = data.points as [DataPoint];
      return { deviceId: shownId, timestamp: formatInstant(at), value, ...(unit !== null && { unit }) };
    },
  }),
];
