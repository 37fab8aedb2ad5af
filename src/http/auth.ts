import type { HttpBindings } from "@hono/node-server";
import type { Context } from "hono";
import type { Actor, Domain } from "../core/ctx.ts";
import { DomainError } from "../core/errors.ts";
import { findKeyBearer, isApiKey, noteKeyUse } from "../core/keys.ts";
import { isLoopback, isPeerAllowed, type Peer, type PeerRule } from "../core/peers.ts";
import { findPurchase, isAccessKey } from "../core/products.ts";
import type { Claims, Tokens } from "../core/tokens.ts";
import type { Log } from "../log.ts";
import type { Budget, RateLimit } from "./rate-limit.ts";
import type { Dialect } from "./route.ts";

/**
 * Who may call a route: whoever has a token or an API key; only administrators; besides users whoever bought access to
 * a device's data; anybody; anybody to whom the configuration's rule lets the device list be public; besides users
 * programs on this machine, where the configuration lets them read the metrics.
 */
export type Access = "token" | "admin" | "data" | "public" | "public-devices" | "metrics";

/** Who calls, and from where. */
export interface Caller {
  actor: Actor;
  peer: Peer;
  /** The token's claims; `undefined` where there is none, or a key instead. */
  claims: Claims | undefined;
}

/** @throws {DomainError} `unauthenticated`, `forbidden`, `rate_limited` */
export type Authenticate = (c: Context, access: Access, dialect: Dialect) => Promise<Caller>;

export interface AuthOptions {
  domain: Domain;
  tokens: Tokens;
  log: Log;
  publicDevices: PeerRule;
  publicMetrics: boolean;
  peerOf: (c: Context) => Peer;
  /** Where the dialect has a limit of calls. */
  limitOf: (dialect: Dialect) => RateLimit | undefined;
}

type Bearer = Pick<Caller, "actor" | "claims"> & { /** Whose budget of calls it is. */ budget: string };

export function createAuthenticate(options: AuthOptions): Authenticate {
  const { domain, tokens, log, peerOf, limitOf } = options;
  const system: Actor = { kind: "system" };

  async function identify(credential: string): Promise<Bearer | undefined> {
    if (isApiKey(credential)) {
      const bearer = domain.read(system, (ctx) => findKeyBearer(ctx, credential));
      if (bearer === undefined) return undefined;
      if (bearer.isStale) {
        domain
          .commit(system, (ctx) => noteKeyUse(ctx, bearer.keyId))
          .catch((error: unknown) =>
            log.sampled("auth.key_use", "the use of an API key could not be noted", { error }),
          );
      }
      return { actor: bearer.actor, claims: undefined, budget: `key ${bearer.keyId}` };
    }
    if (isAccessKey(credential)) {
      const purchase = domain.read(system, (ctx) => findPurchase(ctx, credential));
      return (
        purchase && {
          actor: { kind: "access-key", purchaseId: purchase.id },
          claims: undefined,
          budget: `key ${purchase.id}`,
        }
      );
    }
    const bearer = await tokens.verify(credential);
    return bearer && { ...bearer, budget: `user ${bearer.actor.id}` };
  }

  /** Whether nobody in particular may call from there. */
  function isOpen(access: Access, peer: Peer): boolean {
    if (access === "public-devices") return isPeerAllowed(options.publicDevices, peer);
    // A proxy on this machine speaks for others; see resolvePeer.
    if (access === "metrics") return options.publicMetrics && peer.isLocal && isLoopback(peer.address);
    return access === "public";
  }

  return async function authenticate(c, access, dialect) {
    const peer = peerOf(c);
    const credential = access === "public" ? undefined : readCredential(c);
    const bearer = credential === undefined ? undefined : await identify(credential);
    const limit = limitOf(dialect);
    if (limit !== undefined) {
      const budget = bearer?.budget ?? peer.address;
      try {
        limit.spend(budget);
      } finally {
        setLimitHeaders(c, limit.budgetOf(budget)); // of a refusal too: that is when a client looks at them
      }
    }
    if (bearer !== undefined) {
      if (!isAllowed(bearer.actor, access)) throw new DomainError("forbidden", "not allowed with these credentials");
      return { actor: bearer.actor, claims: bearer.claims, peer };
    }
    if (isOpen(access, peer)) {
      return { actor: { kind: "anonymous" }, claims: undefined, peer };
    }
    if (access === "public-devices" && credential === undefined) {
      throw new DomainError("forbidden", "not public from this address: a token is needed");
    }
    throw new DomainError("unauthenticated", dialect.unauthenticated);
  };
}

function isAllowed(actor: Actor, access: Access): boolean {
  if (actor.kind === "access-key") return access === "data";
  return access !== "admin" || (actor.kind === "user" && actor.role === "admin");
}

/** From Node's own headers: Hono's would make a whole Request first. */
const readCredential = (c: Context): string | undefined => {
  const { authorization, "x-api-key": key } = (c.env as HttpBindings).incoming.headers;
  if (authorization === undefined) return typeof key === "string" ? key : undefined;
  return /^Bearer +(\S+) *$/i.exec(authorization)?.[1] ?? "";
};

/** The fields of draft-ietf-httpapi-ratelimit-headers, beside those that clients of older drafts look for. */
function setLimitHeaders(c: Context, { burst, perMinute, remaining, resetSeconds }: Budget): void {
  c.header("RateLimit-Policy", `"default";q=${perMinute};w=60;burst=${burst}`);
  c.header("RateLimit", `"default";r=${remaining};t=${resetSeconds}`);
  c.header("RateLimit-Limit", String(burst));
  c.header("RateLimit-Remaining", String(remaining));
  c.header("RateLimit-Reset", String(resetSeconds));
}
