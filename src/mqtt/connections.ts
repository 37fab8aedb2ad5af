import type { IncomingMessage } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import type { AuthenticateError, Client } from "aedes";
import type { Bus, Revoked } from "../core/events.ts";
import { anyone, isRevoked, ownerOf, type Identity } from "../core/identities.ts";
import { readForwarded, resolvePeer, type Peer } from "../core/peers.ts";
import { deviceOwner } from "../core/sessions.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import type { Acl, Speaker } from "./acl.ts";
import { addressOf, internalsOf } from "./aedes-internals.ts";
import type { LogIn, Refusal } from "./login.ts";
import type { Persistence } from "./persistence.ts";
import type { IsForged } from "./targets.ts";

// Who comes in: whose connection it is, whether its client id is free for it, what it may leave as its will.

export interface ConnectionOptions {
  bus: Bus;
  logIn: LogIn;
  acl: Acl;
  persistence: Persistence;
  isForged: IsForged;
  /** Whether the store takes writes, as far as is known. */
  isHealthy: () => boolean;
  /** Counts what a client may not say. */
  reject: (speaker: Speaker, topic: string) => void;
  log: Log;
  counters: Counters;
  topic: string;
  trustedProxies: readonly string[];
  /** A login that takes longer is refused; 10 s. */
  loginTimeoutMs?: number;
}

export interface Connections {
  /** Why a client may not begin at all. */
  objectTo(packet: { clientId: string; clean?: boolean }): AuthenticateError | undefined;
  /**
   * Finds out who a client is; never rejects, and answers in time: Aedes waits for ever.
   * @returns why it may not connect
   */
  identify(
    client: Client,
    username: string | undefined,
    password: string | undefined,
  ): Promise<AuthenticateError | undefined>;
  /** Who a client is; nobody, where that is not known. */
  speakerOf(client: Client | null): Speaker;
  /** Hears no more of what is revoked. */
  close(): void;
}

/** CONNACK return codes of MQTT 3.1.1, table 3.1. */
const returnCode = { identifierRejected: 2, unavailable: 3, badCredentials: 4, notAuthorized: 5 } as const;

const refusalCodes: Record<Refusal, number> = {
  "bad username or password": returnCode.badCredentials,
  "not authorized": returnCode.notAuthorized,
  "too many attempts": returnCode.notAuthorized,
};

const nobody: Speaker = { identity: anyone, clientId: "", username: "" };

