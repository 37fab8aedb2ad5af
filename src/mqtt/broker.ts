import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { createServer, type AddressInfo, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { Aedes, type AuthenticateError, type Client, type PublishPacket } from "aedes";
import { WebSocketServer, createWebSocketStream } from "ws";
import type { Command, PublishCommand } from "../core/commands.ts";
import { StartError } from "../core/errors.ts";
import { isPeerAllowed, resolvePeer, type PeerRule } from "../core/peers.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import { admitSocket, admitStream } from "./gate.ts";
import type { Ingest } from "./ingest.ts";
import { createPersistence } from "./persistence.ts";

export interface BrokerOptions {
  ingest: Ingest;
  log: Log;
  counters: Counters;
  host: string | undefined;
  port: number;
  topic: string;
  /** Required of every client where they are set. */
  credentials: { username: string; password: string } | undefined;
  anonymous: PeerRule;
  trustedProxies: readonly string[];
  maxConnections: number;
  maxPacketBytes: number;
}

export interface Broker {
  /** The port listened on, the real one where 0 was asked for. */
  port: number;
  publish: PublishCommand;
  /** Whether the connection over which a device spoke last is still open. */
  isConnected(deviceId: string): boolean;
  isListening(): boolean;
  /** Takes a WebSocket connection (subprotocol `mqtt`) over from the HTTP server. */
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Accepts nobody any more; those who are here stay. */
  stopAccepting(): void;
  /** Ends every connection and stops. */
  close(): Promise<void>;
}

/** A message that has not been acknowledged yet. */
interface Turn {
  done: (error?: Error | null) => void;
  /** `undefined` until it may be acknowledged, or is refused with an error. */
  outcome: Error | null | undefined;
}

const connectTimeoutMs = 10_000;
/** A subscriber that does not read is cut off after this; until then it holds up those who publish to it. */
const drainTimeoutMs = 5_000;
/** Deliveries under way at once. */
const deliveryConcurrency = 1_000;
/** Packets that may wait behind a CONNECT that is being looked at. */
const connectQueueLimit = 1_000;

/** CONNACK return codes of MQTT 3.1.1, table 3.1. */
const returnCode = { identifierRejected: 2, badCredentials: 4, notAuthorized: 5 } as const;

/** Starts the broker and its TCP listener. @throws {StartError} where the port is taken or not allowed. */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  const { ingest, log, counters, host, port, topic } = options;
  const aedes = await Aedes.createBroker({
    persistence: createPersistence(),
    concurrency: deliveryConcurrency,
    connectTimeout: connectTimeoutMs,
    drainTimeout: drainTimeoutMs,
    queueLimit: connectQueueLimit,
    preConnect: guard((client, packet, done) => {
      // [MQTT-3.1.3-8]: no identifier and a session to keep do not go together. Always an Error: `false` alone would
      // leave the socket open for ever.
      if (packet.clientId === "" && packet.clean === false)
        done(refusal("identifier rejected", returnCode.identifierRejected), false);
      else done(null, true);
    }),
    authenticate: guard((client, username, password, done) => {
      const error = authenticate(client, username, password, options);
      if (error === undefined) return done(null, true);
      counters.increment("mqtt.connections_refused");
      log.sampled("mqtt.connections_refused", "connection refused", { reason: error.message, peer: addressOf(client) });
      done(error, null);
    }),
    authorizePublish: guard((client, packet, done) => authorizePublish(client, packet, done)),
    authorizeSubscribe: guard((_client, subscription, done) => {
      // Client ids and everybody's subscriptions are told there.
      done(null, subscription.topic.startsWith("$") ? null : subscription);
    }),
  });

  /** A hook that throws would end the process: what it throws becomes the answer. */
  function guard<A extends unknown[], D extends (error: never, ...rest: never[]) => void>(
    hook: (...args: [...A, D]) => void,
  ) {
    return (...args: [...A, D]): void => {
      try {
        hook(...args);
      } catch (error) {
        counters.increment("mqtt.hook_errors");
        log.error("a broker hook failed", { error });
        (args.at(-1) as (error: Error) => void)(error as Error);
      }
    };
  }

  /** Messages that wait for their commit, or for one before them, in order of arrival, by connection. */
  const held = new WeakMap<Client, Turn[]>();
  /** The connection over which each device spoke last, by client id. As many as there are devices. */
  const speakers = new Map<string, string>();

  function authorizePublish(client: Client | null, packet: PublishPacket, done: (error?: Error | null) => void): void {
    if (packet.topic.startsWith("$")) return done(new Error("topics that begin with $ are the broker's own"));
    // A will, sent for a client that is gone. It says that the device left; what else it says is not stored.
    if (client === null || client.closed) return done(null);
    const taken = ingest(client.id, {
      topic: packet.topic,
      payload: packet.payload as Buffer,
      qos: packet.qos,
      dup: packet.dup,
      messageId: packet.qos > 0 ? packet.messageId : undefined,
    });
    let turns = held.get(client);
    if (taken === undefined && (turns === undefined || turns.length === 0)) return done(null);
    if (turns === undefined) held.set(client, (turns = []));
    const turn: Turn = { done, outcome: taken === undefined ? null : undefined };
    turns.push(turn);
    // Acknowledgements go out in the order of arrival, also within one commit and of what need not wait [MQTT-4.6.0-2].
    const settle = (outcome: Error | null, deviceId?: string): void => {
      if (deviceId !== undefined) speakers.set(deviceId, client.id);
      turn.outcome = outcome;
      for (let first = turns[0]; first?.outcome !== undefined; first = turns[0]) {
        turns.shift();
        first.done(first.outcome);
      }
    };
    // Where it was not stored there is no PUBACK, and the connection closes: the device keeps the message and sends it again.
    taken?.then((deviceId) => settle(null, deviceId), settle);
  }

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

  const server = createServer((socket) => void aedes.handle(admitSocket(socket)));
  server.maxConnections = options.maxConnections;
  server.on("drop", () => counters.increment("mqtt.connections_dropped"));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ port, ...(host !== undefined && { host }) }, resolve);
  }).catch((error: NodeJS.ErrnoException) => {
    aedes.close();
    throw new StartError(`the MQTT broker cannot listen on port ${port}: ${error.code ?? error.message}`);
  });
  server.on("error", (error) => log.error("MQTT listener error", { error }));

  const webSockets = new WebSocketServer({
    noServer: true,
    maxPayload: options.maxPacketBytes,
    perMessageDeflate: false,
    handleProtocols: (protocols) => ["mqtt", "mqttv3.1"].find((protocol) => protocols.has(protocol)) ?? false,
  });

  return {
    port: (server.address() as AddressInfo).port,
    publish: (command) => publish(aedes, topic, command),
    isConnected(deviceId) {
      const clientId = speakers.get(deviceId);
      return clientId !== undefined && findClient(aedes, clientId)?.connected === true;
    },
    isListening: () => server.listening,
    handleUpgrade(request, socket, head) {
      if (webSockets.clients.size >= options.maxConnections) {
        counters.increment("mqtt.connections_dropped");
        socket.destroy();
        return;
      }
      webSockets.handleUpgrade(request, socket, head, (webSocket) => {
        aedes.handle(admitStream(createWebSocketStream(webSocket)), request);
      });
    },
    stopAccepting: () => void server.close(),
    close: async () => {
      server.close();
      await new Promise<void>((resolve) => aedes.close(resolve));
      for (const webSocket of webSockets.clients) webSocket.terminate();
    },
  };
}

