import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { SignJWT, errors, jwtVerify, type JWTPayload } from "jose";
import type { Actor, Domain } from "./ctx.ts";
import { StartError } from "./errors.ts";
import { findBearer, type User } from "./users.ts";

export const tokenLifetimeSeconds = 86_400;
const clockToleranceSeconds = 60;
/** Verified tokens are remembered: an HMAC for each request would cost more than the request. */
const maxRemembered = 1_000;

/** What a token says of its bearer. */
export interface Claims extends JWTPayload {
  /** The username. */
  sub: string;
  user_id: string;
  role: "admin" | "member";
  /** The user's token version at issue. */
  ver: number;
  iat: number;
  exp: number;
}

export interface Bearer {
  actor: Extract<Actor, { kind: "user" }>;
  claims: Claims;
}

export interface Tokens {
  /** A JWT (HS256) that is good for 24 hours. */
  issue(user: User): Promise<string>;
  /** Who bears `token`; `undefined` where it is not ours, has expired, or its user is gone or has changed the password. */
  verify(token: string): Promise<Bearer | undefined>;
}

export function createTokens({
  domain,
  secret,
  now,
}: {
  domain: Domain;
  secret: Uint8Array;
  now: () => number;
}): Tokens {
  const remembered = new Map<string, Claims>();

  async function readClaims(token: string): Promise<Claims | undefined> {
    const known = remembered.get(token);
    if (known !== undefined) return known;
    try {
      const { payload } = await jwtVerify<Claims>(token, secret, {
        algorithms: ["HS256"],
        typ: "JWT",
        requiredClaims: ["sub", "user_id", "ver", "exp", "iat"],
        clockTolerance: clockToleranceSeconds,
        currentDate: new Date(now()),
      });
      if (remembered.size >= maxRemembered) remembered.delete(remembered.keys().next().value as string);
      remembered.set(token, payload);
      return payload;
    } catch (error) {
      if (error instanceof errors.JOSEError || error instanceof TypeError) return undefined; // any malformed token
      throw error;
    }
  }

  return {
    issue: (user) => {
      const issuedAt = Math.floor(now() / 1_000);
      return new SignJWT({ user_id: user.id, role: user.role, ver: user.tokenVersion })
        .setProtectedHeader({ alg: "HS256", typ: "JWT" })
        .setSubject(user.username)
        .setIssuedAt(issuedAt)
        .setExpirationTime(issuedAt + tokenLifetimeSeconds)
        .sign(secret);
    },
    async verify(token) {
      const claims = await readClaims(token);
      if (claims === undefined) return undefined;
      if (claims.exp + clockToleranceSeconds <= now() / 1_000) {
        remembered.delete(token);
        return undefined;
      }
      const user = domain.read({ kind: "system" }, (ctx) => findBearer(ctx, claims.user_id));
      if (user === undefined || user.tokenVersion !== claims.ver) return undefined;
      return { actor: { kind: "user", id: user.id, username: user.username, role: user.role }, claims };
    },
  };
}

/**
 * The secret that signs tokens: the configured one, else one kept in `file`, made at the first start.
 * @throws {StartError} where others may read the file
 */
export function loadTokenSecret(configured: string | undefined, file: string): Uint8Array {
  if (configured !== undefined) return Buffer.from(configured, "utf8");
  if (!existsSync(file)) {
    writeFileSync(file, `${randomBytes(32).toString("hex")}\n`, { mode: 0o600, flag: "wx", flush: true });
    chmodSync(file, 0o600);
  }
  if (process.platform !== "win32" && (statSync(file).mode & 0o077) !== 0) {
    throw new StartError(`${file} can be read by others; make it yours alone: chmod 600 ${file}`);
  }
  const secret = Buffer.from(readFileSync(file, "utf8").trim(), "hex");
  if (secret.length < 32)
    throw new StartError(`${file} holds no secret of 32 bytes; remove it and one is made (everybody logs in anew)`);
  return secret;
}
