import { BlockList, isIP, isIPv4 } from "node:net";
import { normalizeAddress } from "./peers.ts";

// Where a webhook may not lead. Private addresses are allowed: the receiver is usually next door.

const forbidden = new BlockList();
forbidden.addSubnet("0.0.0.0", 8, "ipv4"); // "this host", RFC 1122
forbidden.addSubnet("169.254.0.0", 16, "ipv4"); // link-local, where clouds keep their metadata
forbidden.addAddress("100.100.100.200", "ipv4"); // metadata again
forbidden.addSubnet("224.0.0.0", 4, "ipv4"); // multicast
forbidden.addSubnet("240.0.0.0", 4, "ipv4"); // reserved, and broadcast
forbidden.addAddress("::", "ipv6");
forbidden.addSubnet("fe80::", 10, "ipv6"); // link-local
forbidden.addAddress("fd00:ec2::254", "ipv6"); // metadata
forbidden.addSubnet("ff00::", 8, "ipv6"); // multicast
forbidden.addSubnet("64:ff9b::", 96, "ipv6"); // IPv4 in disguise, RFC 6052
forbidden.addSubnet("64:ff9b:1::", 48, "ipv6"); // and RFC 8215
forbidden.addSubnet("::ffff:0:0:0", 96, "ipv6"); // and RFC 2765

/** Why an address may not be called; `undefined` where it may, and for what is a name and not an address. */
export function findForbiddenTarget(host: string): string | undefined {
  const address = plainAddress(host);
  if (isIP(address) === 0) return undefined;
  return forbidden.check(address, isIPv4(address) ? "ipv4" : "ipv6") ? `${host}, which no webhook may call` : undefined;
}

/** One spelling for an address: `::ffff:7f00:1`, as URLs have it, is 127.0.0.1. */
export function plainAddress(host: string): string {
  const address = normalizeAddress(host);
  const match = /^::(?:ffff:)?([0-9a-f]{1,4}):([0-9a-f]{1,4})$/i.exec(address);
  if (match === null) return address;
  const high = Number.parseInt(match[1] as string, 16);
  const low = Number.parseInt(match[2] as string, 16);
  return `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`;
}
