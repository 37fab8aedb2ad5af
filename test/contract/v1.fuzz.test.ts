import { Agent, request } from "node:http";
import * as fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createApi, logIn, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// Bad input on every path of both dialects, made from the schemas of their OpenAPI documents: never a 500, never a
// stack, always the dialect's own error shape. FUZZ_SEED repeats a run.

const seed = Number(process.env["FUZZ_SEED"] ?? Math.trunc(Math.random() * 0x7fffffff));
const timeLimitMs = 6_000; // for each of the properties; the rest of the runs are left out

interface Schema {
  type?: string;
  format?: string;
  enum?: unknown[];
  anyOf?: Schema[];
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  minimum?: number;
  maximum?: number;
  nullable?: boolean;
  $ref?: string;
}
interface Operation {
  method: string;
  path: string;
  parameters: { name: string; in: string; schema: Schema }[];
  body: Schema | undefined;
}
interface RawOperation {
  parameters?: Operation["parameters"];
  requestBody?: { content: Record<string, { schema: Schema }> };
}
interface Call {
  method: string;
  path: string;
  headers: Record<string, string>;
  body: string | Buffer | undefined;
}

let gateway: LocalGateway;
let api: Api;
let operations: Operation[];
let known: string[];
const agent = new Agent({ keepAlive: true });

beforeAll(async () => {
  console.info(`fuzz: FUZZ_SEED=${seed}`); // oxlint-disable-line no-console
  gateway = await startLocalGateway({
    env: {
      LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "1000000",
      LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "10000000",
      LAMBDAIOT_SERVER_MAX_LIVE_CLIENTS: "5000",
      LAMBDAIOT_AUTH_ATTEMPTS_BURST: "40", // each costs a password's hash; beyond it they are refused, as they should be
    },
  });
  api = await logIn(gateway.url);
  const { uuid, id, sensors } = (await api("POST", "/v1/devices", { id: "dev", name: "n", type: "t" })).body;
  const component = { device_id: uuid, name: "n", type: "t", data_type_id: 1 };
  const actor = (await api("POST", "/actors", component)).body.id;
  await api("POST", "/v1/data/dev", { timestamp: "2026-01-14T10:00:00Z", value: 1 });
  const rule = (await api("POST", "/v1/alerts/rules", { deviceId: "dev", condition: "gt", threshold: 5 })).body.id;
  const webhook = { url: "http://127.0.0.1:1/", events: ["alert.triggered"] };
  const hook = (await api("POST", "/v1/webhooks", webhook)).body.id;
  known = [id, uuid, sensors[0].id, actor, rule, hook, "prod_raw_streams", "prod_aggregated", "1"];
  operations = [...(await readOperations("/openapi.json")), ...(await readOperations("/v1/openapi.json"))];
});
afterAll(async () => {
  agent.destroy();
  await gateway.close();
});

async function readOperations(document: string): Promise<Operation[]> {
  const { body } = await createApi(gateway.url)("GET", document);
  const resolve = (part: Schema): Schema => {
    if (part.$ref !== undefined) return resolve(body.components.schemas[part.$ref.split("/").at(-1) as string]);
    return {
      ...part,
      ...(part.anyOf && { anyOf: part.anyOf.map(resolve) }),
      ...(part.items && { items: resolve(part.items) }),
      ...(part.properties && {
        properties: Object.fromEntries(Object.entries(part.properties).map(([name, one]) => [name, resolve(one)])),
      }),
    };
  };
  return Object.entries(body.paths as Record<string, Record<string, RawOperation>>).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { parameters: declared = [], requestBody }]) => ({
      method: method.toUpperCase(),
      path,
      parameters: declared.map((one) => ({ ...one, schema: resolve(one.schema) })),
      body: requestBody && resolve(requestBody.content["application/json"]?.schema ?? {}),
    })),
  );
}

const junkText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 80 }),
  fc.constantFrom(
    ..."| |\0|\n|%|%00|../..|'; DROP TABLE devices; --|null|NaN|-1|0|1e999|9007199254740993|2026-02-30T00:00:00Z".split(
      "|",
    ),
    ..."9999-12-31T23:59:59.999Z|0000-01-01T00:00:00Z|+|__proto__|constructor|toString|$ref|{}|[]|true".split("|"),
    "\ud800",
    "\u202e",
    "x".repeat(300),
    "9".repeat(400),
  ),
);
const junkJson = fc.oneof(
  fc.json({ depthSize: "small" }).map((text): unknown => JSON.parse(text)),
  junkText,
  fc.constantFrom<unknown>(null, true, 0, -0, -1, 1.5, 1e308, 5e-324, 2 ** 53, [], {}, [[]], [null], ""),
);

