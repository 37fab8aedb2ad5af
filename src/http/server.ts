import { randomBytes } from "node:crypto";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { createServer as createHttpsServer, type Server as HttpsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { createAdaptorServer, type HttpBindings } from "@hono/node-server";
import { Hono, type Context } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { RequestIdVariables } from "hono/request-id";
import type { PublishCommand } from "../core/commands.ts";
import type { Domain } from "../core/ctx.ts";
import { DomainError, StartError } from "../core/errors.ts";
import type { Probes } from "../core/health.ts";
import { readForwarded, resolvePeer, type PeerRule } from "../core/peers.ts";
import type { Shop } from "../core/products.ts";
import type { Tokens } from "../core/tokens.ts";
import type { WebhookLimits } from "../core/webhooks.ts";
import type { CounterName, Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import { GivenUpError } from "../steps.ts";
import type { Tls } from "../tls/tls.ts";
import { mountDocs } from "./docs.ts";
import { createAuthenticate } from "./auth.ts";
import type { Live } from "./live.ts";
import { mountMetrics } from "./metrics.ts";
import type { RateLimit } from "./rate-limit.ts";
import type { Requests } from "./requests.ts";
import { accountRoutes, type RegistrationRule } from "./root/account.ts";
import { actorRoutes, sensorRoutes } from "./root/components.ts";
import { deviceRoutes } from "./root/devices.ts";
import { readingRoutes } from "./root/readings.ts";
import { rootDialect } from "./root/shapes.ts";
import { systemRoutes } from "./root/system.ts";
import { mountRoutes, type Dialect, type Route } from "./route.ts";
import { alertRoutes } from "./v1/alerts.ts";
import { authRoutes } from "./v1/auth.ts";
import { dataRoutes } from "./v1/data.ts";
import { deviceRoutes as v1DeviceRoutes } from "./v1/devices.ts";
import { healthRoutes } from "./v1/health.ts";
import { liveRoutes } from "./v1/live.ts";
import { productRoutes } from "./v1/products.ts";
import { v1Dialect } from "./v1/shapes.ts";
import { tokenRoutes } from "./v1/tokens.ts";
import { webhookRoutes } from "./v1/webhooks.ts";

/** What the routes of both dialects call. */
export interface RouteDeps {
  tokens: Tokens;
  publish: PublishCommand;
  isHealthy: () => boolean;
  /** Whether a device, by its UUID, has an MQTT session open. */
  isConnected: (deviceUuid: string) => boolean;
  probes: Probes;
  shop: Shop;
  live: Live;
  /** The gateway's own certification authority, PEM, where it has one. */
  authority: () => string | undefined;
  /** Failed logins and registrations, by address. */
  attempts: RateLimit;
  registration: RegistrationRule;
  webhookLimits: WebhookLimits;
  maxApiKeys: number;
  maxAlertRules: number;
}

export interface HttpOptions extends RouteDeps {
  domain: Domain;
  log: Log;
  counters: Counters;
  publicDevices: PeerRule;
  publicMetrics: boolean;
  renderMetrics: () => string;
  /** Calls of /v1, by key, user or address. */
  calls: RateLimit;
  trustedProxies: readonly string[];
  maxBodyBytes: number;
}

/** The two dialects' routes, as they are served and as they are documented. */
export const createRoutes = (deps: RouteDeps): { dialect: Dialect; routes: Route[] }[] => [
  {
    dialect: rootDialect,
    routes: [
      ...systemRoutes(deps),
      ...accountRoutes(deps),
      ...deviceRoutes(),
      ...sensorRoutes(deps),
      ...actorRoutes(deps),
      ...readingRoutes(),
    ],
  },
  {
    dialect: v1Dialect,
    routes: [
      ...authRoutes(deps),
      ...v1DeviceRoutes(deps),
      ...tokenRoutes(),
      ...dataRoutes(),
      ...productRoutes(deps),
      ...healthRoutes(deps),
      ...webhookRoutes({ limits: deps.webhookLimits }),
      ...alertRoutes({ maxRules: deps.maxAlertRules }),
      ...liveRoutes(deps),
    ],
  },
];

const requestIdPrefix = randomBytes(6).toString("base64url");
let requests = 0;

/** The id that the client has given, where it is fit for a log; else one that no other request since the start has. */
function nextRequestId(given: string | string[] | undefined): string {
  if (typeof given === "string" && /^[\w\-=]{1,255}$/.test(given)) return given;
  requests += 1;
  return `${requestIdPrefix}-${requests.toString(36)}`;
}

/** The whole HTTP side, in the order in which a request passes it. */
export function createHttpApp(options: HttpOptions): Hono<{ Variables: RequestIdVariables }> {
  const { log, counters, maxBodyBytes } = options;
  const app = new Hono<{ Variables: RequestIdVariables }>();
  const apis = createRoutes(options);

  app.use(function identifyRequest(c, next) {
    const { incoming, outgoing } = c.env as HttpBindings;
    const id = nextRequestId(incoming.headers["x-request-id"]);
    c.set("requestId", id);
    // On Node's own answer: a header of Hono's, set before there is a response, costs an object of Headers.
    outgoing.setHeader("X-Request-Id", id);
    outgoing.setHeader("X-Content-Type-Options", "nosniff");
    return next();
  });
  const limitBody = bodyLimit({ maxSize: maxBodyBytes, onError: () => refuseBody(maxBodyBytes) });
  // Nobody reads the body of a GET, and to look whether there is one costs a whole Request.
  app.use((c, next) => (c.req.method === "GET" ? next() : limitBody(c, next)));
  const authenticate = createAuthenticate({
    ...options,
    peerOf,
    limitOf: (dialect) => (dialect === v1Dialect ? options.calls : undefined),
  });
  for (const { dialect, routes } of apis) {
    mountRoutes(app as unknown as Hono, dialect, routes, { domain: options.domain, authenticate });
  }
  mountDocs(app as unknown as Hono, apis);
  mountMetrics(app as unknown as Hono, { authenticate, render: options.renderMetrics });
  app.notFound((c) => renderError(c, new DomainError("not_found", "resource not found")));
  app.onError((error, c) => {
    if (error instanceof DomainError) return renderError(c, error);
    if (error instanceof GivenUpError) return c.body(null); // which nobody gets
    // Whoever hangs up amid a body, or is cut off for sending too slowly: no fault of the gateway's, and nobody to tell.
    const { incoming } = c.env as HttpBindings;
    if (incoming.destroyed && !incoming.complete) {
      counters.increment("http.bodies_cut_off");
      return renderError(c, new DomainError("invalid", "the body ended early"));
    }
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
    const { headers, socket } = (c.env as HttpBindings).incoming;
    return resolvePeer(socket.remoteAddress ?? "", readForwarded(headers), options.trustedProxies);
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
    counters.increment(`http.refused.${error.code}`);
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

/** What came over a connection that is no request: how it is counted, and answered, as Node itself would. */
function explainClientError({ code }: NodeJS.ErrnoException): { counter?: CounterName; line: string } {
  if (code === "HPE_HEADER_OVERFLOW")
    return { counter: "http.headers_refused", line: "431 Request Header Fields Too Large" };
  if (code === "HPE_CHUNK_EXTENSIONS_OVERFLOW") return { counter: "http.malformed", line: "413 Payload Too Large" };
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") return { counter: "http.timeouts", line: "408 Request Timeout" };
  // Anything else is the connection's end and not what was said on it.
  return { ...(code?.startsWith("HPE_") === true && { counter: "http.malformed" }), line: "400 Bad Request" };
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
    webSocketPath,
    counters,
    tls,
    requests,
  }: {
    host: string | undefined;
    port: number;
    /** HTTPS instead of HTTP. */
    tls?: Tls | undefined;
    maxConnections: number;
    /** Where `upgrade` is emitted, for WebSocket alone. Whoever asks for anything else is answered in HTTP/1.1. */
    webSocketPath: string;
    counters: Counters;
    requests: Requests;
  },
): Promise<HttpServer> {
  const shouldUpgradeCallback = (request: IncomingMessage): boolean =>
    request.url?.split("?", 1)[0] === webSocketPath && request.headers.upgrade?.toLowerCase() === "websocket";
  const limits = { ...serverOptions, shouldUpgradeCallback };
  const server = createAdaptorServer(
    tls === undefined
      ? { fetch: app.fetch, serverOptions: limits }
      : {
          fetch: app.fetch,
          createServer: createHttpsServer,
          serverOptions: { ...limits, ...tls.serverOptions() },
        },
  ) as Server;
  tls?.attach(server as HttpsServer);
  server.maxConnections = maxConnections;
  server.on("drop", () => counters.increment("http.connections_dropped"));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ port, ...(host !== undefined && { host }) }, resolve);
  }).catch((error: NodeJS.ErrnoException) => {
    const key = tls === undefined ? "server.port" : "tls.https_port";
    throw new StartError(`the API cannot listen on port ${port} (${key}): ${error.code ?? error.message}`);
  });
  const underWay = new Set<ServerResponse>();
  server.on("request", (request: IncomingMessage, response: ServerResponse) => {
    underWay.add(response);
    requests.begin();
    response.once("close", () => {
      underWay.delete(response);
      requests.end(request.url, response);
    });
  });
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Socket) => {
    const { counter, line } = explainClientError(error);
    if (counter !== undefined) counters.increment(counter);
    // Amid an answer, another one would be taken for a part of it.
    const isAnswering = [...underWay].some((response) => response.socket === socket && response.headersSent);
    if (socket.writable && !isAnswering) socket.write(`HTTP/1.1 ${line}\r\nConnection: close\r\n\r\n`);
    socket.destroy(error);
  });
  return {
    port: (server.address() as AddressInfo).port,
    server,
    async close() {
      server.close();
      const cutOff = setTimeout(() => server.closeAllConnections(), closeTimeoutMs);
      // Requests are waited for, not connections: one that speaks WebSocket by now is the broker's, and ends with it.
      for (const response of underWay) await new Promise((resolve) => response.once("close", resolve));
      clearTimeout(cutOff);
      server.closeAllConnections();
    },
  };
}
