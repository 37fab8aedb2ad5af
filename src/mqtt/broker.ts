import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { Aedes, type AedesPublishPacket, type AuthenticateError, type Client, type PublishPacket } from "aedes";
import { WebSocketServer, createWebSocketStream } from "ws";
import type { Command, PublishCommand } from "../core/commands.ts";
import { anyone, ownerOf } from "../core/identities.ts";
import { readForwarded, resolvePeer, type Peer } from "../core/peers.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import type { SecurePort } from "../tls/tls.ts";
import type { Acl, Speaker } from "./acl.ts";
import type { Gate } from "./gate.ts";
import type { Ingest } from "./ingest.ts";
import { openListeners } from "./listeners.ts";
import type { LogIn, Refusal } from "./login.ts";
import type { Persistence } from "./persistence.ts";
import type { IsForged, TargetOf } from "./targets.ts";

export interface BrokerOptions {
  ingest: Ingest;
  logIn: LogIn;
  acl: Acl;
  persistence: Persistence;
  targetOf: TargetOf;
  isForged: IsForged;
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
  /** Takes a WebSocket connection (subprotocol `mqtt`) over from the HTTP server. */
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Accepts nobody any more; those who are here stay. */
  stopAccepting(): void;
  /** Ends every connection and stops. */
  close(): Promise<void>;
}

/** A message that has not been acknowledged yet. */
interface Turn {
  packet: PublishPacket;
  done: (error?: Error | null) => void;
  /** `undefined` until it may be acknowledged, or is refused with an error. */
  outcome: Error | null | undefined;
}

const connectTimeoutMs = 10_000;
/** Sessions whose clients stay away are looked for so often. */
const expiryIntervalMs = 10 * 60 * 1_000;
/** Deliveries under way at once. */
const deliveryConcurrency = 1_000;
/** Packets that may wait behind a CONNECT that is being looked at. */
const connectQueueLimit = 1_000;

/** Nobody listens there. */
const withheldTopic = "$SYS/withheld";

/** CONNACK return codes of MQTT 3.1.1, table 3.1. */
const returnCode = { identifierRejected: 2, unavailable: 3, badCredentials: 4, notAuthorized: 5 } as const;

const refusalCodes: Record<Refusal, number> = {
  "bad username or password": returnCode.badCredentials,
  "not authorized": returnCode.notAuthorized,
  "too many attempts": returnCode.notAuthorized,
};