/** What a schema takes, mostly. */
function valid(schema: Schema): fc.Arbitrary<unknown> {
  if (schema.nullable === true) return fc.oneof(fc.constant(null), valid({ ...schema, nullable: false }));
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  if (schema.anyOf !== undefined) return fc.oneof(...schema.anyOf.map(valid));
  switch (schema.type) {
    case "object": {
      const parts: Record<string, fc.Arbitrary<unknown>> = {};
      for (const [name, part] of Object.entries(schema.properties ?? {})) parts[name] = valid(part);
      return fc.record(parts, { requiredKeys: schema.required ?? [] });
    }
    case "array":
      return fc.array(valid(schema.items ?? {}), { maxLength: 3 });
    case "boolean":
      return fc.boolean();
    case "integer":
      return fc.integer({ min: schema.minimum ?? -5, max: Math.min(schema.maximum ?? 1_000, 1_000_000_000) });
    case "number":
      return fc.double({ noNaN: true, noDefaultInfinity: true });
    case "string":
      if (schema.format === "date-time")
        return fc.oneof(
          fc.date({ noInvalidDate: true }).map((date) => date.toISOString()),
          fc.constant("2026-01-14T10:00:00Z"),
        );
      // Of URLs none that leads off this machine.
      if (schema.format === "uri")
        return fc.constantFrom("http://127.0.0.1:1/", "http://[::1]:1/a?b", "ftp://x", "http:");
      return fc.oneof(fc.string({ maxLength: 20 }), fc.constantFrom(...known));
    default:
      return junkJson;
  }
}

/** A valid body with one or two parts of it replaced, removed or added. */
const mutated = (schema: Schema): fc.Arbitrary<unknown> =>
  fc
    .tuple(
      valid(schema),
      fc.array(fc.tuple(fc.nat(), fc.constantFrom("replace", "remove", "add"), junkText, junkJson), { maxLength: 2 }),
    )
    .map(([body, changes]) => {
      if (typeof body !== "object" || body === null || Array.isArray(body)) return body;
      const changed: Record<string, unknown> = { ...body };
      for (const [place, kind, name, value] of changes) {
        const keys = Object.keys(changed);
        const key = kind === "add" || keys.length === 0 ? name : (keys[place % keys.length] as string);
        if (kind === "remove") delete changed[key];
        else changed[key] = value;
      }
      return changed;
    });

const text = (body: unknown): string => JSON.stringify(body) ?? "";
const bodyOf = (schema: Schema | undefined): fc.Arbitrary<string | Buffer | undefined> =>
  fc.oneof(
    { weight: 6, arbitrary: schema === undefined ? fc.constant(undefined) : mutated(schema).map(text) },
    { weight: 2, arbitrary: junkJson.map(text) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)) },
    {
      weight: 1,
      arbitrary: fc.constantFrom(
        "",
        "{",
        "\ufeff{}",
        '{"a":1,"a":2}',
        '{"__proto__":{"name":"x"},"constructor":{"prototype":1}}',
        '{"value":1e999,"timestamp":"2026-01-14T10:00:00Z"}',
        `${"[".repeat(40)}${"]".repeat(40)}`,
        '{"name":"\\ud800","type":"\\udfff"}',
        Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]),
      ),
    },
  );

const encode = (value: string): string => encodeURIComponent(value.toWellFormed());
const pathPart = (isDelete: boolean): fc.Arbitrary<string> =>
  fc.oneof(
    { weight: isDelete ? 0 : 4, arbitrary: fc.constantFrom(...known) },
    { weight: 3, arbitrary: junkText.filter((one) => one !== "").map(encode) },
    {
      weight: 1,
      arbitrary: fc.constantFrom("%", "%zz", "%ff", "%c0%af", "%ed%a0%80", "a;b", "a%3fb", "a%2fb", "~", "a+b"),
    },
    { weight: 1, arbitrary: fc.uuid() },
  );

