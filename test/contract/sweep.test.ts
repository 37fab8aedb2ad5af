import { randomUUID } from "node:crypto";
import { SignJWT, UnsecuredJWT, decodeJwt, type JWTPayload } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createHttpApp, type HttpOptions } from "../../src/http/server.ts";
import { makeCertificates } from "../../src/tls/init.ts";
import { createApi, logIn, type Api } from "../support/client.ts";
import { makeFolder, startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// Every operation that the running gateway has, taken from its own route table: none without a guard, none without a
// document. What is public stands here by hand, so that nothing becomes so by accident.

const lambdaPublic = ["GET /health", "GET /hello", "POST /register", "POST /login", "GET /devices", "GET /ca.crt"];
const lambdaProtected = [
  "GET /protected",
  "POST /devices",
  "GET /devices/{id}",
  "PUT /devices/{id}",
  "DELETE /devices/{id}",
  ...["sensors", "actors"].flatMap((kind) => [
    `POST /${kind}`,
    `GET /${kind}`,
    `GET /${kind}/{id}`,
    `PUT /${kind}/{id}`,
    `DELETE /${kind}/{id}`,
  ]),
  "POST /sensors/{id}/trigger",
  "POST /actors/{id}/write",
  "POST /sensor-readings",
  "GET /sensor-readings",
  "GET /sensor-readings/{id}",
  "PUT /sensor-readings/{id}",
  "DELETE /sensor-readings/{id}",
  "GET /mqttping",
];
/** Of neither document. */
const undocumented = ["GET /metrics"];
const isPublic = (operation: string): boolean => [...lambdaPublic, "POST /v1/auth/login"].includes(operation);

const secret = "a secret of this test alone, 32 bytes or more";

let gateway: LocalGateway;
let api: Api;
let anybody: Api;
let claims: JWTPayload;
/** `GET /devices/{id}`, of the Lambda document and of both. */
let lambda: string[];
let operations: string[];

const { folder, remove } = makeFolder();

beforeAll(async () => {
  makeCertificates({ dataFolder: folder, names: [], isForced: false, now: Date.now() }); // so that there is a CA to get
  gateway = await startLocalGateway({
    folder,
    env: {
      LAMBDAIOT_SERVER_JWT_SECRET: secret,
      // What is refused for its number would be no answer to the question here.
      LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000",
      LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000",
    },
  });
  api = await logIn(gateway.url);
  claims = decodeJwt(api.token as string);
  anybody = createApi(gateway.url);
  lambda = await readOperations("/openapi.json");
  operations = [...lambda, ...undocumented, ...(await readOperations("/v1/openapi.json"))];
});
afterAll(async () => {
  await gateway.close();
  remove();
});

async function readOperations(document: string): Promise<string[]> {
  const { status, body } = await anybody("GET", document);
  expect(status).toBe(200);
  return Object.entries(body.paths as Record<string, object>).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
}

/** Calls `operation` with a path and a body that would do, were it allowed. */
function call(operation: string, headers: Record<string, string> = {}) {
  const [method = "", path = ""] = operation.split(" ");
  const id = path.startsWith("/sensor-readings") ? "1" : randomUUID();
  const body = ["POST", "PUT"].includes(method) ? {} : undefined;
  return anybody(method, path.replaceAll(/\{\w+\}/g, id), body, headers);
}

test("the root has the operations of the Lambda document, each of them, and the CA's certificate besides", () => {
  expect(sorted(lambda)).toEqual(sorted([...lambdaPublic, ...lambdaProtected]));
});

test("nothing is routed but what the OpenAPI documents describe, the documentation itself, and the metrics", () => {
  // The very table that the gateway serves from. Nothing is called, so nothing has to be there.
  const { routes } = createHttpApp({} as HttpOptions);
  const served = routes
    .filter(({ method }) => method !== "ALL") // middleware
    .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, "{$1}")}`)
    .filter((operation) => !/^GET (?:\/v1)?\/(?:docs(?:\/.*)?|openapi\.json)$/.test(operation));
  expect(sorted([...new Set(served)])).toEqual(sorted(operations));
});

test("all middleware stands before the routes and answers nothing by itself", async () => {
  for (const method of ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
    for (const prefix of ["", "/v1"]) expect((await anybody(method, `${prefix}/${randomUUID()}`)).status).toBe(404);
});

describe("every operation that is not public answers 401", () => {
  const key = (text: string): Uint8Array => Buffer.from(text, "utf8");
  const now = Math.floor(Date.now() / 1_000);
  const sign = (payload: JWTPayload, signWith = secret, header: object = {}): Promise<string> =>
    new SignJWT(payload).setProtectedHeader({ alg: "HS256", typ: "JWT", ...header }).sign(key(signWith));

  /** What stands in the Authorization header. */
  const headers: [string, () => string | undefined | Promise<string>][] = [
    ["without a token", () => undefined],
    ["with an empty header", () => ""],
    ["with an empty token", () => "Bearer "],
    ["with garbage", () => "Bearer garbage"],
    ["with garbage in three parts", () => "Bearer e30.e30.e30"],
    ["with an API key that nobody has", () => `Bearer lk_${"A".repeat(8)}_${"A".repeat(43)}`],
    ["with an access key that nobody has", () => `Bearer ak_${"A".repeat(43)}`],
    ["with a basic login", () => `Basic ${btoa("admin:secret123")}`],
    ["with a token without its scheme", () => api.token],
    ["with a token that another secret signed", async () => `Bearer ${await sign(claims, `${secret}!`)}`],
    ["with a token that nobody signed", () => `Bearer ${new UnsecuredJWT(claims).encode()}`],
    ["with a token whose signature is cut off", () => `Bearer ${api.token?.replace(/[^.]+$/, "")}`],
    ["with a token of another algorithm", async () => `Bearer ${await sign(claims, secret, { alg: "HS512" })}`],
    ["with a token that has expired", async () => `Bearer ${await sign({ ...claims, exp: now - 61 })}`],
    ["with a token that never expires", async () => `Bearer ${await sign(withoutEnd(claims))}`],
    ["with the token of a user who is gone", async () => `Bearer ${await sign({ ...claims, user_id: randomUUID() })}`],
    ["with a token from before the last password", async () => `Bearer ${await sign({ ...claims, ver: -1 })}`],
    ["with a token of another type", async () => `Bearer ${await sign(claims, secret, { typ: "at+jwt" })}`],
    [
      "with a token whose claims were changed",
      () => {
        const [header, , signature] = (api.token as string).split(".");
        return `Bearer ${header}.${btoa(JSON.stringify({ ...claims, exp: now + 10 ** 6 }))}.${signature}`;
      },
    ],
  ];

  test.each(headers)("%s", async (_, makeHeader) => {
    const header = await makeHeader();
    expect(await listAnswers(header === undefined ? {} : { Authorization: header })).toEqual(refusals());
    expect((await anybody("GET", "/devices")).body).toEqual([]);
  });

  test("with an X-API-Key that nobody has", async () => {
    const answers = await listAnswers({ "X-API-Key": `lk_${"A".repeat(8)}_${"A".repeat(43)}` });
    expect(answers).toEqual(refusals());
  });

  async function listAnswers(headers: Record<string, string>) {
    const answers = [];
    for (const operation of operations.filter((one) => !isPublic(one))) {
      const { status, body, headers: answered } = await call(operation, headers);
      answers.push({ operation, status, error: body.error, challenge: answered.get("WWW-Authenticate") });
    }
    return answers;
  }

  function refusals() {
    const inV1 = expect.objectContaining({ code: "INVALID_TOKEN" });
    return operations
      .filter((one) => !isPublic(one))
      .map((operation) => ({
        operation,
        status: 401,
        error: operation.includes(" /v1/") ? inV1 : "no claims",
        challenge: "Bearer",
      }));
  }

  test("and with a good token something else", async () => {
    const good = `Bearer ${await sign({ ...claims, exp: now + 60 })}`; // so it is not the way of signing that was refused
    for (const operation of lambda) {
      const { status } = await call(operation, { Authorization: good });
      expect({ operation, status }).toEqual({ operation, status: expect.toBeOneOf([200, 400, 404]) });
    }
  });
});

describe("every public operation", () => {
  test("answers something else than 401 without a token", async () => {
    for (const operation of operations.filter(isPublic)) {
      const { status } = await call(operation);
      expect({ operation, status }).toEqual({ operation, status: operation.startsWith("POST") ? 400 : 200 });
    }
  });

  test("does not mind a bad token", async () => {
    for (const path of ["/health", "/hello", "/devices"])
      expect((await anybody("GET", path, undefined, { Authorization: "Bearer garbage" })).status).toBe(200);
  });
});

function withoutEnd({ exp: _exp, ...rest }: JWTPayload): JWTPayload {
  return rest;
}

function sorted(list: readonly string[]): string[] {
  return list.toSorted((a, b) => a.localeCompare(b));
}