/** Starts the broker and its listeners. @throws {StartError} where the port is taken or not allowed. */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  const { ingest, acl, persistence, log, counters, topic } = options;
  /** Who each connected client is. */
  const known = new WeakMap<Client, Speaker>();
  const nobody: Speaker = { identity: anyone, clientId: "", username: "" };
  const speakerOf = (client: Client): Speaker => known.get(client) ?? nobody;
  /** Messages that are acknowledged and go nowhere, by their payload, which Aedes hands on as it is. */
  const withheld = new WeakSet<object>();

  const aedes = await Aedes.createBroker({
    persistence,
    concurrency: deliveryConcurrency,
    drainTimeout: 0, // the gate's business
    queueLimit: connectQueueLimit,
    preConnect: guard((client, packet, done) => {
      // [MQTT-3.1.3-8]: no identifier and a session to keep do not go together. Always an Error: `false` alone would
      // leave the socket open for ever.
      if (packet.clientId === "" && packet.clean === false)
        done(refusal("identifier rejected", returnCode.identifierRejected), false);
      else done(null, true);
    }),
    authenticate: guard((client, username, password, done) => {
      const settle = (error: AuthenticateError | undefined): void => {
        if (error === undefined) return done(null, true);
        counters.increment("mqtt.connections_refused");
        log.sampled("mqtt.connections_refused", "connection refused", {
          reason: error.message,
          peer: addressOf(client),
        });
        done(error, null);
      };
      void identify(client, username, password?.toString()).then(settle);
    }),
    authorizePublish: guard((client, packet, done) => authorizePublish(client, packet, done)),
    authorizeSubscribe: guard((client, subscription, done) => {
      const isAllowed = grant(client, subscription.topic);
      if (!isAllowed) counters.increment("mqtt.subscriptions_refused");
      done(null, isAllowed ? subscription : null);
    }),
    // The second line: what is not for this client does not reach it, whatever it has subscribed to.
    authorizeForward: (client, packet) => {
      try {
        if (!mayReceive(client, packet)) {
          persistence.drop(client, packet);
          return null;
        }
        // A retained message has no number here, and one of the queue has its identifier already.
        if (packet.brokerId === null || packet.messageId !== undefined) options.gate.pace(client.conn, packet.payload);
        else options.gate.gather(client.conn);
        // Nothing goes out before CONNACK; what waits in the queue follows it.
        return internalsOf(client).connackSent ? packet : null;
      } catch (error) {
        counters.increment("mqtt.hook_errors");
        log.error("a broker hook failed", { error });
        return null;
      }
    },
  });

  /** Finds out who a client is; never rejects, and answers in time: Aedes waits for ever. @returns why it may not connect */
  async function identify(
    client: Client,
    username: string | undefined,
    password: string | undefined,
  ): Promise<AuthenticateError | undefined> {
    const late = new AbortController();
    const timeout = sleep(connectTimeoutMs, "too late" as const, { signal: late.signal }).catch(
      () => "too late" as const,
    );
    try {
      const identity = await Promise.race([options.logIn(peerOf(client), username, password), timeout]);
      if (identity === "too late") return refusal("the login took too long", returnCode.unavailable);
      if (typeof identity === "string") return refusal(identity, refusalCodes[identity]);
      const speaker = { identity, clientId: client.id, username: username ?? "" };
      const objection = admit(client, speaker);
      if (objection !== undefined) return refusal(objection, returnCode.identifierRejected);
      known.set(client, speaker);
      inspectWill(client, speaker);
      return undefined;
    } catch (error) {
      log.error("a login failed", { error });
      return refusal("the login failed", returnCode.unavailable);
    } finally {
      late.abort();
    }
  }

  /** Whether a client id is free for this identity, and a session to be had. @returns what speaks against it */
  function admit(client: Client, { identity }: Speaker): string | undefined {
    const owner = ownerOf(identity);
    const holder = findClient(aedes, client.id);
    const holderOwner = holder === undefined ? undefined : ownerOf(speakerOf(holder).identity);
    const sessionOwner = persistence.ownerOf(client.id);
    // What nobody in particular holds gives way to who is somebody, or anyone could keep a device out by its client id.
    const isFree = (held: string | undefined): boolean =>
      held === undefined || held === owner || held === ownerOf(anyone);
    if (!isFree(holderOwner) || !isFree(sessionOwner)) return "the client id belongs to somebody else";
    if (sessionOwner !== undefined && sessionOwner !== owner) persistence.endSession(client.id);
    if (!client.clean && !persistence.keepSession(client.id, owner)) return "no room for another session";
    internalsOf(client)._nextId = persistence.firstFreeMessageId(client.id);
    return undefined;
  }

  /** A will that its client might not publish is none: after a crash nobody knows any more whose it was. */
  function inspectWill(client: Client, speaker: Speaker): void {
    const internals = internalsOf(client);
    const will = internals._will;
    if (will === undefined || will === null) return;
    const isOurs = will.topic === topic || will.topic === `${topic}/discovery`;
    if (acl.canPublish(speaker, will.topic) && !(isOurs && options.isForged(speaker.identity, will))) return;
    reject(speaker, will.topic);
    internals._will = undefined;
  }

  /** The filters that each client was granted. */
  const granted = new WeakMap<object, Set<string>>();

  function grant(client: Client, filter: string): boolean {
    let filters = granted.get(client);
    if (filters === undefined) granted.set(client, (filters = new Set()));
    if (!acl.canSubscribe(speakerOf(client), filter)) return false;
    // One that it has may be subscribed to again.
    if (filters.size >= options.maxSubscriptions && !filters.has(filter)) return false;
    filters.add(filter);
    return true;
  }

  function mayReceive(client: Client, packet: AedesPublishPacket): boolean {
    const payload = packet.payload as Buffer;
    if (withheld.has(payload)) return false;
    const { identity } = speakerOf(client);
    if (identity.kind !== "device" || packet.topic !== topic) return true;
    // On the topic that everybody shares, a device hears what is meant for it.
    return options.targetOf(payload) === identity.id;
  }

  persistence.filterSubscriptions((client, filter) => granted.get(client)?.has(filter) === true);

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
    // A will, sent for a client that is gone. It says that the device left; what else it says is not stored. It was
    // looked at when the client came (see inspectWill).
    const isWill = client === null || client.closed;
    const speaker = client === null ? nobody : speakerOf(client);
    const isAllowed = client === null || acl.canPublish(speaker, packet.topic);
    if (!isAllowed) {
      reject(speaker, packet.topic);
      withhold(packet);
    }
    if (isWill) return done(null);
    const ingested = isAllowed
      ? ingest(speaker, {
          topic: packet.topic,
          payload: packet.payload as Buffer,
          qos: packet.qos,
          dup: packet.dup,
          messageId: packet.qos > 0 ? packet.messageId : undefined,
        })
      : undefined;
    const owed = isAllowed && ingested === undefined ? persistence.accept(packet) : undefined;
    let turns = held.get(client);
    if (ingested === undefined && owed === undefined && (turns === undefined || turns.length === 0)) return done(null);
    if (turns === undefined) held.set(client, (turns = []));
    const turn: Turn = { packet, done, outcome: ingested === undefined && owed === undefined ? null : undefined };
    turns.push(turn);
    // Acknowledgements go out in the order of arrival, also within one commit and of what need not wait [MQTT-4.6.0-2].
    const settle = (outcome: Error | null): void => {
      turn.outcome = outcome;
      for (let first = turns[0]; first?.outcome !== undefined; first = turns[0]) {
        turns.shift();
        // Aedes drops what it cannot acknowledge any more.
        if (first.outcome !== null || (!client.connected && !client.connecting)) persistence.takeBack(first.packet);
        first.done(first.outcome);
      }
    };
    // Where it was not stored there is no PUBACK, and the connection closes: the device keeps the message and sends it again.
    owed?.then(() => settle(null), settle);
    ingested?.then((deviceId) => {
      if (deviceId === false) withhold(packet);
      else if (deviceId !== undefined) speakers.set(deviceId, client.id);
      // Only now is it known whether it is to go any further.
      const due = persistence.accept(packet);
      return due === undefined ? settle(null) : due.then(() => settle(null), settle);
    }, settle);
  }

  function reject({ clientId }: Speaker, forbiddenTopic: string): void {
    // Acknowledged and counted: to close the connection would make the device send it for ever.
    counters.increment("mqtt.rejected.forbidden");
    log.sampled("mqtt.rejected.forbidden", "message rejected", {
      reason: "forbidden",
      topic: forbiddenTopic,
      client: clientId,
    });
  }

  /** Lets a message be acknowledged and go nowhere. */
  function withhold(packet: PublishPacket): void {
    const payload = Buffer.alloc(0);
    packet.payload = payload;
    packet.retain = false;
    packet.topic = withheldTopic; // Aedes itself listens on some that begin with $SYS
    withheld.add(payload);
    persistence.refuse(payload);
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

  function peerOf(client: Client): Peer {
    const { req } = client;
    const peer = resolvePeer(addressOf(client), req && readForwarded(req.headers), options.trustedProxies);
    // A browser on the local network speaks for whatever page it shows: one from elsewhere is not local by that.
    return req !== undefined && isForeignPage(req.headers) ? { ...peer, isLocal: false } : peer;
  }

  aedes.on("clientDisconnect", (client) => {
    if (!client.clean) persistence.leaveSession(client.id, ownerOf(speakerOf(client).identity));
  });
  aedes.on("unsubscribe", (filters, client) => {
    if (client !== null) for (const filter of filters) granted.get(client)?.delete(filter);
  });

  const listeners = await openListeners({ ...options, handle: (connection) => void aedes.handle(connection) }).catch(
    (error: unknown) => {
      aedes.close();
      throw error;
    },
  );
  const expiry = setInterval(
    () => persistence.expire((clientId) => findClient(aedes, clientId) !== undefined),
    expiryIntervalMs,
  );

  const webSockets = new WebSocketServer({
    noServer: true,
    maxPayload: options.maxPacketBytes,
    perMessageDeflate: false,
    handleProtocols: (protocols) => ["mqtt", "mqttv3.1"].find((protocol) => protocols.has(protocol)) ?? false,
  });

  return {
    port: listeners.port,
    securePort: listeners.securePort,
    async publish(command) {
      await publish(aedes, topic, command);
      // What sleeping devices will find in their queues is durable when the caller hears of it.
      if (qosOf(command) > 0) await persistence.settled();
      return topic;
    },
    isConnected(deviceId) {
      const clientId = speakers.get(deviceId);
      return clientId !== undefined && findClient(aedes, clientId)?.connected === true;
    },
    isListening: listeners.isListening,
    handleUpgrade(request, socket, head) {
      if (webSockets.clients.size >= options.maxConnections) {
        counters.increment("mqtt.connections_dropped");
        socket.destroy();
        return;
      }
      webSockets.handleUpgrade(request, socket, head, (webSocket) => {
        const { address } = resolvePeer(
          request.socket.remoteAddress ?? "",
          readForwarded(request.headers),
          options.trustedProxies,
        );
        const connection = options.gate.admitStream(createWebSocketStream(webSocket), address);
        if (connection !== undefined) aedes.handle(connection, request);
      });
    },
    stopAccepting: listeners.close,
    close: async () => {
      clearInterval(expiry);
      listeners.close();
      await new Promise<void>((resolve) => aedes.close(resolve));
      listeners.cutOff();
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

/** Not in its types either. */
const internalsOf = (client: Client) =>
  client as unknown as { connackSent: boolean; _nextId: number; _will: PublishPacket | null | undefined };

const publish = (aedes: Aedes, topic: string, command: Command): Promise<void> =>
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
      (error) => (error ? reject(error) : resolve()),
    );
  });

const refusal = (message: string, code: number): AuthenticateError =>
  Object.assign(new Error(message), { returnCode: code });

/** Whether a browser says that the page behind a request did not come from this gateway (RFC 6454). */
const isForeignPage = ({ origin, host }: IncomingMessage["headers"]): boolean =>
  origin !== undefined && URL.parse(origin)?.host !== host;

const addressOf = (client: Client): string =>
  client.req?.socket.remoteAddress ?? (client.conn as Socket).remoteAddress ?? "";
