// What an OpenAPI document says, in a form that is easy to show.

const methods = ["get", "post", "put", "patch", "delete", "head", "options"];

/** The part of the document that `$ref` names; anything else is itself. */
export function resolve(document, part) {
  let found = part;
  for (let hops = 0; typeof found?.$ref === "string" && hops < 20; hops++) {
    found = found.$ref
      .replace(/^#\//, "")
      .split("/")
      .reduce((at, key) => at?.[decodeURIComponent(key).replaceAll("~1", "/").replaceAll("~0", "~")], document);
  }
  return found ?? {};
}

/** The last word of a `$ref`: what a schema is called. */
export const refName = (schema) => schema?.$ref?.split("/").at(-1);

/** All operations in the order of the document's tags, with what their path has in common filled in. */
export function listOperations(document) {
  const operations = Object.entries(document.paths ?? {}).flatMap(([path, item]) =>
    methods
      .filter((method) => item[method] !== undefined)
      .map((method) => {
        const operation = item[method];
        const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map((parameter) =>
          resolve(document, parameter),
        );
        return {
          id: operation.operationId ?? `${method}${path.replaceAll(/[^\w]+/g, "-")}`,
          method,
          path,
          tag: operation.tags?.[0] ?? "Other",
          summary: operation.summary ?? "",
          description: operation.description ?? "",
          isDeprecated: operation.deprecated === true,
          access: readAccess(document, operation),
          parameters,
          body: readBody(document, operation.requestBody),
          responses: Object.entries(operation.responses ?? {}).map(([status, response]) => {
            const { description = "", content = {} } = resolve(document, response);
            return { status, description, ...pickContent(content) };
          }),
        };
      }),
  );
  const tags = [...new Set([...(document.tags ?? []).map(({ name }) => name), ...operations.map(({ tag }) => tag)])];
  return tags
    .map((name) => ({
      name,
      description: document.tags?.find((tag) => tag.name === name)?.description ?? "",
      operations: operations.filter(({ tag }) => tag === name),
    }))
    .filter((group) => group.operations.length > 0);
}

/** Whether an operation wants a credential, and in which header an API key would go. */
function readAccess(document, operation) {
  const choices = operation.security ?? document.security ?? [];
  const schemes = choices
    .flatMap((choice) => Object.keys(choice))
    .map((name) => document.components?.securitySchemes?.[name]);
  const apiKey = schemes.find((scheme) => scheme?.type === "apiKey" && scheme.in === "header");
  const hasBearer = schemes.some((scheme) => scheme?.type === "http");
  return {
    need:
      choices.length === 0 ? "none" : choices.some((choice) => Object.keys(choice).length === 0) ? "optional" : "token",
    header: hasBearer || apiKey === undefined ? undefined : apiKey.name,
  };
}

/** JSON where there is a choice. */
function pickContent(content) {
  const type = Object.keys(content).find((name) => /[/+]json\b/.test(name)) ?? Object.keys(content)[0];
  if (type === undefined) return {};
  const { schema, example, examples } = content[type];
  return { type, schema, example: example ?? Object.values(examples ?? {})[0]?.value };
}

function readBody(document, requestBody) {
  if (requestBody === undefined) return undefined;
  const { required = false, description = "", content = {} } = resolve(document, requestBody);
  return { required, description, ...pickContent(content) };
}

/** A schema with its `$ref` followed and its `allOf` merged into one. */
export function flatten(document, schema) {
  const found = resolve(document, schema);
  if (found.allOf === undefined) return found;
  const { allOf, ...own } = found;
  return [...allOf.map((part) => flatten(document, part)), own].reduce((merged, part) => ({
    ...merged,
    ...part,
    properties: { ...merged.properties, ...part.properties },
    required: [...(merged.required ?? []), ...(part.required ?? [])],
  }));
}

export const alternativesOf = (schema) => schema.oneOf ?? schema.anyOf;

/** `type`, which OpenAPI 3.1 allows to be a list, as a list. */
function typesOf(schema) {
  if (schema.type !== undefined) return [schema.type].flat();
  if (schema.properties !== undefined || typeof schema.additionalProperties === "object") return ["object"];
  if (schema.items !== undefined) return ["array"];
  if (schema.enum !== undefined) return [...new Set(schema.enum.map((value) => typeof value))];
  return schema.const === undefined ? [] : [typeof schema.const];
}

/** What a value is, in a few words: `string (uuid)`, `array of Device`, `integer or null`. */
export function nameType(document, schema) {
  const name = refName(schema);
  const flat = flatten(document, schema);
  const alternatives = alternativesOf(flat);
  if (alternatives !== undefined && name !== undefined) return name; // which may contain itself
  if (alternatives !== undefined)
    return [...new Set(alternatives.map((part) => nameType(document, part)))].join(" or ");
  const types = typesOf(flat).map((type) => {
    if (type === "array") return `array of ${nameType(document, flat.items ?? {})}`;
    if (type === "object") return name ?? (isMap(flat) ? `map of ${nameType(document, mapValue(flat))}` : "object");
    if (flat.enum?.length === 1 || flat.const !== undefined) return JSON.stringify(flat.const ?? flat.enum[0]);
    return flat.format === undefined ? type : `${type} (${flat.format})`;
  });
  if (types.length === 0) types.push(name ?? "any value");
  if (flat.nullable === true && !types.includes("null")) types.push("null");
  return types.join(" or ");
}

const isMap = (schema) => schema.properties === undefined && schema.additionalProperties !== undefined;
const mapValue = (schema) => (typeof schema.additionalProperties === "object" ? schema.additionalProperties : {});

const range = (min, max, unit) => {
  if (min !== undefined && max !== undefined) return min === max ? `${min}${unit}` : `${min} to ${max}${unit}`;
  if (min !== undefined) return `${min}${unit} or more`;
  return max === undefined ? undefined : `at most ${max}${unit}`;
};

/** What a value is bound to, in words: `1 to 4`, `at most 255 characters`, `default 100`. */
export function listLimits(document, schema) {
  const flat = flatten(document, schema);
  const { minLength, maxLength, minItems, maxItems, minimum, maximum, multipleOf, pattern } = flat;
  const isExclusive = (bound) => (typeof bound === "number" ? bound : undefined);
  return [
    flat.enum !== undefined &&
      flat.enum.length > 1 &&
      `one of ${flat.enum.map((value) => JSON.stringify(value)).join(", ")}`,
    range(minimum, maximum, ""),
    isExclusive(flat.exclusiveMinimum) !== undefined && `more than ${flat.exclusiveMinimum}`,
    isExclusive(flat.exclusiveMaximum) !== undefined && `less than ${flat.exclusiveMaximum}`,
    multipleOf !== undefined && `a multiple of ${multipleOf}`,
    // "At least one character" is what a person calls "not empty".
    minLength === 1 && maxLength === undefined
      ? "not empty"
      : range(minLength === 0 ? undefined : minLength, maxLength, " characters"),
    range(minItems === 0 ? undefined : minItems, maxItems, " items"),
    flat.uniqueItems === true && "no item twice",
    // Control characters are written as escapes: such a pattern is for programs, not for readers.
    pattern !== undefined && !pattern.includes("\\u") && `matches ${pattern}`,
    flat.default !== undefined && `default ${JSON.stringify(flat.default)}`,
    flat.readOnly === true && "read only",
    flat.writeOnly === true && "write only",
    flat.deprecated === true && "deprecated",
  ].filter((limit) => typeof limit === "string");
}

const stringExamples = {
  uuid: "550e8400-e29b-41d4-a716-446655440000",
  "date-time": "2026-01-14T10:00:00Z",
  date: "2026-01-14",
  time: "10:00:00Z",
  email: "someone@example.com",
  uri: "https://example.com/",
  url: "https://example.com/",
  ipv4: "192.168.0.7",
  ipv6: "fd00::7",
};

/** A value that the schema would take. `requiredOnly` leaves out what need not be there. */
export function makeExample(document, schema, { requiredOnly = false } = {}, seen = []) {
  const name = refName(schema);
  if (name !== undefined && seen.includes(name)) return {}; // a schema within itself
  const within = name === undefined ? seen : [...seen, name];
  const flat = flatten(document, schema);
  const given = flat.example ?? flat.examples?.[0] ?? flat.default ?? flat.const ?? flat.enum?.[0];
  if (given !== undefined) return given;
  const alternatives = alternativesOf(flat);
  if (alternatives !== undefined) return makeExample(document, alternatives[0] ?? {}, { requiredOnly }, within);
  const [type] = typesOf(flat).filter((one) => one !== "null");
  switch (type) {
    case "object": {
      const required = flat.required ?? [];
      const entries = Object.entries(flat.properties ?? {}).filter(([key]) => !requiredOnly || required.includes(key));
      const filled = entries.map(([key, part]) => [key, makeExample(document, part, { requiredOnly }, within)]);
      if (filled.length === 0 && isMap(flat)) filled.push(["key", makeExample(document, mapValue(flat), {}, within)]);
      return Object.fromEntries(filled);
    }
    case "array":
      return [makeExample(document, flat.items ?? {}, { requiredOnly }, within)];
    case "integer":
    case "number": {
      const { minimum = -Infinity, maximum = Infinity } = flat;
      return Math.max(Math.min(1, maximum), minimum);
    }
    case "boolean":
      return true;
    case "string":
      return stringExamples[flat.format] ?? "string".padEnd(flat.minLength ?? 0, "g").slice(0, flat.maxLength ?? 80);
    default:
      return null;
  }
}
