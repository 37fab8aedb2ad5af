import { randomBytes, scryptSync } from "node:crypto";
import { describe, expect, test } from "vitest";
import { hashPassword, verifyPassword } from "../../src/core/passwords.ts";

/** A hash in the stored form, of a cost that takes no time. */
function hashCheaply(password: string): string {
  const salt = randomBytes(16);
  const key = scryptSync(password, salt, 32, { N: 2 ** 10, r: 8, p: 1 });
  return `$scrypt$ln=10,r=8,p=1$${salt.toString("base64")}$${key.toString("base64")}`;
}

describe("passwords", () => {
  test("a password verifies against its own hash and no other does", async () => {
    const hash = await hashPassword("secret123");
    expect(hash).toMatch(/^\$scrypt\$ln=15,r=8,p=3\$[\w+/]{22}==\$[\w+/]{43}=$/);
    expect(await verifyPassword("secret123", hash)).toBe(true);
    expect(await verifyPassword("secret124", hash)).toBe(false);
  });

  test("the same password has another hash each time", async () => {
    expect(await hashPassword("secret123")).not.toBe(await hashPassword("secret123"));
  });

  test.each(["", "Secret123", "secret123 ", " secret123", "ｓecret123"])("%j is not secret123", async (password) => {
    const hash = hashCheaply("secret123");
    expect(await verifyPassword("secret123", hash)).toBe(true);
    expect(await verifyPassword(password, hash)).toBe(false);
  });

  test("a hash made at another cost still verifies", async () => {
    expect(await verifyPassword("žlahtna gesla 🔑", hashCheaply("žlahtna gesla 🔑"))).toBe(true);
  });

  test("an unknown user, and a hash of a kind that is not known, verify nothing", async () => {
    expect(await verifyPassword("secret123", undefined)).toBe(false);
    expect(await verifyPassword("secret123", "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA")).toBe(false);
    expect(await verifyPassword("secret123", "secret123")).toBe(false);
    expect(await verifyPassword("", "")).toBe(false);
  });

  test("a hash that was cut short verifies nothing", async () => {
    const hash = hashCheaply("secret123");
    expect(await verifyPassword("secret123", `${hash.slice(0, hash.lastIndexOf("$") + 1)}AAAA`)).toBe(false);
  });

  test("two are computed at once, the others wait: a cheap one that came third does not overtake", async () => {
    const finished: string[] = [];
    const note = (name: string) => () => void finished.push(name);
    const cheap = hashCheaply("secret123");
    await Promise.all([
      hashPassword("first").then(note("dear")),
      verifyPassword("second", undefined).then(note("dear")),
      verifyPassword("secret123", cheap).then(note("cheap")),
      verifyPassword("secret123", cheap).then(note("cheap")),
    ]);
    expect(finished[0]).toBe("dear");
    expect(finished).toHaveLength(4);
  });

  test("a failure gives its place back", async () => {
    // 2^60 is more than scrypt takes.
    const impossible = "$scrypt$ln=60,r=8,p=1$AAAA$AAAA";
    const attempts = await Promise.allSettled(Array.from({ length: 6 }, () => verifyPassword("x", impossible)));
    expect(attempts.map(({ status }) => status)).toEqual(Array(6).fill("rejected"));
    expect(await verifyPassword("secret123", hashCheaply("secret123"))).toBe(true);
  });
});
