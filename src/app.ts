import type { X509Certificate } from "node:crypto";
import { dirname, join, resolve } from "node:path";
import type { Config } from "./config.ts";
import { createDomain } from "./core/ctx.ts";
import { createRoom } from "./core/disk.ts";
import { createBus } from "./core/events.ts";
import { createTokens, loadTokenSecret } from "./core/tokens.ts";
import { createCounters, type Counters } from "./counters.ts";
import { createLive } from "./http/live.ts";
import { createRateLimit } from "./http/rate-limit.ts";
import { createRequests } from "./http/requests.ts";
import { createHttpApp, listen, type HttpServer } from "./http/server.ts";
import { startAlerts } from "./jobs/alerts.ts";
import { startDeliver } from "./jobs/deliver.ts";
import { startDeviceCheck } from "./jobs/device-check.ts";
import { startDisk } from "./jobs/disk.ts";
import { startPurge } from "./jobs/purge.ts";
import { startRetention } from "./jobs/retention.ts";
import { startRollup } from "./jobs/rollup.ts";
import { startSeal } from "./jobs/seal.ts";
import { createSender } from "./jobs/send.ts";
import { startSightings } from "./jobs/sightings.ts";
import type { Log } from "./log.ts";
import { createMetrics } from "./metrics.ts";
import { createAcl } from "./mqtt/acl.ts";
import { startBroker } from "./mqtt/broker.ts";
import { createGate } from "./mqtt/gate.ts";
import { createIngest } from "./mqtt/ingest.ts";
import { createLogin } from "./mqtt/login.ts";
import { createPersistence } from "./mqtt/persistence.ts";
import { createForgeryCheck, createTargets } from "./mqtt/targets.ts";
import { startProbes } from "./probes.ts";
import { openStore } from "./store/open.ts";
import { findPair } from "./tls/files.ts";
import { createTls, type Tls } from "./tls/tls.ts";

export interface App {
  httpPort: number;
  mqttPort: number;
  /** `undefined` where there is no certificate. */
  tls: { httpsPort: number; mqttsPort: number; certificate: X509Certificate } | undefined;
  storePath: string;
  counters: Counters;
  /** Reads the certificate's files again. */
  reload(): void;
  /** Everything in the reverse order of its start; what has been acknowledged is in the store when it returns. */
  close(): Promise<void>;
}

export interface AppOptions {
  config: Config;
  log: Log;
  /** The wall clock, epoch milliseconds. */
  now?: () => number;
}

/** The path by which browsers and others that speak WebSocket reach the broker. */
export const mqttWebSocketPath = "/mqtt";

const megabyte = 1024 * 1024;

/**
 * Puts the gateway together and starts it: store → core → jobs → mqtt → http.
 * @throws {StartError} what cannot be started, in one line; what had been started by then is closed again
 */
