import * as v from "valibot";
import { createReading, deleteReading, getReading, listReadings, updateReading } from "../../core/readings.ts";
import { route } from "../route.ts";
import { writeReadings } from "./readings-json.ts";
import {
  messageSchema,
  readingInput,
  readingParams,
  readingQuery,
  readingSchema,
  readingUpdate,
  rowIdSchema,
  toReading,
} from "./shapes.ts";

const tag = "Sensor readings";
const errors = { 404: "Not Found: reading not found" };

export const readingRoutes = () => [
  route({
    method: "post",
    path: "/sensor-readings",
    tag,
    summary: "Create a sensor reading",
    description:
      "Answers 201 once the reading is durable. The same sensor, `value_at` and value again is the same reading, with the same id.",
    body: readingInput,
    status: 201,
    response: rowIdSchema,
    errors: { 503: "The store takes no readings now: come back after `Retry-After` seconds" },
    async handle({ commit }, { body: { sensor_id, value, value_at } }) {
      const { id } = await commit((ctx) => createReading(ctx, { sensorId: sensor_id, value, valueAt: value_at }));
      return { id };
    },
  }),
  route({
    method: "get",
    path: "/sensor-readings",
    tag,
    summary: "List sensor readings",
    description:
      "Newest first. `from` is inclusive, `to` exclusive. Without `sensor_id`, `page` leads back 100,000 readings at most.",
    query: readingQuery,
    status: 200,
    response: v.array(readingSchema),
    async handle({ readInSteps }, { query: { sensor_id, limit, page, from, to } }) {
      const query = { sensorId: sensor_id, from, to, limit, offset: page * limit };
      return writeReadings(await readInSteps((ctx) => listReadings(ctx, query)));
    },
  }),
  route({
    method: "get",
    path: "/sensor-readings/:id",
    tag,
    summary: "Get one reading",
    params: readingParams,
    status: 200,
    response: readingSchema,
    errors,
    handle: ({ read }, { params: { id } }) => toReading(read((ctx) => getReading(ctx, id))),
  }),
  route({
    method: "put",
    path: "/sensor-readings/:id",
    tag,
    summary: "Update one reading",
    description: "All fields are optional.",
    params: readingParams,
    body: readingUpdate,
    status: 200,
    response: messageSchema,
    errors,
    async handle({ commit }, { params: { id }, body: { value, value_at } }) {
      await commit((ctx) => updateReading(ctx, id, { value, valueAt: value_at }));
      return { message: "sensor reading updated" };
    },
  }),
  route({
    method: "delete",
    path: "/sensor-readings/:id",
    tag,
    summary: "Delete one reading",
    params: readingParams,
    status: 200,
    response: messageSchema,
    errors,
    async handle({ commit }, { params: { id } }) {
      await commit((ctx) => deleteReading(ctx, id));
      return { message: "sensor reading deleted" };
    },
  }),
];
