import * as v from "valibot";
import { pingBroker, type PublishCommand } from "../../core/commands.ts";
import { DomainError } from "../../core/errors.ts";
import { route } from "../route.ts";

const tag = "System";

export interface SystemDeps {
  publish: PublishCommand;
  isHealthy: () => boolean;
  authority: () => string | undefined;
}

export const systemRoutes = ({ publish, isHealthy, authority }: SystemDeps) => [
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
    path: "/ca.crt",
    access: "public",
    tag,
    summary: "Download the certificate of the gateway's own authority",
    description:
      "For devices, programs and browsers that are to trust this gateway. Compare its fingerprint with the one that `lambdaiot cert init` printed.",
    status: 200,
    response: v.pipe(
      v.unknown(),
      v.metadata({ type: "string", examples: ["-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n"] }),
    ),
    contentType: "application/x-x509-ca-cert",
    errors: { 404: "Not Found: the gateway has no authority of its own" },
    handle() {
      const pem = authority();
      if (pem === undefined) throw new DomainError("not_found", "the gateway has no certificate authority of its own");
      return new Response(pem, { headers: { "Content-Type": "application/x-x509-ca-cert" } });
    },
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