export function createConnections(options: ConnectionOptions): Connections {
  const { acl, persistence, log, counters, topic, loginTimeoutMs = 10_000 } = options;
  const known = new WeakMap<Client, Speaker>();
  /** Connections that have been let in and are not closed, by client id: more than one while one takes it over. */
  const here = new Map<string, Set<Client>>();
  /** What has been revoked while each login was under way. */
  const logins = new Set<Revoked[]>();

  const stop = options.bus.on("credentials.revoked", (revoked) => {
    for (const during of logins) during.push(revoked);
    // First, or a client that leaves would leave its session.
    if (revoked.kind === "device" && revoked.isGone) persistence.endSessionsOf(deviceOwner(revoked.id));
    for (const client of [...here.values()].flatMap((clients) => [...clients])) {
      if (!isRevoked(speakerOf(client).identity, revoked)) continue;
      counters.increment("mqtt.connections_revoked");
      log.info("connection closed: its credentials were revoked", { client: client.id });
      client.close();
    }
  });

  function enter(client: Client, speaker: Speaker): void {
    known.set(client, speaker);
    const clients = here.get(client.id) ?? new Set();
    here.set(client.id, clients.add(client));
    client.conn.once("close", () => {
      clients.delete(client);
      if (clients.size === 0 && here.get(client.id) === clients) here.delete(client.id);
    });
  }
  const speakerOf = (client: Client | null): Speaker => (client === null ? undefined : known.get(client)) ?? nobody;

  async function identify(
    client: Client,
    username: string | undefined,
    password: string | undefined,
  ): Promise<AuthenticateError | undefined> {
    const revoked: Revoked[] = [];
    logins.add(revoked);
    const late = new AbortController();
    const timeout = sleep(loginTimeoutMs, "too late" as const, { signal: late.signal }).catch(
      () => "too late" as const,
    );
    try {
      // Nothing that it sends could be acknowledged: it would be cut off, and come back at once.
      if (!options.isHealthy() && !(await canWrite()))
        return refusal("the store does not take writes now", returnCode.unavailable);
      const identity = await Promise.race([options.logIn(peerOf(client), username, password), timeout]);
      if (identity === "too late") return refusal("the login took too long", returnCode.unavailable);
      if (typeof identity === "string") return refusal(identity, refusalCodes[identity]);
      if (revoked.some((one) => isRevoked(identity, one)))
        return refusal("bad username or password", returnCode.badCredentials);
      if (client.conn.destroyed) return refusal("the connection is gone", returnCode.unavailable);
      if (!isFree(client.id, identity))
        return refusal("the client id belongs to somebody else", returnCode.identifierRejected);
      const speaker = { identity, clientId: client.id, username: username ?? "" };
      enter(client, speaker);
      inspectWill(client, speaker);
      if (!client.clean && !(await persistence.keepSession(client.id, ownerOf(identity))))
        return refusal("no room for another session", returnCode.identifierRejected);
      internalsOf(client)._nextId = persistence.firstFreeMessageId(client.id);
      return undefined;
    } catch (error) {
      log.error("a login failed", { error });
      return refusal("the login failed", returnCode.unavailable);
    } finally {
      late.abort();
      logins.delete(revoked);
    }
  }

  const canWrite = (): Promise<boolean> =>
    persistence.probe().then(
      () => true,
      () => false,
    );

  /** What nobody in particular holds gives way to who is somebody, or anyone could keep a device out by its client id. */
  function isFree(clientId: string, identity: Identity): boolean {
    const holders = [...(here.get(clientId) ?? [])].map((client) => ownerOf(speakerOf(client).identity));
    return [...holders, persistence.ownerOf(clientId)].every(
      (owner) => owner === undefined || owner === ownerOf(identity) || owner === ownerOf(anyone),
    );
  }

  /** A will that its client might not publish is none: after a crash nobody knows any more whose it was. */
  function inspectWill(client: Client, speaker: Speaker): void {
    const internals = internalsOf(client);
    const will = internals._will;
    if (will === undefined || will === null) return;
    const isOurs = will.topic === topic || will.topic === `${topic}/discovery`;
    if (acl.canPublish(speaker, will.topic) && !(isOurs && options.isForged(speaker.identity, will))) return;
    options.reject(speaker, will.topic);
    internals._will = undefined;
  }

  function peerOf(client: Client): Peer {
    const { req } = client;
    const peer = resolvePeer(addressOf(client), req && readForwarded(req.headers), options.trustedProxies);
    // A browser on the local network speaks for whatever page it shows: one from elsewhere is not local by that.
    return req !== undefined && isForeignPage(req.headers) ? { ...peer, isLocal: false } : peer;
  }

  return {
    // [MQTT-3.1.3-8]: no identifier and a session to keep do not go together.
    objectTo({ clientId, clean }) {
      if (clientId !== "" || clean !== false) return undefined;
      counters.increment("mqtt.connections_refused.identifier_rejected");
      return refusal("identifier rejected", returnCode.identifierRejected);
    },

    async identify(client, username, password) {
      const objection = await identify(client, username, password);
      if (objection === undefined) return undefined;
      counters.increment(`mqtt.connections_refused.${reasonOf(objection)}`);
      log.sampled("mqtt.connections_refused", "connection refused", {
        reason: objection.message,
        peer: addressOf(client),
      });
      return objection;
    },

    speakerOf,
    close: stop,
  };
}

/** As what a refusal is counted. */
function reasonOf({ returnCode: code }: AuthenticateError) {
  if ((code as number) === returnCode.identifierRejected) return "identifier_rejected";
  if ((code as number) === returnCode.unavailable) return "unavailable";
  return (code as number) === returnCode.badCredentials ? "bad_credentials" : "not_authorized";
}

const refusal = (message: string, code: number): AuthenticateError =>
  Object.assign(new Error(message), { returnCode: code });

/** Whether a browser says that the page behind a request did not come from this gateway (RFC 6454). */
const isForeignPage = ({ origin, host }: IncomingMessage["headers"]): boolean =>
  origin !== undefined && URL.parse(origin)?.host !== host;
