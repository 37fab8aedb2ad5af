import { and, count, eq, isNull } from "drizzle-orm";
import { alertRules, alerts, deliveries, devices } from "../store/schema.ts";
import { severities, type Severity } from "./alerts.ts";
import type { Ctx } from "./ctx.ts";
import { deviceStatus } from "./status.ts";
import { listWebhooks } from "./webhooks.ts";

/** How much there is, for whoever watches. Words with nothing behind them are there too, with 0. */
export interface Figures {
  devices: Record<keyof typeof deviceStatus, number>;
  activeAlerts: Record<Severity, number>;
  webhooks: number;
  pendingDeliveries: number;
}

export function readFigures(ctx: Ctx): Figures {
  const byStatus = new Map(
    ctx.db
      .select({ statusId: devices.statusId, n: count() })
      .from(devices)
      .groupBy(devices.statusId)
      .all()
      .map(({ statusId, n }) => [statusId, n]),
  );
  const bySeverity = new Map(
    ctx.db
      .select({ severity: alertRules.severity, n: count() })
      .from(alertRules) // rule by rule: of each there are few that are active, and many that were
      .innerJoin(alerts, and(eq(alerts.rulePk, alertRules.pk), isNull(alerts.resolvedAt)))
      .groupBy(alertRules.severity)
      .all()
      .map(({ severity, n }) => [severity, n]),
  );
  // Webhook by webhook, for the index begins with it.
  const webhooks = listWebhooks(ctx);
  const pendingDeliveries = webhooks.reduce(
    (sum, { pk }) =>
      sum +
      (ctx.db
        .select({ n: count() })
        .from(deliveries)
        .where(and(eq(deliveries.webhookPk, pk), eq(deliveries.status, "pending")))
        .get()?.n ?? 0),
    0,
  );
  return {
    devices: Object.fromEntries(
      Object.entries(deviceStatus).map(([word, id]) => [word, byStatus.get(id) ?? 0]),
    ) as Figures["devices"],
    activeAlerts: Object.fromEntries(
      severities.map((severity) => [severity, bySeverity.get(severity) ?? 0]),
    ) as Figures["activeAlerts"],
    webhooks: webhooks.length,
    pendingDeliveries,
  };
}
