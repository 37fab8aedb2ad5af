import type { IncomingMessage } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import type { AuthenticateError, Client } from "aedes";
import { anyone, ownerOf } from "../core/identities.ts";
import { readForwarded, resolvePeer, type Peer } from "../core/peers.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import type { Acl, Speaker } from "./acl.ts";
import { addressOf, internalsOf } from "./aedes-internals.ts";
import type { LogIn, Refusal } from "./login.ts";
import type { Persistence } from "./persistence.ts";
import type { IsForged } from "./targets.ts";

// Who comes in: whose connection it is, whether its client id is free for it, what it may leave as its will.

export interface ConnectionOptions {
  logIn: LogIn;
  acl: Acl;
  persistence: Persistence;
  isForged: IsForged;
  /** Counts what a client may not say. */
  reject: (speaker: Speaker, topic: string) => void;
  /** The connection that holds a client id. */
  holderOf: (clientId: string) => Client | undefined;
  log: Log;
  counters: Counters;
  topic: string;
  trustedProxies: readonly string[];
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
}

/** A login that takes longer is refused. */
const loginTimeoutMs = 10_000;

/** CONNACK return codes of MQTT 3.1.1, table 3.1. */
const returnCode = { identifierRejected: 2, unavailable: 3, badCredentials: 4, notAuthorized: 5 } as const;

const refusalCodes: Record<Refusal, number> = {
  "bad username or password": returnCode.badCredentials,
  "not authorized": returnCode.notAuthorized,
  "too many attempts": returnCode.notAuthorized,
};

const nobody: Speaker = { identity: anyone, clientId: "", username: "" };

export function createConnections(options: ConnectionOptions): Connections {
  const { acl, persistence, log, counters, topic } = options;
  const known = new WeakMap<Client, Speaker>();
  const speakerOf = (client: Client | null): Speaker => (client === null ? undefined : known.get(client)) ?? nobody;

  async function identify(
    client: Client,
    username: string | undefined,
    password: string | undefined,
  ): Promise<AuthenticateError | undefined> {
    const late = new AbortController();
    const timeout = sleep(loginTimeoutMs, "too late" as const, { signal: late.signal }).catch(
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
    const holder = options.holderOf(client.id);
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
    objectTo: ({ clientId, clean }) =>
      clientId === "" && clean === false ? refusal("identifier rejected", returnCode.identifierRejected) : undefined,

    async identify(client, username, password) {
      const objection = await identify(client, username, password);
      if (objection === undefined) return undefined;
      counters.increment("mqtt.connections_refused");
      log.sampled("mqtt.connections_refused", "connection refused", {
        reason: objection.message,
        peer: addressOf(client),
      });
      return objection;
    },

    speakerOf,
  };
}

const refusal = (message: string, code: number): AuthenticateError =>
  Object.assign(new Error(message), { returnCode: code });

/** Whether a browser says that the page behind a request did not come from this gateway (RFC 6454). */
const isForeignPage = ({ origin, host }: IncomingMessage["headers"]): boolean =>
  origin !== undefined && URL.parse(origin)?.host !== host;
