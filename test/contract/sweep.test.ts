import { randomUUID } from "node:crypto";
import { SignJWT, UnsecuredJWT, decodeJwt, type JWTPayload } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createHttpApp, type HttpOptions } from "../../src/http/server.ts";
import { createApi, logIn, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// Every operation that the running gateway has, taken from its own route table: none without a guard, none without a
// document. What is public stands here by hand, so that nothing becomes so by accident.

const documented = {
  public: ["GET /health", "GET /hello", "POST /register", "POST /login", "GET /devices"],
  protected: [
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
  ],
};

const secret = "a secret of this test alone, 32 bytes or more";

let gateway: LocalGateway;
let api: Api;
let anybody: Api;
let operations: string[];
let claims: JWTPayload;

beforeAll(async () => {
  gateway = await startLocalGateway({ env: { LAMBDAIOT_SERVER_JWT_SECRET: secret } });
  api = await logIn(gateway.url);
  claims = decodeJwt(api.token as string);
  anybody = createApi(gateway.url);
  const { body } = await anybody("GET", "/openapi.json");
  operations = Object.entries(body.paths as Record<string, object>).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
});
afterAll(() => gateway.close());

test("the gateway has the operations of the Lambda document, each of them and no others", () => {
  expect(sorted(operations)).toEqual(sorted([...documented.public, ...documented.protected]));
});

test("nothing is routed but what the OpenAPI documents describe, and the documentation itself", () => {
  // The very table that the gateway serves from. Nothing is called, so nothing has to be there.
  const { routes } = createHttpApp({} as HttpOptions);
  const served = routes
    .filter(({ method }) => method !== "ALL") // middleware
    .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, "{$1}")}`)
    .filter((operation) => !/^GET (?:\/v1)?\/(?:docs(?:\/.*)?|openapi\.json)$/.test(operation))
    .filter((operation) => !/^\w+ \/v1\//.test(operation)); // the other dialect's, which has its own sweep
  expect(sorted([...new Set(served)])).toEqual(sorted(operations));
});

test("all middleware stands before the routes and answers nothing by itself", async () => {
  for (const method of ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
    expect((await anybody(method, `/${randomUUID()}`)).status).toBe(404);
});

describe("every operation that is not public answers 401", () => {
  const key = (text: string): Uint8Array => Buffer.from(text, "utf8");
  const now = Math.floor(Date.now() / 1_000);
  const sign = (payload: JWTPayload, signWith = secret, header: object = {}): Promise<string> =>
    new SignJWT(payload).setProtectedHeader({ alg: "HS256", typ: "JWT", ...header }).sign(key(signWith));

  const bearers: [string, () => Promise<string | undefined>][] = [
    ["without a token", async () => undefined],
    ["with an empty token", async () => "Bearer "],
    ["with garbage", async () => "Bearer garbage"],
    ["with garbage in three parts", async () => "Bearer e30.e30.e30"],
    ["with a basic login", async () => `Basic ${btoa("admin:secret123")}`],
    ["with a token without its scheme", async () => api.token],
    ["with a token that another secret signed", async () => `Bearer ${await sign(claims, `${secret}!`)}`],
    ["with a token that nobody signed", async () => `Bearer ${new UnsecuredJWT(claims).encode()}`],
    ["with a token whose signature is cut off", async () => `Bearer ${api.token?.replace(/[^.]+$/, "")}`],
    ["with a token of another algorithm", async () => `Bearer ${await sign(claims, secret, { alg: "HS512" })}`],
    [
      "with a token that has expired",
      async () => `Bearer ${await sign({ ...claims, iat: now - 90_000, exp: now - 61 })}`,
    ],
    ["with a token that never expires", async () => `Bearer ${await sign(withoutEnd(claims))}`],
    ["with the token of a user who is gone", async () => `Bearer ${await sign({ ...claims, user_id: randomUUID() })}`],
    ["with a token from before the last password", async () => `Bearer ${await sign({ ...claims, ver: -1 })}`],
    ["with a token of another type", async () => `Bearer ${await sign(claims, secret, { typ: "at+jwt" })}`],
    [
      "with a token whose claims were changed",
      async () => {
        const [header, , signature] = (api.token as string).split(".");
        return `Bearer ${header}.${btoa(JSON.stringify({ ...claims, exp: now + 10 ** 6 }))}.${signature}`;
      },
    ],
  ];

  test.each(bearers)("%s", async (_, makeBearer) => {
    const bearer = await makeBearer();
    for (const operation of operations) {
      if (documented.public.includes(operation)) continue;
      const [method = "", path = ""] = operation.split(" ");
      const { status, body, headers } = await anybody(
        method,
        path.replace("{id}", path.startsWith("/sensor-readings") ? "1" : randomUUID()),
        ["POST", "PUT"].includes(method) ? {} : undefined,
        bearer === undefined ? {} : { Authorization: bearer },
      );
      expect({ operation, status, body }).toEqual({ operation, status: 401, body: { error: "no claims" } });
      expect(headers.get("WWW-Authenticate")).toBe("Bearer");
    }
    expect((await anybody("GET", "/devices")).body).toEqual([]);
  });

  test("and with a good token something else", async () => {
    const good = `Bearer ${await sign({ ...claims, exp: now + 60 })}`; // so it is not the way of signing that was refused
    for (const operation of operations) {
      const [method = "", path = ""] = operation.split(" ");
      const { status } = await anybody(
        method,
        path.replace("{id}", path.startsWith("/sensor-readings") ? "1" : randomUUID()),
        ["POST", "PUT"].includes(method) ? {} : undefined,
        { Authorization: good },
      );
      expect({ operation, status }).toEqual({ operation, status: expect.toBeOneOf([200, 400, 404]) });
    }
  });
});

describe("every public operation", () => {
  test("answers something else than 401 without a token", async () => {
    for (const operation of documented.public) {
      const [method = "", path = ""] = operation.split(" ");
      const { status } = await anybody(method, path, method === "POST" ? {} : undefined);
      expect({ operation, status }).toEqual({ operation, status: method === "POST" ? 400 : 200 });
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
