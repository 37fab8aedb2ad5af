import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { deriveComponentId, deriveDeviceId, deriveUuid, newUuid, parseMac, parseUuid } from "../../src/core/ids.ts";

const dns = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

describe("derived ids", () => {
  test("are those of the contract", () => {
    const device = deriveDeviceId("aabbccddeeff");
    expect(device).toBe("3814fb88-565c-5dc8-9b91-60d4002b6edc");
    expect(deriveComponentId(device, "sensor", 0)).toBe("2e4abd8d-5d31-56b9-9bd9-84d9d7d57947");
    expect(deriveComponentId(device, "actor", 0)).toBe("6cc20cc6-7740-5548-8444-6a33cf4271fd");
  });

  test("are those of RFC 9562, appendix A.4", () => {
    expect(deriveUuid(dns, "www.example.com")).toBe("2ed6657d-e927-568b-95e1-2665a8aea6a2");
  });

  test("are UUIDs of version 5, the same for the same name", () => {
    fc.assert(
      fc.property(fc.uuid(), fc.string({ unit: "grapheme" }), (namespace, name) => {
        const id = deriveUuid(namespace, name);
        expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
        expect(deriveUuid(namespace, name)).toBe(id);
        expect(deriveUuid(namespace, `${name}x`)).not.toBe(id);
      }),
    );
  });

  test("differ by kind and by place", () => {
    const ids = (["sensor", "actor"] as const).flatMap((kind) =>
      Array.from({ length: 20 }, (_, position) => deriveComponentId(dns, kind, position)),
    );
    expect(new Set(ids).size).toBe(40);
  });
});

describe("parseUuid", () => {
  test("takes any version in either case, and gives lower case", () => {
    fc.assert(
      fc.property(fc.uuid({ version: [1, 2, 3, 4, 5, 6, 7, 8] }), (id) => {
        expect(parseUuid(id)).toBe(id);
        expect(parseUuid(id.toUpperCase())).toBe(id);
      }),
    );
    expect(parseUuid("00000000-0000-0000-0000-000000000000")).toBe("00000000-0000-0000-0000-000000000000");
    expect(parseUuid("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF")).toBe("ffffffff-ffff-ffff-ffff-ffffffffffff");
  });

  test("takes a new one", () => {
    const id = newUuid();
    expect(parseUuid(id)).toBe(id);
    expect(newUuid()).not.toBe(id);
  });

  test.each([
    "",
    "device",
    "550e8400e29b41d4a716446655440000",
    "{550e8400-e29b-41d4-a716-446655440000}",
    "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
    "550e8400-e29b-41d4-a716-44665544000",
    "550e8400-e29b-41d4-a716-4466554400000",
    "550e8400-e29b-41d4-a716-44665544000g",
    "550e8400-e29b-41d4-a716-446655440000 ",
    "550e8400-e29b-41d4-a716-446655440000\n",
    "550e8400_e29b_41d4_a716_446655440000",
    "５50e8400-e29b-41d4-a716-446655440000",
  ])("refuses %j", (text) => {
    expect(parseUuid(text)).toBeUndefined();
  });
});

describe("parseMac", () => {
  test("reads the twelve digits whatever stands between them, in either case", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 6, maxLength: 6 }),
        fc.constantFrom(":", "-", ""),
        fc.boolean(),
        (bytes, separator, isUpper) => {
          const digits = Buffer.from(bytes).toString("hex");
          const written = digits.replaceAll(/(..)(?=.)/g, `$1${separator}`);
          expect(parseMac(isUpper ? written.toUpperCase() : written)).toBe(digits);
        },
      ),
    );
    expect(parseMac("aabb.ccdd.eeff")).toBe("aabbccddeeff");
  });

  test.each(["", "00:11:22:33:44", "00:11:22:33:44:55:66", "00:11:22:33:44:5g", "00 11 22 33 44 55", "room"])(
    "refuses %j",
    (text) => {
      expect(parseMac(text)).toBeUndefined();
    },
  );
});
