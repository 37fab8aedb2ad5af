import { randomBytes } from "node:crypto";
import { eq } from "drizzle-orm";
import { devices } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { findAnyDevice, getAnyDevice } from "./devices.ts";
import type { Revoked } from "./events.ts";
import { hashSecret, isSameHash } from "./keys.ts";
import { deviceOwner, endDeviceIdentity } from "./sessions.ts";

// Who speaks over MQTT. A device proves itself with a token of its own; users come with what they log in with elsewhere;
// everybody else is nobody in particular, and may speak for devices that have no token.

export type Identity =
  | { kind: "device"; id: string; pk: number }
  /** `keyId`: with that API key. */
  | { kind: "user"; id: string; role: "admin" | "member"; keyId?: string }
  /** With the site's common name and password, or without any where that is allowed. */
  | { kind: "anyone" };

/** Nobody in particular. */
export const anyone: Identity = { kind: "anyone" };

/** By which sessions and client ids are told apart. */
export const ownerOf = (identity: Identity): string =>
  identity.kind === "anyone"
    ? "anyone"
    : identity.kind === "device"
      ? deviceOwner(identity.id)
      : `${identity.kind}:${identity.id}`;

/** Whether somebody logged in with what is worth nothing any more. */
export function isRevoked(identity: Identity, revoked: Revoked): boolean {
  if (revoked.kind === "device") return identity.kind === "device" && identity.id === revoked.id;
  if (identity.kind !== "user") return false;
  // A key outlives a change of the password.
  return revoked.kind === "key"
    ? identity.keyId === revoked.id
    : identity.id === revoked.id && identity.keyId === undefined;
}

const prefix = "dt_";

/** Gives a device a token, in place of an earlier one. It is shown this once. @throws {DomainError} `not_found` */
export function issueDeviceToken(ctx: Ctx, deviceId: string): string {
  const { pk, id, tokenHash } = getAnyDevice(ctx, deviceId);
  const token = prefix + randomBytes(32).toString("base64url");
  setTokenHash(ctx, pk, hashSecret(token));
  if (tokenHash !== null) ctx.emit("credentials.revoked", { kind: "device", id, isGone: false });
  return token;
}

/** Takes a device's token away, and its sessions with it; from then on anyone may speak for it again. @throws {DomainError} `not_found` */
export function revokeDeviceToken(ctx: Ctx, deviceId: string): void {
  const { pk, id, tokenHash } = getAnyDevice(ctx, deviceId);
  if (tokenHash === null) return;
  setTokenHash(ctx, pk, null);
  endDeviceIdentity(ctx, id);
}

function setTokenHash(ctx: Ctx, pk: number, tokenHash: string | null): void {
  ctx.db.update(devices).set({ tokenHash, updatedAt: ctx.now() }).where(eq(devices.pk, pk)).run();
}

/**
 * The device that logs in with its id, either one, and its token. `undefined`: the name is no device's that has a token;
 * `false`: it is, and the token is wrong.
 */
export function findTokenBearer(
  ctx: Ctx,
  username: string,
  token: string,
): Extract<Identity, { kind: "device" }> | false | undefined {
  const device = findAnyDevice(ctx, username);
  if (device === undefined || device.tokenHash === null) return undefined;
  return isSameHash(device.tokenHash, hashSecret(token)) && { kind: "device", id: device.id, pk: device.pk };
}

/** Whether `speaker` may speak for a device: itself, or anyone but a device where it has no token of its own. */
export const maySpeakFor = (speaker: Identity, device: { pk: number; tokenHash: string | null }): boolean =>
  speaker.kind === "device" ? speaker.pk === device.pk : device.tokenHash === null;