const queryOf = (operation: Operation): fc.Arbitrary<string> => {
  const names = operation.parameters.filter((one) => one.in === "query");
  const pair = fc.oneof(
    ...names.map(({ name, schema }) =>
      fc.oneof(valid(schema).map(String), junkText).map((value) => `${encode(name)}=${encode(value)}`),
    ),
    fc.tuple(junkText, junkText).map(([name, value]) => `${encode(name)}=${encode(value)}`),
    fc.constantFrom(
      "",
      "=",
      "&&",
      "?",
      "limit",
      "limit=1&limit=x",
      "from[]=1",
      "limit[$gt]=1",
      "%",
      "a=%zz&b=%ff",
      "#x",
    ),
  );
  return fc.array(pair, { maxLength: 4 }).map((pairs) => (pairs.length === 0 ? "" : `?${pairs.join("&")}`));
};

/** What a header may hold on the wire at all: visible Latin-1 and blanks. */
const headerText = fc
  .array(fc.oneof(fc.integer({ min: 0x20, max: 0x7e }), fc.integer({ min: 0xa0, max: 0xff })), { maxLength: 60 })
  .map((codes) => String.fromCharCode(...codes));
const oddHeaders: fc.Arbitrary<Record<string, string>> = fc.record(
  {
    "Content-Type": fc.oneof(
      headerText,
      fc.constantFrom("text/plain", "application/json;charset=utf-16", "application/x+json", "multipart/form-data"),
    ),
    Accept: headerText,
    "Accept-Encoding": headerText,
    "Idempotency-Key": headerText,
    "X-Forwarded-For": fc.oneof(headerText, fc.constantFrom("::1", "1.2.3.4, ,", "fe80::1%eth0", "[::1]:80")),
    Forwarded: headerText,
    "X-API-Key": headerText,
    "X-Request-Id": headerText,
    "X-HTTP-Method-Override": fc.constant("DELETE"),
    "If-None-Match": headerText,
    Range: headerText,
    Cookie: headerText,
    Origin: headerText,
  },
  { requiredKeys: [] },
);

const callOf = (operation: Operation): fc.Arbitrary<Call> => {
  const { method, path } = operation;
  const slots = path.split(/\{\w+\}/).length - 1;
  return fc
    .record({
      parts: fc.array(pathPart(method === "DELETE"), { minLength: slots, maxLength: slots }),
      query: fc.oneof(fc.constant(""), queryOf(operation)),
      headers: fc.oneof({ weight: 3, arbitrary: fc.constant({}) }, { weight: 1, arbitrary: oddHeaders }),
      body: ["POST", "PUT"].includes(method) ? bodyOf(operation.body) : fc.constant(undefined),
    })
    .map(({ parts, query, headers, body }) => {
      const rest = [...parts];
      return {
        method,
        path: path.replaceAll(/\{\w+\}/g, () => rest.shift() ?? "x") + query,
        headers: {
          Authorization: `Bearer ${api.token}`,
          ...(body !== undefined && { "Content-Type": "application/json" }),
          ...(headers as Record<string, string>),
        },
        body,
      };
    });
};

interface Answer {
  status: number;
  type: string;
  text: string;
}

const send = ({ method, path, headers, body }: Call): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const { port } = new URL(gateway.url);
    const sending = request({ host: "127.0.0.1", port, method, path, headers, agent }, (response) => {
      const type = response.headers["content-type"] ?? "";
      const status = response.statusCode ?? 0;
      if (type === "text/event-stream") {
        response.destroy(); // it would never end
        resolve({ status, type, text: "" });
        return;
      }
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => void chunks.push(chunk));
      response.on("end", () => resolve({ status, type, text: Buffer.concat(chunks).toString() }));
      response.on("error", reject);
    });
    sending.on("error", reject);
    sending.end(body);
  });

const codes: Record<string, number> = {
  VALIDATION_ERROR: 400,
  INVALID_TOKEN: 401,
  INVALID_CREDENTIALS: 401,
  FORBIDDEN: 403,
  QUOTA_EXCEEDED: 403,
  NOT_FOUND: 404,
  CONFLICT: 409,
  PAYLOAD_TOO_LARGE: 413,
  RATE_LIMITED: 429,
};

