import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { Aedes, type AuthenticateError, type PublishPacket } from "aedes";
import type { Command, PublishCommand } from "../core/commands.ts";
import type { Bus } from "../core/events.ts";
import { ownerOf } from "../core/identities.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import type { SecurePort } from "../tls/tls.ts";
import type { Acl, Speaker } from "./acl.ts";
import { addressOf, findClient, internalsOf } from "./aedes-internals.ts";
import { createConnections } from "./connections.ts";
import { createForwarding } from "./forwarding.ts";
import type { Gate } from "./gate.ts";
import { createGrants } from "./grants.ts";
import type { Ingest } from "./ingest.ts";
import { openListeners } from "./listeners.ts";
import type { LogIn } from "./login.ts";
import type { Persistence } from "./persistence.ts";
import { startSys, type BrokerFigures } from "./sys.ts";
import type { IsForged, TargetOf } from "./targets.ts";
import { createWebSockets } from "./web-sockets.ts";

// The broker: Aedes, with what it asks for (who comes in, what goes on to whom) from the rooms beside this one.

export interface BrokerOptions {
  bus: Bus;
  ingest: Ingest;
  logIn: LogIn;
  acl: Acl;
  persistence: Persistence;
  targetOf: TargetOf;
  isForged: IsForged;
  /** Whether the store takes writes, as far as is known. */
  isHealthy: () => boolean;
  gate: Gate;
  log: Log;
  counters: Counters;
  host: string | undefined;
  port: number;
  /** Where there is a certificate: TLS on a port of its own. */
  secure: SecurePort | undefined;
  topic: string;
  trustedProxies: readonly string[];
  maxConnections: number;
  maxPacketBytes: number;
  /** Subscriptions of one client. */
  maxSubscriptions: number;
  /** Between two updates of the `$SYS` tree; 0: there is none. */
  sysIntervalMs: number;
  /** A login that takes longer is refused; 10 s. */
  loginTimeoutMs?: number;
}

export interface Broker {
  /** The port listened on, the real one where 0 was asked for. */
  port: number;
  /** The same for TLS, where there is a certificate. */
  securePort: number | undefined;
  publish: PublishCommand;
  /** Whether the connection over which a device spoke last is still open. */
  isConnected(deviceId: string): boolean;
  isListening(): boolean;
  figures(): BrokerFigures;
  /** Takes a WebSocket connection (subprotocol `mqtt`) over from the HTTP server. */
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Accepts nobody any more; those who are here stay. */
  stopAccepting(): void;
  /** Ends every connection and stops. */
  close(): Promise<void>;
}

/** Sessions whose clients stay away are looked for so often. */
const expiryIntervalMs = 10 * 60 * 1_000;
/** Deliveries under way at once. */
const deliveryConcurrency = 1_000;
/** Packets that may wait behind a CONNECT that is being looked at. */
const connectQueueLimit = 1_000;

