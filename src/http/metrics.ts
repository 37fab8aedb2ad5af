import type { Hono } from "hono";
import type { Authenticate } from "./auth.ts";
import { rootDialect } from "./root/shapes.ts";

/** The text format of Prometheus, version 0.0.4. */
const contentType = "text/plain; version=0.0.4; charset=utf-8";

/**
 * `GET /metrics`, of neither API: what it says is for a program that watches, and is described in docs/metrics.md. Errors
 * are those of the root.
 */
export function mountMetrics(
  app: Hono,
  { authenticate, render }: { authenticate: Authenticate; render: () => string },
): void {
  app.get("/metrics", async function handleMetrics(c) {
    await authenticate(c, "metrics", rootDialect);
    const headers = { "Content-Type": contentType, "Cache-Control": "no-store" };
    return c.body(render(), 200, headers);
  });
}
