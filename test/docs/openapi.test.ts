import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { renderApiDocuments } from "../../src/http/documents.ts";

// The documents are OpenAPI 3.0.3 that other programs can work with: what a validator of the format would say, and what
// a generator of clients stumbles over.

type Json = Record<string, unknown>;

interface Operation {
  operationId: string;
  tags: string[];
  summary: string;
  security: Json[];
  parameters?: { name: string; in: string; required: boolean; schema: Json }[];
  requestBody?: { content: Record<string, { schema: Json }> };
  responses: Record<string, { description: string; content?: Record<string, { schema: Json }> }>;
}

interface ApiDocument {
  openapi: string;
  info: { title: string; version: string; description: string };
  tags: { name: string }[];
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Json>; securitySchemes: Json };
}

const documents = renderApiDocuments() as Record<string, ApiDocument>;

/** Every keyword that a Schema Object of OpenAPI 3.0.3 knows, of those that we use. */
const keywords = new Set(
  "$ref type format enum default example description nullable properties required additionalProperties items anyOf oneOf allOf not minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern minItems maxItems uniqueItems minProperties maxProperties deprecated".split(
    " ",
  ),
);

const operationsOf = ({ paths }: ApiDocument) =>
  Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ name: `${method} ${path}`, path, operation })),
  );

/** All schemas of a document, those within schemas too, each with where it stands. */
function listSchemas(document: ApiDocument): { at: string; schema: Json }[] {
  const found: { at: string; schema: Json }[] = [];
  const visit = (at: string, schema: Json): void => {
    found.push({ at, schema });
    for (const [name, part] of Object.entries((schema["properties"] ?? {}) as Json))
      visit(`${at}.${name}`, part as Json);
    for (const key of ["items", "additionalProperties", "not"])
      if (typeof schema[key] === "object") visit(`${at}.${key}`, schema[key] as Json);
    for (const key of ["anyOf", "oneOf", "allOf"])
      for (const [i, part] of ((schema[key] ?? []) as Json[]).entries()) visit(`${at}.${key}[${i}]`, part);
  };
  for (const { name, operation } of operationsOf(document)) {
    for (const parameter of operation.parameters ?? []) visit(`${name} ${parameter.name}`, parameter.schema);
    for (const { schema } of Object.values(operation.requestBody?.content ?? {})) visit(`${name} body`, schema);
    for (const [status, { content }] of Object.entries(operation.responses))
      for (const { schema } of Object.values(content ?? {})) visit(`${name} ${status}`, schema);
  }
  for (const [name, schema] of Object.entries(document.components.schemas)) visit(name, schema);
  return found;
}

const isOfType = (value: unknown, type: unknown): boolean => {
  if (type === "integer") return Number.isInteger(value);
  if (type === "array") return Array.isArray(value);
  return type === undefined || typeof value === type;
};

