import * as v from "valibot";
import { probeDatabase, probeHealth, probeMqtt, type HealthWord, type Probes } from "../../core/health.ts";
import { route } from "../route.ts";

const tag = "Health";

const word = v.picklist(["healthy", "degraded", "unhealthy"]);
const metricSchema = v.object({ status: word, score: v.number() });
const detailSchema = v.object({
  ...metricSchema.entries,
  details: v.record(v.string(), v.union([v.number(), v.boolean()])),
});

/** What is unhealthy is not available. */
const statusOf = ({ status }: { status: HealthWord }) => (status === "unhealthy" ? 503 : 200);

const errors = { 503: "The same body, where the status is unhealthy" };

export const healthRoutes = ({ probes }: { probes: Probes }) => [
  route({
    method: "get",
    path: "/health",
    tag,
    summary: "Get overall system health",
    description:
      "The score is the weighted sum of the parts': database 35 %, MQTT 25 %, devices 15 %, data 25 %. 70 and more is healthy, less than 30 unhealthy.",
    status: 200,
    statusOf,
    response: v.object({
      status: word,
      score: v.number(),
      metrics: v.object({
        database: metricSchema,
        mqtt: metricSchema,
        deviceManager: metricSchema,
        dataProcessor: metricSchema,
      }),
    }),
    errors,
    handle({ read }) {
      const { status, score, metrics } = read((ctx) => probeHealth(ctx, probes));
      const { database, mqtt, deviceManager, dataProcessor } = metrics;
      const bare = ({ status: state, score: points }: typeof database) => ({ status: state, score: points });
      return {
        status,
        score,
        metrics: {
          database: bare(database),
          mqtt: bare(mqtt),
          deviceManager: bare(deviceManager),
          dataProcessor: bare(dataProcessor),
        },
      };
    },
  }),
  route({
    method: "get",
    path: "/health/database",
    tag,
    summary: "Get the store's health",
    status: 200,
    statusOf,
    response: detailSchema,
    errors,
    handle: () => probeDatabase(probes),
  }),
  route({
    method: "get",
    path: "/health/mqtt",
    tag,
    summary: "Get the broker's health",
    status: 200,
    statusOf,
    response: detailSchema,
    errors,
    handle: () => probeMqtt(probes),
  }),
];
