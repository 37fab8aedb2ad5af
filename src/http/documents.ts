import { createCounters } from "../counters.ts";
import { renderOpenApi } from "./openapi.ts";
import { createRoutes } from "./server.ts";

/** The OpenAPI documents by the path at which they are served. Nothing is started: handlers are named, not called. */
export function renderApiDocuments(): Record<string, unknown> {
  const unused = (): never => {
    throw new Error("a route was called while its document was rendered");
  };
  const apis = createRoutes({
    tokens: { issue: unused, verify: unused },
    publish: unused,
    isHealthy: unused,
    registration: "lan",
    counters: createCounters(),
    attemptsBurst: 1,
    attemptsPerMinute: 1,
  });
  return Object.fromEntries(
    apis.map(({ dialect, routes }) => [`${dialect.prefix}/openapi.json`, renderOpenApi(dialect, routes)]),
  );
}