export async function startApp({ config, log, now = Date.now }: AppOptions): Promise<App> {
  const counters = createCounters();
  const started: (() => Promise<void> | void)[] = [];
  /** Whatever one part does, the others are closed too, the store last. @returns what went wrong */
  const closeAll = async (): Promise<unknown[]> => {
    const failures: unknown[] = [];
    for (const close of started.toReversed()) {
      try {
        await close();
      } catch (error) {
        log.error("a part of the gateway did not close", { error });
        failures.push(error);
      }
    }
    return failures;
  };
  try {
    const pairFiles = findPair(config.tls, dirname(resolve(config.database.path)));
    const tls =
      pairFiles &&
      createTls({
        files: pairFiles,
        handshakeTimeoutMs: config.tls.handshake_timeout * 1_000,
        log,
        counters,
        now,
      });
    if (tls !== undefined) started.push(() => tls.close());
    const store = openStore({
      path: config.database.path,
      maxPendingWrites: config.database.max_pending_writes,
      durability: config.database.durability,
      maxWalBytes: config.database.max_wal * 1024 * 1024,
      maxRecentReadings: config.database.max_recent_readings,
      log,
      counters,
    });
    started.push(() => store.close());
    const bus = createBus(log);
    bus.on("readings.stored", ({ count }) => counters.increment("readings.stored", count));
    const room = createRoom(config.database.min_free * megabyte);
    const domain = createDomain({
      store,
      bus,
      log,
      now,
      hasRoom: room.isOpen,
      onRefusal: () => counters.increment("readings.refused"),
      onDamage: () => counters.increment("store.damaged"),
    });
    const isHealthy = (): boolean => store.isHealthy() && counters.get("store.damaged") === 0;
    const secret = loadTokenSecret(config.server.jwt_secret, join(dirname(store.path), "jwt.secret"));
    const tokens = createTokens({ domain, secret, now });

    const disk = startDisk({ domain, room, folder: dirname(store.path), log, counters });
    started.push(() => disk.stop());
    const purge = startPurge({ domain, bus, log });
    started.push(() => purge.stop());
    // Stops after the broker: its devices' last messages count too.
    const sightings = startSightings({ domain, log });
    started.push(() => sightings.stop());

    const attempts = createRateLimit({
      burst: config.auth.attempts_burst,
      perMinute: config.auth.attempts_per_minute,
      counters,
      counter: "auth.attempts_refused",
    });
    const acl = createAcl({ topic: config.mqtt.topic, rules: config.aclRules });
    const targetOf = createTargets(domain);
    const persistence = createPersistence({
      domain,
      log,
      counters,
      now,
      maxQueued: config.mqtt.max_queued_messages,
      maxQueuedBytes: config.mqtt.max_queued_bytes,
      maxSessions: config.mqtt.max_sessions,
      maxUnreleased: config.mqtt.max_unreleased_messages,
      maxUnreleasedTotal: config.mqtt.max_unreleased_total,
      maxRetained: config.mqtt.max_retained_messages,
      maxRetainedBytes: config.mqtt.max_retained_bytes,
      sessionExpiryMs: config.mqtt.session_expiry_days * 86_400_000,
      // Or a device that sleeps would find its queue full of what others have said.
      isFor: (owner, topic, payload) =>
        topic !== config.mqtt.topic || owner?.startsWith("device:") !== true || owner === `device:${targetOf(payload)}`,
    });
    const ingest = createIngest({
      domain,
      log,
      counters,
      now,
      topic: config.mqtt.topic,
      maxPayloadBytes: config.mqtt.max_payload_bytes,
      maxDevices: config.mqtt.max_devices,
      resendWindow: config.mqtt.resend_window,
    });
    const broker = await startBroker({
      bus,
      ingest,
      logIn: createLogin({
        domain,
        tokens,
        credentials: config.broker.credentials,
        anonymous: config.mqtt.anonymous,
        attempts,
      }),
      acl,
      persistence,
      targetOf,
      isHealthy: store.isHealthy,
      isForged: createForgeryCheck(domain, config.mqtt.topic),
      gate: createGate({
        log,
        counters,
        maxConnectBytes: config.mqtt.max_connect_bytes,
        maxPacketBytes: config.mqtt.max_packet_bytes,
        maxInFlight: config.mqtt.max_inflight,
        connectTimeoutMs: config.mqtt.connect_timeout * 1_000,
        maxConnectionsPerAddress: config.mqtt.max_connections_per_address,
        trustedProxies: config.server.trusted_proxies,
        maxUnreadBytes: config.mqtt.max_unread_bytes,
        maxUnreadBytesTotal: config.mqtt.max_unread_bytes_total,
        drainTimeoutMs: config.mqtt.drain_timeout * 1_000,
      }),
      log,
      counters,
      host: config.broker.host,
      port: config.broker.port,
      secure: tls && { tls, ...config.mqtts },
      topic: config.mqtt.topic,
      trustedProxies: config.server.trusted_proxies,
      maxConnections: config.mqtt.max_connections,
      maxPacketBytes: config.mqtt.max_packet_bytes,
      maxSubscriptions: config.mqtt.max_subscriptions,
      sysIntervalMs: config.mqtt.sys_interval * 1_000,
    });
    started.push(() => broker.close());
    // Devices that have been heard before they are cut off get their acknowledgement.
    started.push(() => store.writer.drain());

    const deviceCheck = startDeviceCheck({
      domain,
      publish: broker.publish,
      log,
      intervalMs: config.mqtt.device_check_interval * 1_000,
    });
    started.push(() => deviceCheck.stop());

    const rollup = startRollup({ domain, bus, log });
    started.push(() => rollup.stop());
    const seal = startSeal({ domain, log });
    started.push(() => seal.stop());
    const retention = startRetention({
      domain,
      bus,
      log,
      counters,
      now,
      policy: { rawDays: config.retention.raw_days, rollupDays: config.retention.rollup_days },
      maxBytes: config.database.max_size * megabyte,
      hasRoom: room.isOpen,
    });
    started.push(() => retention.stop());
    const alerts = startAlerts({ domain, bus, log, now });
    started.push(() => alerts.stop());
    const ownPorts: number[] = [broker.port, broker.securePort].filter((port) => port !== undefined);
    const webhookLimits = { maxWebhooks: config.webhooks.max_webhooks, maxPending: config.webhooks.max_pending };
    const send = createSender({ ownPorts: () => ownPorts, now });
    const deliver = startDeliver({ domain, bus, log, counters, now, send, limits: webhookLimits });
    started.push(() => deliver.stop());
    const probes = startProbes({ store, isHealthy, room, broker, counters });
    started.push(() => probes.stop());
    const live = createLive({ bus, counters, maxClients: config.server.max_live_clients });
    const requests = createRequests();
    const metrics = createMetrics({ domain, store, broker, live, requests, probes, counters });

    const app = createHttpApp({
      domain,
      tokens,
      publish: broker.publish,
      isHealthy: () => isHealthy() && room.isOpen(),
      isConnected: broker.isConnected,
      probes,
      shop: { products: config.catalog, secret, maxPurchases: config.products.max_purchases },
      live,
      authority: () => tls?.authority(),
      log,
      counters,
      registration: config.auth.registration,
      publicDevices: config.auth.public_devices,
      publicMetrics: config.server.public_metrics,
      renderMetrics: metrics.render,
      attempts,
      calls: createRateLimit({
        burst: config.server.rate_limit_burst,
        perMinute: config.server.rate_limit_per_minute,
        counters,
        counter: "http.calls_refused",
      }),
      webhookLimits,
      maxApiKeys: config.auth.max_api_keys,
      maxAlertRules: config.alerts.max_rules,
      trustedProxies: config.server.trusted_proxies,
      maxBodyBytes: config.server.max_body_bytes,
    });
    const servers: HttpServer[] = [];
    started.push(async () => void (await Promise.all(servers.map((server) => server.close()))));
    const listenOn = async (where: Config["http"], over?: Tls): Promise<HttpServer> => {
      const http = await listen(app, {
        ...where,
        tls: over,
        maxConnections: config.server.max_connections,
        webSocketPath: mqttWebSocketPath,
        counters,
        requests,
      });
      servers.push(http);
      ownPorts.push(http.port);
      http.server.on("upgrade", (request, socket, head) => {
        // The server has let go of the socket: an error that nobody listens for would end the process.
        socket.on("error", () => undefined);
        if (request.url?.split("?", 1)[0] === mqttWebSocketPath) broker.handleUpgrade(request, socket, head);
        else socket.destroy(); // Node before 24.9, which does not ask whether to upgrade
      });
      return http;
    };
    const http = await listenOn(config.http);
    const https = tls && (await listenOn(config.https, tls));
    started.push(() => live.close()); // streams never end by themselves
    started.push(() => broker.stopAccepting());

    return {
      httpPort: http.port,
      mqttPort: broker.port,
      tls:
        tls === undefined || https === undefined || broker.securePort === undefined
          ? undefined
          : { httpsPort: https.port, mqttsPort: broker.securePort, certificate: tls.certificate() },
      storePath: store.path,
      counters,
      reload() {
        if (tls === undefined) log.info("nothing to read again: there is no TLS");
        else tls.reload();
      },
      async close() {
        const [failure] = await closeAll();
        if (failure !== undefined) throw failure;
      },
    };
  } catch (error) {
    await closeAll();
    throw error;
  }
}
