// What Hono does by itself: one route that returns bytes which it has from its parent.
import type { AddressInfo } from "node:net";
import { serve } from "@hono/node-server";
import { Hono } from "hono";

process.once("message", (body: string) => {
  const app = new Hono();
  app.get("/sensor-readings", (c) => c.body(body, 200, { "Content-Type": "application/json" }));
  const server = serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" }, () => {
    process.send?.((server.address() as AddressInfo).port);
  });
});
process.on("disconnect", () => process.exit());
process.send?.(0);
