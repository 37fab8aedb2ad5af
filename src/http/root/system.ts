import * as v from "valibot";
import { pingBroker, type PublishCommand } from "../../core/commands.ts";
import { route } from "../route.ts";

const tag = "System";

export interface SystemDeps {
  publish: PublishCommand;
  isHealthy: () => boolean;
}

export const systemRoutes = ({ publish, isHealthy }: SystemDeps) => [
  route({
    method: "get",
    path: "/health",
    access: "public",
    tag,
    summary: "Check the service's health",
    description: "503 with `error` when the store does not answer or did not take the last commit.",
    status: 200,
    response: v.object({ status: v.picklist(["ok", "error"]) }),
    statusOf: ({ status }) => (status === "ok" ? 200 : 503),
    handle: () => ({ status: isHealthy() ? "ok" : "error" }) as const,
  }),
  route({
    method: "get",
    path: "/hello",
    access: "public",
    tag,
    summary: "Test the connection",
    status: 200,
    response: v.object({ message: v.string() }),
    handle: () => ({ message: "hello from lambdaiot" }),
  }),
  route({
    method: "get",
    path: "/mqttping",
    tag,
    summary: "Publish a ping message to the broker",
    status: 200,
    response: v.object({ timestamp: v.pipe(v.string(), v.metadata({ format: "date-time" })), topic: v.string() }),
    errors: { 500: "Failed to publish to MQTT" },
    async handle({ read }) {
      const ping = read(pingBroker);
      return { timestamp: ping.timestamp, topic: await publish(ping) };
    },
  }),
];
