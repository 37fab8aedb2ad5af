import { createHmac } from "node:crypto";
import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { SignJWT } from "jose";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { StartError } from "../../src/core/errors.ts";
import { createTokens, loadTokenSecret, tokenLifetimeSeconds, type Tokens } from "../../src/core/tokens.ts";
import { createUser, type User } from "../../src/core/users.ts";
import { openTestStore, start, type TestStore } from "../support/store.ts";

const secret = Buffer.alloc(32, "k");

let t: TestStore;
let user: User;
let tokens: Tokens;
beforeEach(async () => {
  t = openTestStore();
  user = await t.commit((ctx) => createUser(ctx, { username: "Ana", passwordHash: "" }));
  tokens = createTokens({ domain: t.domain, secret, now: () => t.clock.at });
});
afterEach(() => t.close());

const encode = (part: object): string => Buffer.from(JSON.stringify(part)).toString("base64url");
const sign = (header: object, claims: object, key: Uint8Array = secret, hash = "sha256"): string => {
  const signed = `${encode(header)}.${encode(claims)}`;
  return `${signed}.${createHmac(hash, key).update(signed).digest("base64url")}`;
};
const header = { alg: "HS256", typ: "JWT" };
const claims = () => ({
  sub: user.username,
  user_id: user.id,
  role: user.role,
  ver: 0,
  iat: start / 1_000,
  exp: start / 1_000 + 3_600,
});

describe("a token", () => {
  test("says whose it is, and is good for 24 hours", async () => {
    const token = await tokens.issue(user);
    const bearer = await tokens.verify(token);
    expect(bearer).toEqual({
      actor: { kind: "user", id: user.id, username: "Ana", role: "admin" },
      claims: {
        sub: "Ana",
        user_id: user.id,
        role: "admin",
        ver: 0,
        iat: start / 1_000,
        exp: start / 1_000 + 86_400,
      },
    });
    expect(tokenLifetimeSeconds).toBe(86_400);
  });

  test.each([
    ["at its first check", false],
    ["also where it has been seen before", true],
  ])("expires with a minute of grace, %s", async (_, isSeen) => {
    const token = await tokens.issue(user);
    if (isSeen) await tokens.verify(token);
    t.clock.at = start + 86_400_000 + 59_000;
    expect((await tokens.verify(token))?.actor.id).toBe(user.id);
    t.clock.at = start + 86_400_000 + 60_000;
    expect(await tokens.verify(token)).toBeUndefined();
    t.clock.at = start + 86_400_000 + 61_000;
    expect(await tokens.verify(token)).toBeUndefined();
  });

  test("is worthless once its user's token version has risen", async () => {
    const old = await tokens.issue(user);
    expect(await tokens.verify(old)).toBeDefined();
    t.store.db.$client.prepare("UPDATE users SET token_version = 1").run();
    expect(await tokens.verify(old)).toBeUndefined();
    const fresh = await tokens.issue({ ...user, tokenVersion: 1 });
    expect(await tokens.verify(fresh)).toBeDefined();
  });

  test("is worthless once its user is gone", async () => {
    const token = await tokens.issue(user);
    expect(await tokens.verify(token)).toBeDefined();
    t.store.db.$client.prepare("DELETE FROM users").run();
    expect(await tokens.verify(token)).toBeUndefined();
  });

  test("gives the role that its user has now, not the one at its issue", async () => {
    const token = await tokens.issue(user);
    t.store.db.$client.prepare("UPDATE users SET role = 'member'").run();
    expect((await tokens.verify(token))?.actor.role).toBe("member");
  });

  test("is known to another gateway process with the same secret, and to none with another", async () => {
    const token = await tokens.issue(user);
    const options = { domain: t.domain, now: () => t.clock.at };
    expect(await createTokens({ ...options, secret: Buffer.from(secret) }).verify(token)).toBeDefined();
    expect(await createTokens({ ...options, secret: Buffer.alloc(32, "x") }).verify(token)).toBeUndefined();
  });

  test("signed by others' tools with the same claims is good", async () => {
    expect((await tokens.verify(sign(header, claims())))?.actor.id).toBe(user.id);
    const { sub, iat, exp, ...rest } = claims();
    const signed = new SignJWT(rest).setProtectedHeader(header).setSubject(sub).setIssuedAt(iat).setExpirationTime(exp);
    expect(await tokens.verify(await signed.sign(secret))).toBeDefined();
  });

  test.each<[string, () => string]>([
    ["with no signature (alg none)", () => `${encode({ alg: "none", typ: "JWT" })}.${encode(claims())}.`],
    ["with alg none and a signature", () => sign({ alg: "none", typ: "JWT" }, claims())],
    ["of HS384", () => sign({ alg: "HS384", typ: "JWT" }, claims(), secret, "sha384")],
    ["of HS512", () => sign({ alg: "HS512", typ: "JWT" }, claims(), secret, "sha512")],
    ["that claims RS256", () => sign({ alg: "RS256", typ: "JWT" }, claims())],
    ["of another type", () => sign({ alg: "HS256", typ: "at+jwt" }, claims())],
    ["of no type", () => sign({ alg: "HS256" }, claims())],
    ["with a critical extension", () => sign({ ...header, crit: ["b64"], b64: false }, claims())],
    ["signed with an empty key", () => sign(header, claims(), Buffer.alloc(0))],
    ["without an expiry", () => sign(header, { ...claims(), exp: undefined })],
    ["whose expiry is no number", () => sign(header, { ...claims(), exp: "never" })],
    ["without a user", () => sign(header, { ...claims(), user_id: undefined })],
    ["of an unknown user", () => sign(header, { ...claims(), user_id: "550e8400-e29b-41d4-a716-446655440000" })],
    ["without a version", () => sign(header, { ...claims(), ver: undefined })],
    ["of an older version", () => sign(header, { ...claims(), ver: -1 })],
    ["that is not valid yet", () => sign(header, { ...claims(), nbf: start / 1_000 + 3_600 })],
    ["that has expired", () => sign(header, { ...claims(), exp: start / 1_000 - 3_600 })],
  ])("%s is refused", async (_, make) => {
    expect(await tokens.verify(make())).toBeUndefined();
  });

  test("with any one character changed is refused", async () => {
    const token = await tokens.issue(user);
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    await fc.assert(
      fc.asyncProperty(fc.nat(token.length - 2), fc.constantFrom(...alphabet.split("")), async (place, character) => {
        fc.pre(token[place] !== character);
        expect(await tokens.verify(token.slice(0, place) + character + token.slice(place + 1))).toBeUndefined();
      }),
    );
    expect(await tokens.verify(token)).toBeDefined();
  });

  test("of any other kind of text is refused, and no fault", async () => {
    const segment = fc.oneof(
      fc.string(),
      fc.base64String(),
      fc.json().map((text) => Buffer.from(text).toString("base64url")),
      fc.constant(encode(header)),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.string({ unit: "binary" }),
          fc.array(segment, { maxLength: 6 }).map((all) => all.join(".")),
        ),
        async (text) => {
          expect(await tokens.verify(text)).toBeUndefined();
        },
      ),
      { numRuns: 300 },
    );
  });

  test("is good also among more others than are remembered", async () => {
    const first = await tokens.issue(user);
    expect(await tokens.verify(first)).toBeDefined();
    const others = Array.from({ length: 1_100 }, (_, i) => sign(header, { ...claims(), jti: String(i) }));
    for (const token of others) await tokens.verify(token);
    for (const token of [first, others[0], others.at(-1)]) expect(await tokens.verify(token as string)).toBeDefined();
    t.clock.at = start + 86_400_000 + 61_000;
    for (const token of [first, others[0], others.at(-1)]) expect(await tokens.verify(token as string)).toBeUndefined();
  });
});