/** Starts the broker and its listeners. @throws {StartError} where the port is taken or not allowed. */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  const { persistence, log, counters, topic } = options;
  const grants = createGrants(options);
  const connections = createConnections({ ...options, reject });
  const { speakerOf } = connections;
  const forwarding = createForwarding({ ...options, speakerOf, reject });
  persistence.filterSubscriptions(grants.has);

  function reject({ clientId }: Speaker, forbiddenTopic: string): void {
    // Acknowledged and counted: to close the connection would make the device send it for ever.
    counters.increment("mqtt.rejected.forbidden");
    log.sampled("mqtt.rejected.forbidden", "message rejected", {
      reason: "forbidden",
      topic: forbiddenTopic,
      client: clientId,
    });
  }

  /** A hook that throws would end the process: what it throws becomes the answer. */
  function guard<A extends unknown[], D extends (error: never, ...rest: never[]) => void>(
    hook: (...args: [...A, D]) => void,
  ) {
    return (...args: [...A, D]): void => {
      try {
        hook(...args);
      } catch (error) {
        failHook(error);
        (args.at(-1) as (error: Error) => void)(error as Error);
      }
    };
  }

  function failHook(error: unknown): void {
    counters.increment("mqtt.hook_errors");
    log.error("a broker hook failed", { error });
  }

  /** What a crash has left to be said. The will of a client that is back by now is void: it has something newer to say. */
  async function publishOrphans(): Promise<void> {
    for (let will = persistence.orphanWill(); will !== undefined; will = persistence.orphanWill()) {
      try {
        // Not with the number that it was stored under: by that, queued messages of the same start are known.
        const { topic: on, payload, qos, retain } = will;
        await publish(aedes, { cmd: "publish", topic: on, payload, qos, retain, dup: false });
      } catch (error) {
        failHook(error);
      }
      await persistence.delWill({ id: will.clientId, will });
    }
  }

  const aedes = await Aedes.createBroker({
    persistence,
    concurrency: deliveryConcurrency,
    drainTimeout: 0, // the gate's business
    queueLimit: connectQueueLimit,
    maxInflightInbound: 0, // the persistence has a limit that outlives the connection
    preConnect: guard((client, packet, done) => {
      const objection = connections.objectTo(packet);
      // Always an Error: `false` alone would leave the socket open for ever.
      if (objection === undefined) done(null, true);
      else done(objection, false);
    }),
    authenticate: guard((client, username, password, done) => {
      const settle = (objection: AuthenticateError | undefined): void =>
        objection === undefined ? done(null, true) : done(objection, null);
      void connections.identify(client, username, password?.toString()).then(settle);
    }),
    authorizePublish: guard((client, packet, done) => forwarding.authorizePublish(client, packet, done)),
    authorizeSubscribe: guard((client, subscription, done) => {
      const isAllowed = grants.grant(client, speakerOf(client), subscription);
      // Aedes answers with what was asked for, and delivers by what it gets here: message by message, below, it is told
      // the QoS. By itself it takes that of whichever subscription comes first, and heeds none with a wildcard.
      done(null, isAllowed ? { ...subscription, qos: 2 } : null);
    }),
    // Done with before its PUBREC.
    published: (packet, client, done) => {
      if (client !== null && packet.qos === 2) persistence.handOn(client, packet);
      done(null);
    },
    // The second line: what is not for this client does not reach it, whatever it has subscribed to.
    authorizeForward: (client, packet) => {
      try {
        if (!forwarding.mayReceive(client, packet)) {
          persistence.drop(client, packet);
          return null;
        }
        // A retained message has no number here, and one of the queue has its identifier already.
        if (packet.brokerId === null || packet.messageId !== undefined) options.gate.pace(client.conn, packet.payload);
        else options.gate.gather(client.conn);
        // Nothing goes out before CONNACK; what waits in the queue follows it.
        if (!internalsOf(client).connackSent) return null;
        // What comes out of the queue has its identifier, and the QoS of the subscription that it was queued for.
        if (packet.qos > 0 && (packet as { messageId?: number }).messageId === undefined)
          packet.qos = grants.capQos(client, packet.topic, packet.qos);
        else if (packet.qos > 0) packet.dup = persistence.isRepetition(client, packet);
        return packet;
      } catch (error) {
        failHook(error);
        return null;
      }
    },
  });

  aedes.on("clientError", (client, error) => {
    counters.increment("mqtt.client_errors");
    log.debug("client error", { client: client.id, error });
  });
  aedes.on("connectionError", (client, error) => {
    counters.increment("mqtt.connection_errors");
    log.debug("connection error", { peer: addressOf(client), error });
  });
  // Not in its types: what goes wrong in the library itself. Unheard, it would end the process.
  (aedes as unknown as NodeJS.EventEmitter).on("error", (error: Error) => {
    counters.increment("mqtt.broker_errors");
    log.error("broker error", { error });
  });

  aedes.on("clientDisconnect", (client) => {
    if (!client.clean) persistence.leaveSession(client.id, ownerOf(speakerOf(client).identity));
  });
  aedes.on("unsubscribe", (filters, client) => {
    if (client !== null) grants.revoke(client, filters);
  });

  const listeners = await openListeners({ ...options, handle: (connection) => void aedes.handle(connection) }).catch(
    (error: unknown) => {
      connections.close();
      aedes.close();
      throw error;
    },
  );
  await publishOrphans();

  const sys = startSys({
    aedes,
    persistence,
    traffic: options.gate.traffic,
    counters,
    log,
    intervalMs: options.sysIntervalMs,
  });
  const expiry = setInterval(
    () => persistence.expire((clientId) => findClient(aedes, clientId) !== undefined),
    expiryIntervalMs,
  );

  const webSockets = createWebSockets({
    ...options,
    handle: (connection, request) => aedes.handle(connection, request),
  });

  return {
    port: listeners.port,
    securePort: listeners.securePort,
    async publish(command) {
      const packet = toPacket(topic, command);
      // What sleeping devices will find in their queues is durable when the caller hears of it.
      await persistence.accept(packet);
      await publish(aedes, packet);
      return topic;
    },
    isConnected(deviceId) {
      const clientId = forwarding.clientIdOf(deviceId);
      return clientId !== undefined && findClient(aedes, clientId)?.connected === true;
    },
    isListening: listeners.isListening,
    figures: sys.figures,
    handleUpgrade: webSockets.handleUpgrade,
    stopAccepting: listeners.close,
    close: async () => {
      clearInterval(expiry);
      sys.stop();
      connections.close();
      listeners.close();
      await new Promise<void>((resolve) => aedes.close(resolve));
      listeners.cutOff();
      webSockets.terminate();
    },
  };
}

/** Commands are kept for a device that sleeps; a question whether it is there makes sense only now. */
const qosOf = (command: Command): 0 | 1 =>
  command.type === "sensor_trigger" || command.type === "actor_command" ? 1 : 0;

const toPacket = (topic: string, command: Command): PublishPacket => ({
  cmd: "publish",
  topic,
  payload: Buffer.from(JSON.stringify(command)),
  qos: qosOf(command),
  retain: false,
  dup: false,
});

const publish = (aedes: Aedes, packet: PublishPacket): Promise<void> =>
  new Promise((resolve, reject) => {
    aedes.publish(packet, (error) => (error ? reject(error) : resolve()));
  });
