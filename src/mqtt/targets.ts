import type { Ctx, Domain } from "../core/ctx.ts";
import { findComponent } from "../core/components.ts";
import { parseJson } from "../core/json.ts";

/** The UUID of the device that a message on the shared topic is meant for; `undefined` where it is meant for none. */
export type TargetOf = (payload: Buffer) => string | undefined;

const system = { kind: "system" } as const;

/**
 * Commands, triggers and checks name whom they are for. Looked up once a message, however many devices listen: the payload
 * is the same object for all of them.
 */
export function createTargets(domain: Domain): TargetOf {
  const found = new WeakMap<Buffer, { deviceId: string | undefined }>();

  function find(ctx: Ctx, payload: Buffer): string | undefined {
    const body = parseJson(payload.toString());
    if (typeof body !== "object" || body === null) return undefined;
    const { type, device_id, sensor_id, actor_id } = body as Record<string, unknown>;
    if (type === "device_check_request" && typeof device_id === "string") return device_id;
    if (type === "sensor_trigger" && typeof sensor_id === "string")
      return findComponent(ctx, "sensor", sensor_id)?.deviceId;
    if (type === "actor_command" && typeof actor_id === "string")
      return findComponent(ctx, "actor", actor_id)?.deviceId;
    return undefined;
  }

  return function targetOf(payload) {
    let target = found.get(payload);
    if (target === undefined) {
      target = { deviceId: domain.read(system, (ctx) => find(ctx, payload)) };
      found.set(payload, target);
    }
    return target.deviceId;
  };
}