/** Not in its types: the connections by client id. */
const findClient = (aedes: Aedes, clientId: string): Client | undefined =>
  (aedes as unknown as { clients: Record<string, Client> }).clients[clientId];

/** Commands are kept for a device that sleeps; a question whether it is there makes sense only now. */
const qosOf = (command: Command): 0 | 1 =>
  command.type === "sensor_trigger" || command.type === "actor_command" ? 1 : 0;

const publish = (aedes: Aedes, topic: string, command: Command): Promise<string> =>
  new Promise((resolve, reject) => {
    aedes.publish(
      {
        cmd: "publish",
        topic,
        payload: Buffer.from(JSON.stringify(command)),
        qos: qosOf(command),
        retain: false,
        dup: false,
      },
      (error) => (error ? reject(error) : resolve(topic)),
    );
  });

function authenticate(
  client: Client,
  username: string | undefined,
  password: Buffer | undefined,
  { credentials, anonymous, trustedProxies }: BrokerOptions,
): AuthenticateError | undefined {
  if (credentials !== undefined) {
    const isRight = isSame(username ?? "", credentials.username) && isSame(password ?? "", credentials.password);
    return isRight ? undefined : refusal("bad username or password", returnCode.badCredentials);
  }
  const forwarded = client.req?.headers["x-forwarded-for"] ?? client.req?.headers.forwarded;
  const peer = resolvePeer(addressOf(client), forwarded, trustedProxies);
  return isPeerAllowed(anonymous, peer) ? undefined : refusal("not authorized", returnCode.notAuthorized);
}

const digest = (value: string | Buffer): Buffer => createHash("sha256").update(value).digest();

const isSame = (given: string | Buffer, expected: string): boolean => timingSafeEqual(digest(given), digest(expected));

const refusal = (message: string, code: number): AuthenticateError =>
  Object.assign(new Error(message), { returnCode: code });

const addressOf = (client: Client): string =>
  client.req?.socket.remoteAddress ?? (client.conn as Socket).remoteAddress ?? "";
