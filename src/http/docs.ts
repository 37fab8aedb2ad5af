import type { Hono } from "hono";
import { files } from "embedded:web";
import { renderOpenApi } from "./openapi.ts";
import type { Dialect, Route } from "./route.ts";

const pageHeaders = {
  // Everything comes from this gateway, and nothing is inline: a device's name can be no script.
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "Cache-Control": "no-cache",
};

/** `openapi.json` under each dialect's prefix, and `/docs`, which shows them without reaching for anything outside. */
export function mountDocs(app: Hono, apis: readonly { dialect: Dialect; routes: readonly Route[] }[]): void {
  for (const { dialect, routes } of apis) {
    let document: string | undefined; // rendered when first asked for: the start has no time for it
    app.get(`${dialect.prefix}/openapi.json`, (c) => {
      document ??= JSON.stringify(renderOpenApi(dialect, routes));
      return c.body(document, 200, { "Content-Type": "application/json" });
    });
  }
  const index = apis.map(({ dialect }) => ({ title: dialect.title, url: `${dialect.prefix}/openapi.json` }));
  app.get("/docs/apis.json", (c) => c.json(index));
  app.get("/docs/", (c) => c.redirect("/docs"));
  for (const [path, { type, body }] of Object.entries(files)) {
    const [folder] = path.split("/");
    if (folder !== "docs") continue;
    // The page is at /docs, its style sheet at /docs/docs.css.
    const url = `/${path.replace(/\/index\.html$/, "")}`;
    app.get(url, (c) => c.body(body, 200, { ...pageHeaders, "Content-Type": type }));
  }
}
