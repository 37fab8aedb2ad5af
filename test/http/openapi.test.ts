import { expect, test } from "vitest";
import { renderApiDocuments } from "../../src/http/documents.ts";
import { createRoutes, type RouteDeps } from "../../src/http/server.ts";

interface Operation {
  operationId: string;
  summary: string;
  tags: string[];
  security: object[];
  parameters?: { name: string; in: string; required: boolean; schema: object }[];
  requestBody?: { content: Record<string, { schema: object }> };
  responses: Record<string, { description: string; content: Record<string, { schema: object }> }>;
}

interface Document {
  openapi: string;
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, object> };
  tags: { name: string }[];
}

const documents = Object.entries(renderApiDocuments() as Record<string, Document>);
const operations = documents.flatMap(([file, document]) =>
  Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ file, document, path, method, operation })),
  ),
);

/** Stands for all that routes are given: they are named here, not called. */
const anything: object = new Proxy(() => anything, {
  get: (_, key) => (key === Symbol.iterator ? undefined : anything),
});

test("every route is documented, and nothing else is", () => {
  const routes = createRoutes(anything as RouteDeps).flatMap(({ dialect, routes: served }) =>
    served.map(({ method, path }) => `${method} ${dialect.prefix}${path.replaceAll(/:(\w+)/g, "{$1}")}`),
  );
  expect(routes.length).toBeGreaterThan(25);
  expect(new Set(routes).size).toBe(routes.length);
  expect(operations.map(({ method, path }) => `${method} ${path}`).toSorted()).toEqual(routes.toSorted());
});

test("each document names its operations apart", () => {
  for (const [file, document] of documents) {
    const ids = operations.filter((one) => one.file === file).map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of ids) expect(id).toMatch(/^[a-z][A-Za-z0-9]*$/);
    expect(document.openapi).toMatch(/^3\./);
  }
});

test.each(operations)("$method $path is documented whole", ({ document, path, method, operation }) => {
  expect(operation.summary).toMatch(/^[A-Z].*[^.]$/);
  expect(document.tags.map(({ name }) => name)).toContain(operation.tags[0]);

  // Every {name} of the path is a parameter, and every path parameter stands in the path.
  const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name = ""]) => name);
  const inPath = (operation.parameters ?? []).filter((parameter) => parameter.in === "path");
  expect(inPath.map(({ name }) => name).toSorted()).toEqual(named.toSorted());
  expect(inPath.every(({ required }) => required)).toBe(true);
  const keys = (operation.parameters ?? []).map(({ name, in: where }) => `${where} ${name}`);
  expect(new Set(keys).size).toBe(keys.length);

  const statuses = Object.keys(operation.responses);
  expect(statuses.filter((status) => status.startsWith("2"))).toHaveLength(1);
  for (const status of statuses) expect(operation.responses[status]?.description).not.toBe("");
  // Whoever must show who they are can be told that they have not.
  expect(statuses.includes("401") || operation.security.length === 0).toBe(true);
  expect(statuses.includes("400") || (operation.requestBody ?? operation.parameters) === undefined).toBe(true);
  expect(["get", "delete"].includes(method) && operation.requestBody !== undefined).toBe(false);
});

test.each(documents)("%s refers to nothing that is not in it", (_, document) => {
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"([^"]+)"/g)].map(([, reference]) => reference);
  expect(references.length).toBeGreaterThan(0);
  const known = Object.keys(document.components.schemas).map((name) => `#/components/schemas/${name}`);
  expect(known).toEqual(expect.arrayContaining([...new Set(references)]));
});