describe("the secret", () => {
  const file = () => join(t.folder, "jwt.secret");

  test("is made at the first start, its owner's alone, and the same at the next", () => {
    const made = loadTokenSecret(undefined, file());
    expect(made).toHaveLength(32);
    expect(statSync(file()).mode & 0o777).toBe(0o600);
    expect(loadTokenSecret(undefined, file())).toEqual(made);
    expect(readFileSync(file(), "utf8")).toMatch(/^[0-9a-f]{64}\n$/);
  });

  test("is its owner's alone under any umask", () => {
    const before = process.umask(0);
    try {
      loadTokenSecret(undefined, file());
    } finally {
      process.umask(before);
    }
    expect(statSync(file()).mode & 0o777).toBe(0o600);
  });

  test("is another one for each gateway", () => {
    expect(loadTokenSecret(undefined, file())).not.toEqual(loadTokenSecret(undefined, join(t.folder, "other.secret")));
  });

  test("is the configured one where there is one, and then no file is made", () => {
    const configured = "žlahtna-skrivnost-of-more-than-32-bytes";
    expect(loadTokenSecret(configured, file())).toEqual(Buffer.from(configured, "utf8"));
    expect(existsSync(file())).toBe(false);
  });

  test.each([0o640, 0o644, 0o604, 0o660, 0o620, 0o601])("is refused where others may get at the file (%o)", (mode) => {
    loadTokenSecret(undefined, file());
    chmodSync(file(), mode);
    expect(() => loadTokenSecret(undefined, file())).toThrow(StartError);
    expect(() => loadTokenSecret(undefined, file())).toThrow(`chmod 600 ${file()}`);
  });

  test.each(["", "\n", "abcd", "k".repeat(64), `${"ab".repeat(31)}\n`, `${"ab".repeat(31)}zz`])(
    "is refused where the file holds %j",
    (text) => {
      writeFileSync(file(), text, { mode: 0o600 });
      expect(() => loadTokenSecret(undefined, file())).toThrow(/holds no secret of 32 bytes/);
    },
  );
});
