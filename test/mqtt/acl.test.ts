import { describe, expect, test } from "vitest";
import { createAcl, type AclRule, type Speaker } from "../../src/mqtt/acl.ts";

const device = (username: string, clientId = "c1"): Speaker => ({
  identity: { kind: "device", id: "3814fb88-565c-5dc8-9b91-60d4002b6edc", pk: 1 },
  username,
  clientId,
});
const user = (role: "admin" | "member"): Speaker => ({
  identity: { kind: "user", id: "u", role },
  username: "u",
  clientId: "c",
});
const anyone: Speaker = { identity: { kind: "anyone" }, username: "", clientId: "c" };
const aclOf = (...rules: AclRule[]) => createAcl({ topic: "lambdaiot", rules });
const rule = (access: AclRule["access"], pattern: string): AclRule => ({ access, pattern });

describe("without rules", () => {
  const acl = aclOf();

  test("a device uses the gateway's topics alone", () => {
    for (const [topic, publish, subscribe] of [
      ["lambdaiot", true, true],
      ["lambdaiot/discovery", true, false],
      ["lambdaiot/other", false, false],
      ["lambdaiot/#", false, false],
      ["elsewhere", false, false],
      ["#", false, false],
      ["+", false, false],
      ["$SYS/#", false, false],
    ] as const) {
      expect([topic, acl.canSubscribe(device("d"), topic)]).toEqual([topic, subscribe]);
      expect([topic, acl.canPublish(device("d"), topic)]).toEqual([topic, publish]);
    }
  });

  test("users and whoever is nobody in particular use every topic but the broker's own", () => {
    for (const speaker of [user("member"), anyone]) {
      for (const filter of ["#", "+/discovery", "elsewhere"]) expect(acl.canSubscribe(speaker, filter)).toBe(true);
      expect(acl.canPublish(speaker, "elsewhere")).toBe(true);
      expect(acl.canSubscribe(speaker, "$SYS/#")).toBe(false);
      expect(acl.canPublish(speaker, "$SYS/x/new/clients")).toBe(false);
    }
  });

  test("an administrator reads the broker's own topics and does not write them", () => {
    expect(acl.canSubscribe(user("admin"), "$SYS/#")).toBe(true);
    expect(acl.canPublish(user("admin"), "$SYS/broker/uptime")).toBe(false);
  });
});

describe("a rule", () => {
  test("gives what it says: reading, writing, or both", () => {
    const acl = aclOf(rule("read", "in/#"), rule("write", "out/#"), rule("readwrite", "both/#"));
    expect(["in/a", "out/a", "both/a"].map((topic) => acl.canPublish(device("d"), topic))).toEqual([false, true, true]);
    expect(["in/a", "out/a", "both/a"].map((topic) => acl.canSubscribe(device("d"), topic))).toEqual([
      true,
      false,
      true,
    ]);
  });

  test.each([
    ["tele/%u/#", "tele/d/state", true],
    ["tele/%u/#", "tele/d", true],
    ["tele/%u/#", "tele/d/#", true],
    ["tele/%u/#", "tele/#", false],
    ["tele/%u/#", "tele/+/state", false],
    ["tele/%u/#", "tele/other/state", false],
    ["tele/+/state", "tele/+/state", true],
    ["tele/+/state", "tele/#", false],
    ["tele/+/state", "tele/x/#", false],
    ["tele/+", "tele/x/y", false],
    ["tele/+", "tele", false],
    ["cmnd/%c/%u", "cmnd/c1/d", true],
    ["cmnd/pre-%u-%c", "cmnd/pre-d-c1", true],
    ["#", "$SYS/#", false],
    ["#", "anything/#", true],
  ])("with %s lets a device subscribe to %s: %s", (pattern, filter, isAllowed) => {
    expect(aclOf(rule("read", pattern)).canSubscribe(device("d"), filter)).toBe(isAllowed);
  });

  test.each(["+", "#", "a/b", "a+", ""])("is none for a client whose name would widen it: '%s'", (name) => {
    const acl = aclOf(rule("readwrite", "tele/%u/x"), rule("readwrite", "id/%c/x"));
    expect(acl.canPublish(device(name), `tele/${name}/x`)).toBe(false);
    expect(acl.canSubscribe(device(name), "tele/+/x")).toBe(false);
    expect(acl.canSubscribe(device("d", name), "id/+/x")).toBe(false);
    expect(acl.canSubscribe(device("d", name), `id/${name}/x`)).toBe(false);
  });

  test("takes a name that looks like a placeholder for what it is", () => {
    const acl = aclOf(rule("read", "t/%u"));
    expect(acl.canSubscribe(device("%c"), "t/%c")).toBe(true);
    expect(acl.canSubscribe(device("%c", "other"), "t/other")).toBe(false);
  });
});
