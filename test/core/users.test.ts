import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { countUsers, createUser, findUser, findUserByLogin, foldName } from "../../src/core/users.ts";
import { openTestStore, start, type TestStore } from "../support/store.ts";

let t: TestStore;
beforeEach(() => (t = openTestStore()) && undefined);
afterEach(() => t.close());

const passwordHash = "$scrypt$ln=1,r=1,p=1$AAAA$AAAA";
const register = (username: string, email?: string) =>
  t.commit((ctx) => createUser(ctx, { username, passwordHash, email }));
const find = (login: string) => t.read((ctx) => findUserByLogin(ctx, login));

describe("users", () => {
  test("the first one is the administrator, later ones are members", async () => {
    expect(t.read(countUsers)).toBe(0);
    const roles = [await register("ana"), await register("bor"), await register("cene")].map(({ role }) => role);
    expect(roles).toEqual(["admin", "member", "member"]);
    expect(t.read(countUsers)).toBe(3);
  });

  test("an account keeps the name as it was written, and is found by it however it is written", async () => {
    const user = await register("Ａna.Ž", "Ana@Example.COM");
    expect(user).toMatchObject({ username: "Ａna.Ž", email: "Ana@Example.COM", tokenVersion: 0, createdAt: start });
    for (const login of ["Ａna.Ž", "ana.ž", "ANA.Ž", "ana@example.com", "ANA@EXAMPLE.COM"])
      expect(find(login)).toEqual(user);
    expect(t.read((ctx) => findUser(ctx, user.id))).toEqual(user);
    for (const login of ["", "ana", "ana.z", "example.com", "%", "' OR 1=1 --"]) expect(find(login)).toBeUndefined();
    expect(t.read((ctx) => findUser(ctx, "ana"))).toBeUndefined();
  });

  test.each([
    ["ALICE", "alice"],
    ["Ａｌｉｃｅ", "alice"],
    ["ﬁne", "FINE"],
    ["e\u0301va", "Éva"],
    ["Ⅷ", "viii"],
    ["Straße", "STRASSE"],
    ["ΟΔΥΣΣΕΑΣ", "οδυσσεας"],
  ])("%s and %s are one name", async (first, second) => {
    expect(foldName(first)).toBe(foldName(second));
    await register(first);
    await expect(register(second)).rejects.toMatchObject({ code: "conflict", message: "username already exists" });
    expect(t.read(countUsers)).toBe(1);
  });

  test("an email belongs to one account", async () => {
    await register("ana", "ana@example.com");
    await expect(register("bor", "ANA@example.com")).rejects.toMatchObject({
      code: "conflict",
      message: "email already exists",
    });
    await register("bor");
    await register("cene"); // any number of accounts have none
    expect(t.read(countUsers)).toBe(3);
  });

  test("nobody may take another's email for a username, or the reverse", async () => {
    await register("ana", "ana@example.com");
    await register("bor@example.com");
    await expect(register("ana@example.com")).rejects.toMatchObject({ code: "conflict" });
    await expect(register("cene", "bor@example.com")).rejects.toMatchObject({ code: "conflict" });
    expect(find("ana@example.com")?.username).toBe("ana");
    expect(find("bor@example.com")?.username).toBe("bor@example.com");
  });

  test("of two that register one name at once, one gets it", async () => {
    const outcomes = await Promise.allSettled([register("ana"), register("ANA"), register("bor")]);
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(t.read(countUsers)).toBe(2);
    expect([find("ana")?.role, find("bor")?.role]).toEqual(["admin", "member"]);
  });

  test("of two that are first at once, one is the administrator", async () => {
    const users = await Promise.all([register("ana"), register("bor")]);
    expect(users.map(({ role }) => role)).toEqual(["admin", "member"]);
  });

  test("accounts survive a restart", async () => {
    const user = await register("ana", "ana@example.com");
    await t.reopen();
    expect(find("ana")).toEqual(user);
  });
});
