import { randomBytes } from "node:crypto";
import { eq } from "drizzle-orm";
import { devices } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { findAnyDevice, getAnyDevice } from "./devices.ts";
import { hashSecret, isSameHash } from "./keys.ts";

// Who speaks over MQTT. A device proves itself with a token of its own; users come with what they log in with elsewhere;
// everybody else is nobody in particular, and may speak for devices that have no token.

export type Identity =
  | { kind: "device"; id: string; pk: number }
  | { kind: "user"; id: string; role: "admin" | "member" }
  /** With the site's common name and password, or without any where that is allowed. */
  | { kind: "anyone" };

/** Nobody in particular. */
export const anyone: Identity = { kind: "anyone" };

/** By which sessions and client ids are told apart. */
export const ownerOf = (identity: Identity): string =>
  identity.kind === "anyone" ? "anyone" : `${identity.kind}:${identity.id}`;

const prefix = "dt_";

/** Gives a device a token, in place of an earlier one. It is shown this once. @throws {DomainError} `not_found` */
export function issueDeviceToken(ctx: Ctx, deviceId: string): string {
  const { pk } = getAnyDevice(ctx, deviceId);
  const token = prefix + randomBytes(32).toString("base64url");
  setTokenHash(ctx, pk, hashSecret(token));
  return token;
}

/** Takes a device's token away; from then on anyone may speak for it again. @throws {DomainError} `not_found` */
export function revokeDeviceToken(ctx: Ctx, deviceId: string): void {
  setTokenHash(ctx, getAnyDevice(ctx, deviceId).pk, null);
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
