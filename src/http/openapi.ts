import { toJsonSchema } from "@valibot/to-json-schema";
import { version } from "embedded:package";
import type * as v from "valibot";
import type { Dialect, Route } from "./route.ts";

type Schema = v.GenericSchema<unknown, unknown>;

/** What a schema takes, as JSON Schema; what it makes of it is no business of the caller. */
function render(schema: Schema): Record<string, unknown> {
  const { $schema: _, ...rest } = toJsonSchema(schema, {
    typeMode: "input",
    errorMode: "ignore",
    target: "openapi-3.0",
  }) as Record<string, unknown>;
  return rest;
}

const json = (schema: Schema) => ({ "application/json": { schema: render(schema) } });

function renderParameters(where: "path" | "query", schema: Schema | undefined): unknown[] {
  if (schema === undefined) return [];
  const { properties = {}, required = [] } = render(schema) as {
    properties?: Record<string, { description?: string }>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, { description, ...rest }]) => ({
    name,
    in: where,
    required: where === "path" || required.includes(name),
    ...(description !== undefined && { description }),
    schema: rest,
  }));
}

function renderOperation(route: Route, dialect: Dialect): Record<string, unknown> {
  const errors: Record<string, string> = {
    ...(route.access !== "public" && { 401: "Unauthorized: no token, or one that is not valid" }),
    ...((route.params ?? route.query ?? route.body) !== undefined && { 400: "Bad Request: invalid input" }),
    ...route.errors,
  };
  const parameters = [...renderParameters("path", route.params), ...renderParameters("query", route.query)];
  return {
    tags: [route.tag],
    summary: route.summary,
    ...(route.description !== undefined && { description: route.description }),
    security: route.access === "token" ? [{ bearer: [] }] : route.access === "public" ? [] : [{}, { bearer: [] }],
    ...(parameters.length > 0 && { parameters }),
    ...(route.body && { requestBody: { required: route.isBodyOptional !== true, content: json(route.body) } }),
    responses: {
      [route.status]: { description: "Success", content: json(route.response) },
      ...Object.fromEntries(
        Object.entries(errors).map(([status, description]) => [
          status,
          { description, content: json(dialect.errorSchema) },
        ]),
      ),
    },
  };
}

/** The OpenAPI 3.0 document of one dialect, made from the very routes that are served. */
export function renderOpenApi(dialect: Dialect, routes: readonly Route[]): Record<string, unknown> {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) {
    const path = dialect.prefix + route.path.replaceAll(/:(\w+)/g, "{$1}");
    paths[path] = { ...paths[path], [route.method]: renderOperation(route, dialect) };
  }
  return {
    openapi: "3.0.3",
    info: { title: dialect.title, version },
    paths,
    components: { securitySchemes: { bearer: { type: "http", scheme: "bearer", bearerFormat: "JWT" } } },
  };
}