/** What is wrong with an answer; undefined where it is one that is documented. */
function findFault({ path }: Call, { status, type, text: body }: Answer): string | undefined {
  if (/\n\s+at |node_modules|\.ts:\d|SQLITE|SqliteError/.test(body)) return "it tells of the inside";
  if (type === "text/event-stream") return undefined;
  if (type !== "application/json") return `its type is ${type}`;
  const parsed = JSON.parse(body);
  // On a machine that is too busy, health may say so: that is its answer.
  if (status === 503 && path.startsWith("/v1/health") && parsed.status === "unhealthy") return undefined;
  if (status < 200 || status >= 500) return "its status is not one for bad input";
  if (status < 400) return undefined;
  const { error } = parsed;
  const keys = [Object.keys(parsed), path.startsWith("/v1/") ? Object.keys(error) : error].join(" ");
  if (!path.startsWith("/v1/")) return typeof error === "string" && error !== "" ? undefined : `its shape is ${keys}`;
  if (keys !== "error code,message,details") return `its shape is ${keys}`;
  if (typeof error.message !== "string" || error.message === "") return "it says nothing";
  return codes[error.code] === status ? undefined : `${error.code} does not go with its status`;
}

/** Sends, and expects an answer that is documented. */
async function expectAnswer(call: Call): Promise<Answer> {
  const answer = await send(call);
  expect({ call, answer, fault: findFault(call, answer) }).toEqual({ call, answer, fault: undefined });
  return answer;
}

/** A fault would be logged and counted, whatever was answered. */
const health = async () => ({
  errors: gateway.app.counters.get("http.errors"),
  logged: /request failed.*/.exec(gateway.log())?.[0],
  statuses: [(await api("GET", "/health")).status, (await api("GET", "/v1/devices?limit=1")).status],
});
const well = { errors: 0, logged: undefined, statuses: [200, 200] };

const parameters = { seed, interruptAfterTimeLimit: timeLimitMs };

test("whatever is sent to any operation, the answer is one that is documented", { timeout: 60_000 }, async () => {
  const perOperation = fc.constantFrom(...operations).chain(callOf);
  await fc.assert(
    fc.asyncProperty(perOperation, async (call) => void (await expectAnswer(call))),
    { ...parameters, numRuns: 4_000 },
  );
  expect(await health()).toEqual(well);
});

test("whatever stands for credentials, nothing is let in by it, and nothing breaks", { timeout: 60_000 }, async () => {
  const credentials = fc.oneof(
    headerText,
    headerText.map((one) => `Bearer ${one}`),
    fc.constantFrom("lk_", "ak_", "lk_%00_", "e30.e30.", "..", "e30.e30.e30").map((one) => `Bearer ${one}`),
    fc.string({ maxLength: 30 }).map((one) => `Bearer ${["e30", btoa(encode(one)), "x"].join(".")}`),
  );
  const guarded = operations.filter(
    ({ path }) => !/^\/(?:health|hello|login|register|devices)$|\/auth\/login$/.test(path),
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...guarded).chain(callOf), credentials, async (call, Authorization) => {
      const headers = { ...call.headers, Authorization };
      const answer = await expectAnswer({ ...call, headers });
      // A path can also be none that there is, and a body too large for anybody.
      expect(answer.status).toBeOneOf([401, 404, 413]);
    }),
    { ...parameters, numRuns: 800 },
  );
  expect(await health()).toEqual(well);
});

test("paths that nobody has are 404, in the shape of their prefix", { timeout: 60_000 }, async () => {
  const part = fc.oneof(junkText.map(encode), fc.constantFrom("%", "%ff", "v1", "devices", "data", ".", "..", "", "~"));
  const method = fc.constantFrom("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND");
  await fc.assert(
    fc.asyncProperty(
      method,
      fc.constantFrom("/v1/", "/"),
      fc.array(part, { minLength: 2, maxLength: 5 }),
      async (verb, prefix, parts) => {
        const path = `${prefix}nothing/${parts.filter((one) => !/^(?:\.|%2e)+$/i.test(one)).join("/")}`;
        const call: Call = { method: verb, path, headers: { Authorization: `Bearer ${api.token}` }, body: undefined };
        const answer = await expectAnswer(call);
        expect(answer.status).toBe(404);
      },
    ),
    { ...parameters, numRuns: 500 },
  );
  expect(await health()).toEqual(well);
});
