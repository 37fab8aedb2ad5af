import * as v from "valibot";
import {
  conditions,
  createRule,
  deleteRule,
  getRule,
  listAlerts,
  listRules,
  severities,
  updateRule,
  type Alert,
  type AlertRule,
  type RuleInput,
} from "../../core/alerts.ts";
import type { Ctx } from "../../core/ctx.ts";
import { getAnyDevice } from "../../core/devices.ts";
import { DomainError } from "../../core/errors.ts";
import { requireSensor } from "../../core/points.ts";
import { finiteNumber, label, uuid } from "../../core/schemas.ts";
import { formatInstant } from "../../core/time.ts";
import { route } from "../route.ts";
import { pageQuery, successSchema, timestamp } from "./shapes.ts";

const tag = "Alerts";
const params = v.object({ ruleId: label(64) });

const seconds = (max: number) =>
  v.pipe(
    v.number("must be a number of seconds"),
    v.minValue(0, "must be 0 or more"),
    v.maxValue(max, `must not be more than ${max}`),
  );
const year = 366 * 24 * 60 * 60;

const condition = v.picklist(conditions, `must be one of ${conditions.join(", ")}`);
const severity = v.picklist(severities, `must be one of ${severities.join(", ")}`);

const threshold = v.pipe(
  v.union([finiteNumber, v.strictTuple([finiteNumber, finiteNumber])], "must be a number, or [low, high] for outside"),
  v.description("A number; for `outside` the two bounds, [low, high]; nothing for `no_data`."),
);

const ruleFields = {
  condition,
  threshold: v.optional(v.nullable(threshold)),
  for: v.optional(
    v.pipe(
      seconds(year),
      v.description("Seconds for which the condition must hold, or, for `no_data`, the silence must last."),
    ),
    0,
  ),
  clear: v.optional(
    v.nullable(
      v.pipe(
        finiteNumber,
        v.description("Hysteresis: where the alert ends again; for `outside`, how far inside the bounds."),
      ),
    ),
  ),
  cooldown: v.optional(
    v.pipe(seconds(year), v.description("Seconds after it has fired in which it does not fire again.")),
    0,
  ),
  severity: v.optional(severity, "warning"),
  enabled: v.optional(v.boolean("must be true or false"), true),
};

const ruleInput = v.object({ deviceId: label(64), sensor: v.optional(uuid()), ...ruleFields });

const ruleUpdate = v.partial(
  v.object({
    sensor: uuid(),
    ...ruleFields,
    for: seconds(year),
    cooldown: seconds(year),
    severity,
    enabled: v.boolean("must be true or false"),
  }),
);

const ruleSchema = v.object({
  id: v.string(),
  deviceId: v.string(),
  sensor: v.string(),
  condition: v.picklist(conditions),
  threshold: v.nullable(v.union([v.number(), v.array(v.number())])),
  for: v.number(),
  clear: v.nullable(v.number()),
  cooldown: v.number(),
  severity: v.picklist(severities),
  enabled: v.boolean(),
  createdAt: timestamp,
  updatedAt: timestamp,
});

const toThreshold = ({
  condition: kind,
  threshold: low,
  thresholdHigh: high,
}: Pick<AlertRule, "condition" | "threshold" | "thresholdHigh">) => (kind === "outside" ? [low ?? 0, high ?? 0] : low);

const toRule = (rule: AlertRule) => ({
  id: rule.id,
  deviceId: rule.deviceId,
  sensor: rule.sensorId,
  condition: rule.condition,
  threshold: toThreshold(rule),
  for: rule.forMs / 1_000,
  clear: rule.clear,
  cooldown: rule.cooldownMs / 1_000,
  severity: rule.severity,
  enabled: rule.isEnabled,
  createdAt: formatInstant(rule.createdAt),
  updatedAt: formatInstant(rule.updatedAt),
});

type RuleBody = v.InferOutput<typeof ruleInput>;

/** A rule's fields together: what each condition needs, and what goes with what. @throws {DomainError} `invalid` */
function toRuleInput(ctx: Ctx, body: RuleBody): RuleInput {
  const device = getAnyDevice(ctx, body.deviceId);
  const sensor = requireSensor(ctx, device, body.sensor);
  const fail = (message: string, field: string): never => {
    throw new DomainError("invalid", message, { details: { field } });
  };
  const { condition: kind, threshold: bound = null, clear = null } = body;
  const [low, high] = Array.isArray(bound) ? bound : [bound, null];
  if (kind === "no_data") {
    if (bound !== null) fail("threshold does not go with no_data", "threshold");
    if (Math.round(body.for * 1_000) <= 0) fail("for must say how long the silence lasts", "for");
    if (clear !== null) fail("clear does not go with no_data", "clear");
  } else if (kind === "outside") {
    if (low === null || high === null || low > high) fail("threshold must be [low, high] for outside", "threshold");
    if (clear !== null && (clear < 0 || 2 * clear > (high ?? 0) - (low ?? 0)))
      fail("clear must lie between 0 and half of the band", "clear");
  } else {
    if (low === null || high !== null) fail("threshold must be a number", "threshold");
    const isAbove = kind === "gt" || kind === "gte";
    if (clear !== null && low !== null && (isAbove ? clear > low : clear < low))
      fail(`clear must not be ${isAbove ? "above" : "below"} threshold`, "clear");
  }
  return {
    devicePk: device.pk,
    sensorPk: sensor.pk,
    condition: kind,
    threshold: low,
    thresholdHigh: high,
    forMs: Math.round(body.for * 1_000),
    clear,
    cooldownMs: Math.round(body.cooldown * 1_000),
    severity: body.severity,
    isEnabled: body.enabled,
  };
}

