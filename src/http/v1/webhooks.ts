import * as v from "valibot";
import { DomainError } from "../../core/errors.ts";
import { label } from "../../core/schemas.ts";
import { formatInstant } from "../../core/time.ts";
import {
  createWebhook,
  deleteWebhook,
  listDeliveries,
  listWebhooks,
  testWebhook,
  webhookEvents,
  type Delivery,
  type Webhook,
  type WebhookLimits,
} from "../../core/webhooks.ts";
import { findForbiddenTarget } from "../../core/targets.ts";
import { route } from "../route.ts";
import { pageQuery, successSchema, timestamp } from "./shapes.ts";

export interface WebhookDeps {
  limits: WebhookLimits;
}

const tag = "Webhooks";
const params = v.object({ webhookId: label(64) });
const errors = { 403: "FORBIDDEN: administrators only", 404: "NOT_FOUND" };

const event = v.picklist(webhookEvents, `must be one of ${webhookEvents.join(", ")}`);

const webhookInput = v.object({
  url: v.pipe(
    v.string("must be a string"),
    v.maxLength(2_048, "must not be longer than 2048 characters"),
    v.metadata({ format: "uri" }),
    v.examples(["http://192.168.1.20:8123/hooks/lambdaiot"]),
  ),
  events: v.pipe(
    v.array(event, "must be a list of events"),
    v.minLength(1, "must name one event or more"),
    v.maxLength(50, "must not name more than 50"),
  ),
  secret: v.optional(
    v.pipe(
      v.string("must be a string"),
      v.nonEmpty("must not be empty"),
      v.maxLength(512, "must not be longer than 512 characters"),
      v.check(
        (secret) =>
          !secret.startsWith("whsec_") ||
          /^whsec_(?=.)(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(secret),
        "must be base64 after whsec_",
      ),
    ),
  ),
});

const webhookSchema = v.object({
  id: v.string(),
  url: v.string(),
  events: v.array(v.string()),
  enabled: v.boolean(),
  dropped: v.pipe(v.number(), v.description("Deliveries given up because too many were waiting.")),
  createdAt: timestamp,
});

const toWebhook = ({ id, url, events, isEnabled, dropped, createdAt }: Webhook) => ({
  id,
  url,
  events,
  enabled: isEnabled,
  dropped,
  createdAt: formatInstant(createdAt),
});

const deliverySchema = v.object({
  id: v.pipe(v.string(), v.description("The `webhook-id` header of every try.")),
  event: v.string(),
  status: v.picklist(["pending", "delivered", "failed"]),
  attempts: v.number(),
  createdAt: timestamp,
  lastAttemptAt: v.nullable(timestamp),
  nextAttemptAt: v.nullable(timestamp),
  responseStatus: v.nullable(v.number()),
  error: v.nullable(v.string()),
});

const toDelivery = ({
  id,
  event: type,
  status,
  attempts,
  createdAt,
  lastAttemptAt,
  nextAttemptAt,
  responseStatus,
  error,
}: Delivery) => ({
  id,
  event: type,
  status,
  attempts,
  createdAt: formatInstant(createdAt),
  lastAttemptAt: lastAttemptAt === null ? null : formatInstant(lastAttemptAt),
  nextAttemptAt: status === "pending" ? formatInstant(nextAttemptAt) : null,
  responseStatus,
  error,
});

/** What can be told from the URL alone; names are looked up, and addresses checked, when it is called. */
function requireTarget(text: string): string {
  const url = URL.parse(text);
  const field = { details: { field: "url" } };
  if (url === null || !["http:", "https:"].includes(url.protocol))
    throw new DomainError("invalid", "url must be an http or https URL", field);
  if (url.username !== "" || url.password !== "")
    throw new DomainError("invalid", "url must not carry a user or a password", field);
  const forbidden = findForbiddenTarget(url.hostname.replaceAll(/[[\]]/g, ""));
  if (forbidden !== undefined) throw new DomainError("invalid", `url leads to ${forbidden}`, field);
  return url.href;
}

export const webhookRoutes = ({ limits }: WebhookDeps) => [
  route({
    method: "post",
    path: "/webhooks",
    access: "admin",
    tag,
    summary: "Create a webhook",
    description:
      "Deliveries are signed as Standard Webhooks 1.0.0 has it. `secret` is shown this once; without one of your own, one is made.",
    body: webhookInput,
    status: 201,
    response: v.object({ ...webhookSchema.entries, secret: v.string() }),
    errors: { 403: errors[403], 409: "CONFLICT: too many webhooks" },
    async handle({ commit }, { body: { url, events, secret } }) {
      const webhook = await commit((ctx) => createWebhook(ctx, { url: requireTarget(url), events, secret }, limits));
      return { ...toWebhook(webhook), secret: webhook.secret };
    },
  }),
  route({
    method: "get",
    path: "/webhooks",
    access: "admin",
    tag,
    summary: "List webhooks",
    status: 200,
    response: v.object({ webhooks: v.array(webhookSchema) }),
    errors: { 403: errors[403] },
    handle: ({ read }) => ({ webhooks: read(listWebhooks).map(toWebhook) }),
  }),
  route({
    method: "delete",
    path: "/webhooks/:webhookId",
    access: "admin",
    tag,
    summary: "Delete a webhook with what was still to be delivered",
    params,
    status: 200,
    response: successSchema,
    errors,
    async handle({ commit }, { params: { webhookId } }) {
      await commit((ctx) => deleteWebhook(ctx, webhookId));
      return { success: true } as const;
    },
  }),
  route({
    method: "get",
    path: "/webhooks/:webhookId/deliveries",
    access: "admin",
    tag,
    summary: "List a webhook's deliveries, newest first",
    params,
    query: v.object(pageQuery(100, 50)),
    status: 200,
    response: v.object({
      deliveries: v.array(deliverySchema),
      total: v.number(),
      limit: v.number(),
      offset: v.number(),
    }),
    errors,
    handle({ read }, { params: { webhookId }, query }) {
      const { deliveries, total } = read((ctx) => listDeliveries(ctx, webhookId, query));
      return { deliveries: deliveries.map(toDelivery), total, ...query };
    },
  }),
  route({
    method: "post",
    path: "/webhooks/:webhookId/test",
    access: "admin",
    tag,
    summary: "Send a test delivery",
    description: "Queued like any other; what came of it is in the deliveries.",
    params,
    status: 202,
    response: deliverySchema,
    errors: { ...errors, 409: "CONFLICT: the webhook is disabled" },
    handle: async ({ commit }, { params: { webhookId } }) =>
      toDelivery(await commit((ctx) => testWebhook(ctx, webhookId))),
  }),
];