describe.each(Object.entries(documents))("%s", (path, document) => {
  const operations = operationsOf(document);
  const schemas = listSchemas(document);
  const wrong = (isWrong: (schema: Json) => boolean): string[] =>
    schemas.filter(({ schema }) => isWrong(schema)).map(({ at }) => at);

  it("is the one in docs/, where a change of the API is seen in review (npm run openapi writes it)", () => {
    const [, prefix = ""] = /^\/(?:(\w+)\/)?openapi\.json$/.exec(path) ?? [];
    const file = new URL(`../../docs/openapi${prefix === "" ? "" : `-${prefix}`}.json`, import.meta.url);
    expect(document).toEqual(JSON.parse(readFileSync(file, "utf8")));
  });

  it("says what it is", () => {
    expect(document.openapi).toBe("3.0.3");
    expect(document.info.version).toMatch(/^\d+\.\d+\.\d+/);
    expect(document.info.description.length).toBeGreaterThan(20);
    const used = new Set(operations.flatMap(({ operation }) => operation.tags));
    expect(document.tags.map(({ name }) => name).toSorted()).toEqual([...used].toSorted());
  });

  it("gives each operation a name of its own, a summary, and its answers a description", () => {
    const ids = operations.map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids.filter((id) => !/^[a-z][A-Za-z0-9]+$/.test(id))).toEqual([]);
    expect(operations.filter(({ operation }) => operation.summary === "").map(({ name }) => name)).toEqual([]);
    const undescribed = operations.filter(({ operation }) =>
      Object.values(operation.responses).some(({ description }) => description === ""),
    );
    expect(undescribed.map(({ name }) => name)).toEqual([]);
  });

  it("names the parameters that are in the path, each of them required", () => {
    const declared = operations.map(({ name, operation }) => ({
      name,
      parameters: (operation.parameters ?? [])
        .filter((parameter) => parameter.in === "path")
        .map((parameter) => `${parameter.name} ${parameter.required ? "required" : "optional"}`),
    }));
    const inPath = operations.map(({ name, path }) => ({
      name,
      parameters: [...path.matchAll(/\{(\w+)\}/g)].map(([, parameter]) => `${parameter} required`),
    }));
    expect(declared).toEqual(inPath);
  });

  it("asks for known credentials, and says 401 where it does", () => {
    const known = new Set(Object.keys(document.components.securitySchemes));
    const unknown = operations.filter(({ operation }) =>
      operation.security.some((choice) => Object.keys(choice).some((scheme) => !known.has(scheme))),
    );
    expect(unknown.map(({ name }) => name)).toEqual([]);
    const silent = operations.filter(
      ({ operation }) => operation.security.length > 0 && operation.responses["401"] === undefined,
    );
    expect(silent.map(({ name }) => name)).toEqual([]);
  });

  it("uses in schemas what OpenAPI 3.0 has, and nothing of later versions", () => {
    const foreign = schemas.flatMap(({ at, schema }) =>
      Object.keys(schema)
        .filter((key) => !keywords.has(key))
        .map((key) => `${at}: ${key}`),
    );
    expect(foreign).toEqual([]);
    expect(wrong(({ type }) => type !== undefined && typeof type !== "string")).toEqual([]);
    expect(wrong(({ type, items }) => type === "array" && items === undefined)).toEqual([]);
    expect(wrong(({ required }) => Array.isArray(required) && required.length === 0)).toEqual([]);
    expect(wrong((schema) => schema["enum"] !== undefined && schema["type"] === undefined)).toEqual([]);
    expect(wrong(({ nullable, type }) => nullable === true && type === undefined)).toEqual([]);
  });

  it("refers to nothing that is not there", () => {
    const missing = wrong(({ $ref }) => {
      if ($ref === undefined) return false;
      const [, name = ""] = /^#\/components\/schemas\/(\w+)$/.exec($ref as string) ?? [];
      return document.components.schemas[name] === undefined;
    });
    expect(missing).toEqual([]);
  });

  it("has patterns, defaults and examples that fit", () => {
    expect(
      wrong(({ pattern, example }) => {
        if (pattern === undefined) return false;
        const expression = new RegExp(pattern as string); // without flags, as JSON Schema has it
        return example !== undefined && !expression.test(example as string);
      }),
    ).toEqual([]);
    const isUnfit = (schema: Json, value: unknown): boolean =>
      value !== undefined &&
      (!isOfType(value, schema["type"]) ||
        (Array.isArray(schema["enum"]) && !schema["enum"].includes(value)) ||
        Number(value) < Number(schema["minimum"]) ||
        Number(value) > Number(schema["maximum"]));
    expect(wrong((schema) => isUnfit(schema, schema["default"]))).toEqual([]);
    expect(wrong((schema) => isUnfit(schema, schema["example"]))).toEqual([]);
  });

  it("bounds every text and number that a caller gives, or says its format", () => {
    const unbounded = operations.flatMap(({ name, operation }) =>
      (operation.parameters ?? [])
        .filter(
          ({ schema: { type, enum: values, format, maxLength, minimum } }) =>
            (type === "string" && values === undefined && format === undefined && maxLength === undefined) ||
            (type === "integer" && minimum === undefined),
        )
        .map((parameter) => `${name} ${parameter.name}`),
    );
    expect(unbounded).toEqual([]);
  });
});