/** A rule as a body would have it, with the changes in it. */
function applyChanges(rule: AlertRule, changes: v.InferOutput<typeof ruleUpdate>): RuleBody {
  const shown = toRule(rule);
  const current = { ...shown, threshold: shown.threshold as RuleBody["threshold"] };
  const given = Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined));
  // A new kind of condition does not inherit bounds that were meant for another.
  const kept =
    changes.condition !== undefined && changes.condition !== rule.condition
      ? { ...current, threshold: null, clear: null }
      : current;
  return { ...kept, ...given };
}

const alertSchema = v.object({
  id: v.string(),
  ruleId: v.string(),
  deviceId: v.string(),
  sensor: v.string(),
  condition: v.picklist(conditions),
  severity: v.picklist(severities),
  value: v.nullable(v.number()),
  status: v.picklist(["active", "resolved"]),
  triggeredAt: timestamp,
  resolvedAt: v.nullable(timestamp),
});

const toAlert = ({
  id,
  ruleId,
  deviceId,
  sensorId,
  condition: kind,
  severity: level,
  value,
  triggeredAt,
  resolvedAt,
}: Alert) => ({
  id,
  ruleId,
  deviceId,
  sensor: sensorId,
  condition: kind,
  severity: level,
  value,
  status: resolvedAt === null ? ("active" as const) : ("resolved" as const),
  triggeredAt: formatInstant(triggeredAt),
  resolvedAt: resolvedAt === null ? null : formatInstant(resolvedAt),
});

export const alertRoutes = ({ maxRules }: { maxRules: number }) => [
  route({
    method: "get",
    path: "/alerts",
    tag,
    summary: "List alerts, newest first",
    query: v.object({
      status: v.optional(v.picklist(["active", "resolved"], "must be active or resolved")),
      deviceId: v.optional(label(64)),
      ...pageQuery(100, 50),
    }),
    status: 200,
    response: v.object({ alerts: v.array(alertSchema), total: v.number(), limit: v.number(), offset: v.number() }),
    errors: { 404: "NOT_FOUND: no such device" },
    handle({ read }, { query: { status: state, deviceId, limit, offset } }) {
      const { alerts, total } = read((ctx) =>
        listAlerts(ctx, {
          state,
          devicePk: deviceId === undefined ? undefined : getAnyDevice(ctx, deviceId).pk,
          limit,
          offset,
        }),
      );
      return { alerts: alerts.map(toAlert), total, limit, offset };
    },
  }),
  route({
    method: "get",
    path: "/alerts/rules",
    tag,
    summary: "List alert rules",
    status: 200,
    response: v.object({ rules: v.array(ruleSchema) }),
    handle: ({ read }) => ({ rules: read(listRules).map(toRule) }),
  }),
  route({
    method: "post",
    path: "/alerts/rules",
    tag,
    summary: "Create an alert rule",
    description:
      "It watches the device's primary sensor, or the one that is named, from now on. An active alert that is critical sets the device's status to `error`.",
    body: ruleInput,
    status: 201,
    response: ruleSchema,
    errors: { 404: "NOT_FOUND: no such device or sensor", 409: "CONFLICT: too many rules" },
    handle: async ({ commit }, { body }) =>
      toRule(await commit((ctx) => createRule(ctx, toRuleInput(ctx, body), { maxRules }))),
  }),
  route({
    method: "put",
    path: "/alerts/rules/:ruleId",
    tag,
    summary: "Update an alert rule",
    description: "All fields are optional. The rule starts anew; an alert that is active is resolved.",
    params,
    body: ruleUpdate,
    status: 200,
    response: ruleSchema,
    errors: { 404: "NOT_FOUND" },
    handle: async ({ commit }, { params: { ruleId }, body }) =>
      toRule(
        await commit((ctx) => updateRule(ctx, ruleId, toRuleInput(ctx, applyChanges(getRule(ctx, ruleId), body)))),
      ),
  }),
  route({
    method: "delete",
    path: "/alerts/rules/:ruleId",
    tag,
    summary: "Delete an alert rule with its alerts",
    params,
    status: 200,
    response: successSchema,
    errors: { 404: "NOT_FOUND" },
    async handle({ commit }, { params: { ruleId } }) {
      await commit((ctx) => deleteRule(ctx, ruleId));
      return { success: true } as const;
    },
  }),
];
