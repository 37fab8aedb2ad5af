import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { isLocalAddress, isPeerAllowed, normalizeAddress, resolvePeer } from "../../src/core/peers.ts";

describe("isLocalAddress", () => {
  test.each([
    ["127.0.0.1", "loopback"],
    ["127.255.255.254", "the whole of loopback"],
    ["::1", "loopback"],
    ["10.0.0.1", "RFC 1918"],
    ["10.255.255.255", "RFC 1918"],
    ["172.16.0.1", "RFC 1918"],
    ["172.31.255.255", "RFC 1918"],
    ["192.168.0.7", "RFC 1918"],
    ["169.254.10.20", "link-local"],
    ["fc00::1", "unique local"],
    ["fd12:3456:789a::1", "unique local"],
    ["FD12:3456:789A::1", "unique local in capitals"],
    ["fe80::1", "link-local"],
    ["febf::1", "the end of link-local"],
    ["fe80::1%eth0", "link-local with its zone"],
    ["fe80::1%3", "link-local with its zone"],
    ["::ffff:192.168.0.7", "mapped"],
    ["::FFFF:127.0.0.1", "mapped, in capitals"],
    ["::ffff:c0a8:7", "mapped, in hex"],
    ["::ffff:a00:1", "mapped, in hex"],
  ])("%s is local: %s", (address) => {
    expect(isLocalAddress(address)).toBe(true);
  });

  test.each([
    ["8.8.8.8", "public"],
    ["203.0.113.9", "public"],
    ["9.255.255.255", "just below RFC 1918"],
    ["11.0.0.0", "just above RFC 1918"],
    ["172.15.255.255", "just below RFC 1918"],
    ["172.32.0.0", "just above RFC 1918"],
    ["192.167.255.255", "just below RFC 1918"],
    ["192.169.0.0", "just above RFC 1918"],
    ["169.253.255.255", "just below link-local"],
    ["126.255.255.255", "just below loopback"],
    ["128.0.0.1", "just above loopback"],
    ["100.64.0.1", "shared address space of a provider"],
    ["0.0.0.0", "no address"],
    ["255.255.255.255", "broadcast"],
    ["::", "no address"],
    ["::2", "not loopback"],
    ["2001:db8::1", "public"],
    ["2a00:1450:4001::5", "public"],
    ["fec0::1", "just above link-local"],
    ["fbff::1", "just below unique local"],
    ["::ffff:8.8.8.8", "mapped public"],
    ["::ffff:808:808", "mapped public, in hex"],
    ["2002:c0a8:0001::1", "6to4 of a private address"],
    ["", "nothing"],
    ["localhost", "a name"],
    ["192.168.0", "incomplete"],
    ["192.168.0.7:80", "with a port"],
    ["[::1]", "in brackets"],
    ["unknown", "what a proxy says that will not tell"],
  ])("%s is not local: %s", (address) => {
    expect(isLocalAddress(address)).toBe(false);
  });

  test("knows an IPv4 address in its mapped form as the same", () => {
    fc.assert(
      fc.property(fc.ipV4(), (address) => {
        const hex = address
          .split(".")
          .map((byte) => Number(byte).toString(16).padStart(2, "0"))
          .join("");
        expect(normalizeAddress(`::ffff:${address}`)).toBe(address);
        expect(isLocalAddress(`::ffff:${address}`)).toBe(isLocalAddress(address));
        expect(isLocalAddress(`::ffff:${hex.slice(0, 4)}:${hex.slice(4)}`)).toBe(isLocalAddress(address));
      }),
    );
  });

  test("never throws", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.ipV6(),
          fc.ipV6().map((address) => `${address}%en0`),
        ),
        (text) => {
          expect(typeof isLocalAddress(text)).toBe("boolean");
        },
      ),
    );
  });
});

describe("resolvePeer", () => {
  const proxies = ["127.0.0.1", "10.0.0.2"];

  test("without a header, the socket speaks for itself", () => {
    expect(resolvePeer("::ffff:192.168.0.7", undefined, [])).toEqual({ address: "192.168.0.7", isLocal: true });
    expect(resolvePeer("203.0.113.9", undefined, proxies)).toEqual({ address: "203.0.113.9", isLocal: false });
    expect(resolvePeer("127.0.0.1", undefined, proxies)).toEqual({ address: "127.0.0.1", isLocal: true });
  });

  test("a header from a peer that nobody trusts makes it count as outside, whatever the header says", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("127.0.0.1", "192.168.0.7", "::1", "fe80::1%eth0"),
        fc.oneof(fc.string(), fc.constantFrom("127.0.0.1", "10.0.0.2", "::1", "192.168.0.7, 127.0.0.1")),
        (socket, header) => {
          const peer = resolvePeer(socket, header, ["10.0.0.99"]);
          expect(peer.isLocal).toBe(false);
          expect(peer.address).toBe(normalizeAddress(socket));
        },
      ),
    );
  });

  test.each([
    ["192.168.0.7", "192.168.0.7", true],
    ["203.0.113.9", "203.0.113.9", false],
    ["::ffff:192.168.0.7", "192.168.0.7", true],
    ["  203.0.113.9  ", "203.0.113.9", false],
    ["192.168.0.7, 10.0.0.2", "192.168.0.7", true],
    ["203.0.113.9,10.0.0.2,127.0.0.1", "203.0.113.9", false],
    // What stands left of the last address that is no proxy was written by the caller, who may write what it likes.
    ["127.0.0.1, 203.0.113.9", "203.0.113.9", false],
    ["192.168.0.7, 203.0.113.9, 10.0.0.2", "203.0.113.9", false],
    ["10.0.0.2, 203.0.113.9, 127.0.0.1", "203.0.113.9", false],
  ])("a trusted proxy that says %j speaks for %s", (header, address, isLocal) => {
    expect(resolvePeer("127.0.0.1", header, proxies)).toEqual({ address, isLocal });
    expect(resolvePeer("::ffff:127.0.0.1", header, proxies)).toEqual({ address, isLocal });
  });

  test("a header sent in several lines is one list", () => {
    expect(resolvePeer("127.0.0.1", ["127.0.0.1", "203.0.113.9, 10.0.0.2"], proxies)).toEqual({
      address: "203.0.113.9",
      isLocal: false,
    });
  });

  test("a chain of trusted proxies alone is the socket's own call", () => {
    expect(resolvePeer("127.0.0.1", "10.0.0.2", proxies)).toEqual({ address: "127.0.0.1", isLocal: true });
  });

  test.each(["", "unknown", "_hidden", "192.168.0.7:1234", ",", "192.168.0.7,"])(
    "a trusted proxy that says %j speaks for nobody of the local network",
    (header) => {
      expect(resolvePeer("127.0.0.1", header, proxies).isLocal).toBe(false);
    },
  );
});

describe("isPeerAllowed", () => {
  const inside = { address: "192.168.0.7", isLocal: true };
  const outside = { address: "203.0.113.9", isLocal: false };

  test.each([
    ["open", true, true],
    ["lan", true, false],
    ["off", false, false],
  ] as const)("%s: from inside %s, from outside %s", (rule, fromInside, fromOutside) => {
    expect(isPeerAllowed(rule, inside)).toBe(fromInside);
    expect(isPeerAllowed(rule, outside)).toBe(fromOutside);
  });
});
