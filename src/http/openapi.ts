import { toJsonSchema } from "@valibot/to-json-schema";
import { version } from "embedded:package";
import type * as v from "valibot";
import type { Dialect, Route } from "./route.ts";

type Schema = v.GenericSchema<unknown, unknown>;
type JsonSchema = Record<string, unknown>;

/** Schemas that have a title, by it: they stand once in the document, and everything else refers to them. */
type Components = Record<string, JsonSchema>;

/** What a schema takes, as OpenAPI writes it; what it makes of it is no business of the caller. */
function render(schema: Schema, components: Components): JsonSchema {
  const { $schema: _, ...rest } = toJsonSchema(schema, {
    typeMode: "input",
    errorMode: "ignore",
    target: "openapi-3.0",
  }) as JsonSchema;
  return tidy(rest, components);
}

const isObject = (value: unknown): value is JsonSchema =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Mends what the conversion leaves short of OpenAPI 3.0, in a schema and in all that it is made of. */
function tidy(schema: JsonSchema, components: Components): JsonSchema {
  const { title, examples, required, ...tidied } = schema;
  for (const key of ["anyOf", "oneOf", "allOf"]) {
    const parts = tidied[key];
    if (Array.isArray(parts)) tidied[key] = parts.map((part: JsonSchema) => tidy(part, components));
  }
  for (const key of ["items", "additionalProperties", "not"]) {
    const part = tidied[key];
    if (isObject(part)) tidied[key] = tidy(part, components);
  }
  if (isObject(tidied["properties"])) {
    tidied["properties"] = Object.fromEntries(
      Object.entries(tidied["properties"]).map(([name, part]) => [name, tidy(part as JsonSchema, components)]),
    );
  }
  // An empty `required` is not valid, `examples` is OpenAPI 3.1, and generators of clients need to know an enum's type.
  if (Array.isArray(required) && required.length > 0) tidied["required"] = required;
  if (Array.isArray(examples) && examples.length > 0) tidied["example"] = examples[0];
  if (Array.isArray(tidied["enum"]) && tidied["type"] === undefined) tidied["type"] = typeof tidied["enum"][0];
  // A query is text, and so is what stands for an absent part of it; what it spells is a number.
  if (tidied["type"] === "integer" && typeof tidied["default"] === "string")
    tidied["default"] = Number(tidied["default"]);
  // `null` goes with a type (OpenAPI 3.0.3, "nullable"), so with the alternatives and not with the choice.
  if (tidied["nullable"] === true && Array.isArray(tidied["anyOf"])) {
    delete tidied["nullable"];
    tidied["anyOf"] = tidied["anyOf"].map((part: JsonSchema) => ({ ...part, nullable: true }));
  }
  // "No limit" is not worth saying.
  if (tidied["maximum"] === Number.MAX_SAFE_INTEGER) delete tidied["maximum"];
  if (typeof title !== "string") return tidied;
  components[title] = tidied;
  return { $ref: `#/components/schemas/${title}` };
}

const json = (schema: JsonSchema) => ({ "application/json": { schema } });

function renderParameters(
  where: "path" | "query" | "header",
  schema: Schema | undefined,
  components: Components,
): unknown[] {
  if (schema === undefined) return [];
  const { properties = {}, required = [] } = render(schema, components) as {
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

/** The same name for as long as method and path are the same: `GET /sensors/{id}` is `getSensorsById`. */
function nameOperation(method: string, path: string): string {
  const words = path.replaceAll("{", "by-").match(/[A-Za-z0-9]+/g) ?? [];
  return method + words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join("");
}

function renderOperation(route: Route, path: string, dialect: Dialect, components: Components): JsonSchema {
  const isPublic = route.access === "public";
  const isPublicHere = route.access === "public-devices";
  const hasInput = (route.params ?? route.query ?? route.body) !== undefined;
  const errors: Record<string, string> = {
    ...(hasInput && { 400: "Bad Request: invalid input" }),
    ...(!isPublic && { 401: "Unauthorized: no token, or one that is not valid" }),
    ...(route.access === "admin" && { 403: "Forbidden: for administrators alone" }),
    ...route.errors,
    default:
      "Any other error: a body that is too large (413), too many calls (429), a fault (500), a store that takes no writes now (503)",
  };
  const parameters = [
    ...renderParameters("path", route.params, components),
    ...renderParameters("query", route.query, components),
    ...renderParameters("header", route.headers, components),
  ];
  const success = { [route.contentType ?? "application/json"]: { schema: render(route.response, components) } };
  const error = json({ $ref: "#/components/schemas/Error" });
  return {
    operationId: nameOperation(route.method, path),
    tags: [route.tag],
    summary: route.summary,
    ...(route.description !== undefined && { description: route.description }),
    // A choice that asks for nothing makes the others optional.
    security: isPublic ? [] : [...(isPublicHere ? [{}] : []), { bearer: [] }, { apiKey: [] }],
    ...(parameters.length > 0 && { parameters }),
    ...(route.body && {
      requestBody: {
        required: route.isBodyOptional !== true,
        content: json(render(route.bodyDocument ?? route.body, components)),
      },
    }),
    responses: {
      [route.status]: { description: successes[route.status], content: success },
      ...Object.fromEntries(
        Object.entries(errors).map(([status, description]) => [status, { description, content: error }]),
      ),
      ...(route.statusOf && { 503: { description: route.errors?.[503] ?? "The same, with 503", content: success } }),
    },
  };
}

const successes = { 200: "OK", 201: "Created", 202: "Accepted" } as const;

/** The OpenAPI 3.0 document of one dialect, made from the very routes that are served. */
export function renderOpenApi(dialect: Dialect, routes: readonly Route[]): Record<string, unknown> {
  const paths: Record<string, JsonSchema> = {};
  const components: Components = { Error: render(dialect.errorSchema, {}) };
  for (const route of routes) {
    const path = dialect.prefix + route.path.replaceAll(/:(\w+)/g, "{$1}");
    paths[path] = { ...paths[path], [route.method]: renderOperation(route, path, dialect, components) };
  }
  return {
    openapi: "3.0.3",
    info: {
      title: dialect.title,
      version,
      ...(dialect.description !== undefined && { description: dialect.description }),
      license: { name: "MIT" },
    },
    servers: [{ url: "/", description: "This gateway" }],
    tags: [...new Set(routes.map(({ tag }) => tag))].map((name) => ({ name })),
    paths,
    components: {
      schemas: components,
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", description: "The token of a login, or an API key" },
        apiKey: { type: "apiKey", in: "header", name: "X-API-Key" },
      },
    },
  };
}
