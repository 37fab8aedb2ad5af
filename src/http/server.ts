import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { getConnInfo } from "@hono/node-server/conninfo";
import { Hono, type Context } from "hono";
import { bodyLimit } from "hono/body-limit";
import { requestId, type RequestIdVariables } from "hono/request-id";
import type { PublishCommand } from "../core/commands.ts";
import type { Domain } from "../core/ctx.ts";
import { DomainError, StartError } from "../core/errors.ts";
import { resolvePeer, type PeerRule } from "../core/peers.ts";
import type { Tokens } from "../core/tokens.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import { mountDocs } from "./docs.ts";
import { createRateLimit } from "./rate-limit.ts";
import { accountRoutes, type RegistrationRule } from "./root/account.ts";
import { actorRoutes, sensorRoutes } from "./root/components.ts";
import { deviceRoutes } from "./root/devices.ts";
import { readingRoutes } from "./root/readings.ts";
import { rootDialect } from "./root/shapes.ts";
import { systemRoutes } from "./root/system.ts";
import { mountRoutes, type Dialect, type Route } from "./route.ts";

export interface HttpOptions {
  domain: Domain;
  tokens: Tokens;
  publish: PublishCommand;
  isHealthy: () => boolean;
  log: Log;
  counters: Counters;
  registration: RegistrationRule;
  publicDevices: PeerRule;
  attemptsBurst: number;
  attemptsPerMinute: number;
  trustedProxies: readonly string[];
  maxBodyBytes: number;
}

/** The two dialects' routes, as they are served and as they are documented. */
export function createRoutes(
  deps: Pick<
    HttpOptions,
    "tokens" | "publish" | "isHealthy" | "registration" | "counters" | "attemptsBurst" | "attemptsPerMinute"
  >,
): {
  dialect: Dialect;
  routes: Route[];
}[] {
  const attempts = createRateLimit({
    burst: deps.attemptsBurst,
    perMinute: deps.attemptsPerMinute,
    counters: deps.counters,
    counter: "http.attempts_refused",
  });
  return [
    {
      dialect: rootDialect,
      routes: [
        ...systemRoutes(deps),
        ...accountRoutes({ ...deps, attempts }),
        ...deviceRoutes(),
        ...sensorRoutes(deps),
        ...actorRoutes(deps),
        ...readingRoutes(),
      ],
    },
  ];
}

/** The whole HTTP side, in the order in which a request passes it. */
export function createHttpApp(options: HttpOptions): Hono<{ Variables: RequestIdVariables }> {
  const { log, counters, maxBodyBytes } = options;
  const app = new Hono<{ Variables: RequestIdVariables }>();
  const apis = createRoutes(options);

  app.use(requestId());
  app.use(async function setHeaders(c, next) {
    await next();
    c.res.headers.set("X-Content-Type-Options", "nosniff");
  });
  app.use(bodyLimit({ maxSize: maxBodyBytes, onError: () => refuseBody(maxBodyBytes) }));
  for (const { dialect, routes } of apis) mountRoutes(app as unknown as Hono, dialect, routes, { ...options, peerOf });
  mountDocs(app as unknown as Hono, apis);
  app.notFound((c) => renderError(c, new DomainError("not_found", "resource not found")));
  app.onError((error, c) => {
    if (error instanceof DomainError) return renderError(c, error);
    counters.increment("http.errors");
    log.error("request failed", {
      id: c.get("requestId"),
      method: c.req.method,
      path: c.req.path,
      error,
      stack: error.stack,
    });
    return c.json(dialectOf(c).internalError as object, 500);
  });

  function refuseBody(limit: number): never {
    counters.increment("http.bodies_refused");
    throw new DomainError("too_large", `the body is larger than ${limit} bytes`);
  }

  function peerOf(c: Context) {
    return resolvePeer(getConnInfo(c).remote.address ?? "", c.req.header("X-Forwarded-For"), options.trustedProxies);
  }

  /** Every path speaks the dialect of its prefix, those that lead nowhere too. */
  function dialectOf(c: Context): Dialect {
    const { path } = c.req;
    const prefixed = apis.find(
      ({ dialect: { prefix } }) => prefix !== "" && (path === prefix || path.startsWith(`${prefix}/`)),
    );
    return prefixed?.dialect ?? rootDialect;
  }

  function renderError(c: Context, error: DomainError): Response {
    const { status, body } = dialectOf(c).render(error);
    if (error.retryAfterSeconds !== undefined) c.header("Retry-After", String(error.retryAfterSeconds));
    if (status === 401) c.header("WWW-Authenticate", "Bearer");
    return c.json(body as object, status as 400);
  }

  return app;
}

export interface HttpServer {
  /** The port listened on, the real one where 0 was asked for. */
  port: number;
  server: Server;
  /** Accepts no connection any more; requests under way are answered. */
  close(): Promise<void>;
}

/** What a slow or silent client may take up, in milliseconds and bytes. */
const serverOptions = {
  headersTimeout: 10_000,
  requestTimeout: 30_000,
  keepAliveTimeout: 5_000,
  connectionsCheckingInterval: 5_000,
  maxHeaderSize: 8_192,
};
/** Requests that are still running then are cut off. */
const closeTimeoutMs = 5_000;

/** @throws {StartError} where the port is taken or not allowed */
export async function listen(
  app: Hono<{ Variables: RequestIdVariables }>,
  {
    host,
    port,
    maxConnections,
    counters,
  }: { host: string | undefined; port: number; maxConnections: number; counters: Counters },
): Promise<HttpServer> {
  const server = createAdaptorServer({ fetch: app.fetch, serverOptions }) as Server;
  server.maxConnections = maxConnections;
  server.on("drop", () => counters.increment("http.connections_dropped"));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ port, ...(host !== undefined && { host }) }, resolve);
  }).catch((error: NodeJS.ErrnoException) => {
    throw new StartError(`the API cannot listen on port ${port}: ${error.code ?? error.message}`);
  });
  return {
    port: (server.address() as AddressInfo).port,
    server,
    close: () =>
      new Promise((resolve) => {
        const cutOff = setTimeout(() => server.closeAllConnections(), closeTimeoutMs);
        server.close(() => {
          clearTimeout(cutOff);
          resolve();
        });
        server.closeIdleConnections();
      }),
  };
}
