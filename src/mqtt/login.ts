import { createHash, timingSafeEqual } from "node:crypto";
import type { Domain } from "../core/ctx.ts";
import { findTokenBearer, type Identity } from "../core/identities.ts";
import { findKeyBearer, isApiKey } from "../core/keys.ts";
import { verifyPassword } from "../core/passwords.ts";
import { isPeerAllowed, type Peer, type PeerRule } from "../core/peers.ts";
import type { Tokens } from "../core/tokens.ts";
import { findUserByLogin } from "../core/users.ts";

export interface LoginOptions {
  domain: Domain;
  tokens: Tokens;
  /** The site's common name and password; where they are set, whoever is nobody else must bring them. */
  credentials: { username: string; password: string } | undefined;
  anonymous: PeerRule;
  /** Failed attempts, by address: shared with those over HTTP. */
  attempts: { spend(key: string): unknown; refund(key: string): void };
}

export type Refusal = "bad username or password" | "not authorized" | "too many attempts";

/** Who a client is, or why it may not connect. */
export type LogIn = (
  peer: Peer,
  username: string | undefined,
  password: string | undefined,
) => Promise<Identity | Refusal>;

const system = { kind: "system" } as const;

const jwt = /^[\w-]+\.[\w-]+\.[\w-]+$/;

/**
 * Tries what a name and a password can be: a device's id and its token, any name with an API key, a user with a JWT or
 * the password, the site's own. What names nobody counts as no credentials at all; a name that is known, with the wrong
 * proof, is refused.
 */
export function createLogin({ domain, tokens, credentials, anonymous, attempts }: LoginOptions): LogIn {
  async function logInUser(peer: Peer, username: string, password: string): Promise<Identity | Refusal | undefined> {
    const user = domain.read(system, (ctx) => findUserByLogin(ctx, username));
    if (user === undefined) return undefined;
    if (jwt.test(password)) {
      const bearer = await tokens.verify(password);
      if (bearer !== undefined)
        return bearer.actor.id === user.id ? toIdentity(bearer.actor) : "bad username or password";
    }
    try {
      attempts.spend(peer.address);
    } catch {
      return "too many attempts"; // the limit's own error says when to try again; CONNACK has no place for it
    }
    if (!(await verifyPassword(password, user.passwordHash))) return "bad username or password";
    attempts.refund(peer.address);
    return toIdentity(user);
  }

  return async function logIn(peer, username = "", password = "") {
    if (credentials !== undefined && isSame(username, credentials.username) && isSame(password, credentials.password)) {
      return { kind: "anyone" };
    }
    if (isApiKey(password)) {
      const bearer = domain.read(system, (ctx) => findKeyBearer(ctx, password));
      return bearer === undefined ? "bad username or password" : { ...toIdentity(bearer.actor), keyId: bearer.keyId };
    }
    if (username !== "") {
      const device = domain.read(system, (ctx) => findTokenBearer(ctx, username, password));
      if (device !== undefined) return device || "bad username or password";
      const user = await logInUser(peer, username, password);
      if (user !== undefined) return user;
    }
    if (credentials !== undefined) return "bad username or password";
    return isPeerAllowed(anonymous, peer) ? { kind: "anyone" } : "not authorized";
  };
}

const toIdentity = ({ id, role }: { id: string; role: "admin" | "member" }): Extract<Identity, { kind: "user" }> => ({
  kind: "user",
  id,
  role,
});

const digest = (value: string): Buffer => createHash("sha256").update(value).digest();

const isSame = (given: string, expected: string): boolean => timingSafeEqual(digest(given), digest(expected));
