import { renderOpenApi } from "./openapi.ts";
import { createRoutes, type RouteDeps } from "./server.ts";

/** The OpenAPI documents by the path at which they are served. Nothing is started: handlers are named, not called. */
export function renderApiDocuments(): Record<string, unknown> {
  const unused = (): never => {
    throw new Error("a route was called while its document was rendered");
  };
  const deps: RouteDeps = {
    tokens: { issue: unused, verify: unused },
    publish: unused,
    isHealthy: unused,
    isConnected: unused,
    probes: { database: unused, mqtt: unused, processor: unused },
    shop: { products: [], secret: new Uint8Array(), maxPurchases: 0 },
    live: { open: unused, count: unused, close: unused },
    authority: unused,
    attempts: { spend: unused, budgetOf: unused, refund: unused },
    registration: "lan",
    webhookLimits: { maxWebhooks: 0, maxPending: 0 },
    maxApiKeys: 0,
    maxAlertRules: 0,
  };
  return Object.fromEntries(
    createRoutes(deps).map(({ dialect, routes }) => [`${dialect.prefix}/openapi.json`, renderOpenApi(dialect, routes)]),
  );
}
