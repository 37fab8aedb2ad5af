import { BlockList, isIPv4, isIPv6 } from "node:net";

/** Who may do something without credentials: anyone, peers of the local network, nobody. */
export type PeerRule = "open" | "lan" | "off";

const local = new BlockList();
for (const [net, prefix] of [
  ["127.0.0.0", 8], // loopback
  ["10.0.0.0", 8], // RFC 1918
  ["172.16.0.0", 12],
  ["192.168.0.0", 16],
  ["169.254.0.0", 16], // link-local, RFC 3927
] as const)
  local.addSubnet(net, prefix, "ipv4");
local.addAddress("::1", "ipv6");
local.addSubnet("fc00::", 7, "ipv6"); // ULA, RFC 4193
local.addSubnet("fe80::", 10, "ipv6"); // link-local, RFC 4291

/** Loopback, RFC 1918, unique local and link-local addresses, IPv4 ones also in their IPv6-mapped form. */
export function isLocalAddress(address: string): boolean {
  let isLocal = remembered.get(address);
  if (isLocal === undefined) {
    const bare = normalizeAddress(address);
    isLocal = isIPv4(bare) ? local.check(bare, "ipv4") : isIPv6(bare) && local.check(bare, "ipv6");
    if (remembered.size >= maxRemembered) remembered.clear();
    remembered.set(address, isLocal);
  }
  return isLocal;
}

/** The same few callers ask again and again, and to compare an address with all those nets costs as much as a query. */
const remembered = new Map<string, boolean>();
const maxRemembered = 1_000;

const loopback = new BlockList();
loopback.addSubnet("127.0.0.0", 8, "ipv4");
loopback.addAddress("::1", "ipv6");

/** This machine, whatever its name. */
export const isLoopback = (address: string): boolean => loopback.check(address, isIPv4(address) ? "ipv4" : "ipv6");

/** Without the zone (`%eth0`), and `::ffff:192.168.0.7` as `192.168.0.7`. */
export function normalizeAddress(address: string): string {
  const zoneAt = address.indexOf("%");
  const bare = zoneAt === -1 ? address : address.slice(0, zoneAt);
  return bare.length > 7 && bare.toLowerCase().startsWith("::ffff:") && isIPv4(bare.slice(7)) ? bare.slice(7) : bare;
}

/** Where a caller stands: its address, or `outside` where a proxy that nobody vouches for speaks for it. */
export interface Peer {
  address: string;
  isLocal: boolean;
}

export const isPeerAllowed = (rule: PeerRule, peer: Peer): boolean =>
  rule === "open" || (rule === "lan" && peer.isLocal);

/** By these a proxy shows itself that does not say for whom it speaks, or not in a way that is believed. */
const traces = ["x-real-ip", "x-forwarded-host", "x-forwarded-proto"];

/** What a request's headers say of the proxies behind it, for {@link resolvePeer}; `undefined` where none shows itself. */
export function readForwarded(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): string | string[] | undefined {
  const hops = headers["x-forwarded-for"] ?? headers["forwarded"];
  if (hops !== undefined) return hops;
  return traces.some((name) => headers[name] !== undefined) ? "unknown" : undefined; // RFC 7239, section 6.2
}

/**
 * The caller behind a connection. A proxy in `trustedProxies` is believed when it says for whom it speaks, the last
 * address in `X-Forwarded-For` that is no such proxy; the header from anybody else makes the caller count as outside. So
 * does RFC 7239's `Forwarded` in its place: it says that a proxy is there, and is not read any further.
 */
export function resolvePeer(
  socketAddress: string,
  forwardedFor: string | string[] | undefined,
  trustedProxies: readonly string[],
): Peer {
  const address = normalizeAddress(socketAddress);
  if (forwardedFor === undefined) return { address, isLocal: isLocalAddress(address) };
  if (!trustedProxies.includes(address)) return { address, isLocal: false };
  const hops = (Array.isArray(forwardedFor) ? forwardedFor.join(",") : forwardedFor)
    .split(",")
    .map((hop) => normalizeAddress(hop.trim()));
  const caller = hops.findLast((hop) => !trustedProxies.includes(hop)) ?? address;
  return { address: caller, isLocal: isLocalAddress(caller) };
}
