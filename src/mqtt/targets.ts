import { readCommandTarget } from "../core/commands.ts";
import { findComponent } from "../core/components.ts";
import type { Ctx, Domain } from "../core/ctx.ts";
import { findDevice } from "../core/devices.ts";
import { maySpeakFor, type Identity } from "../core/identities.ts";
import { parseJson } from "../core/json.ts";
import { parseAnnouncement, parseMessage } from "./messages.ts";

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
    // Also where it is not quite UTF-8: its device may not be so particular.
    const target = readCommandTarget(parseJson(payload.toString()));
    if (target === undefined || target.kind === "device") return target?.id;
    return findComponent(ctx, target.kind, target.id)?.deviceId;
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

/** Whether a message says what its speaker may not say: for another device, or a command to one that is not its own. */
export type IsForged = (speaker: Identity, message: { topic: string; payload: Buffer | string }) => boolean;

/** For messages that nothing else looks at: wills. */
export function createForgeryCheck(domain: Domain, topic: string): IsForged {
  const targetOf = createTargets(domain);

  function sourceOf(ctx: Ctx, on: string, payload: Buffer): string | undefined {
    const message = on === topic ? parseMessage(payload) : parseAnnouncement(payload);
    if (message.kind === "reading") return findComponent(ctx, "sensor", message.sensorId)?.deviceId;
    if (message.kind === "check-response") return message.deviceId;
    return message.kind === "announcement" ? message.announcement.id : undefined;
  }

  return function isForged(speaker, message) {
    const payload = Buffer.from(message.payload);
    if (!mayCommand(domain, speaker, targetOf(payload))) return true;
    return domain.read(system, (ctx) => {
      const source = sourceOf(ctx, message.topic, payload);
      const device = source === undefined ? undefined : findDevice(ctx, source);
      return device !== undefined && !maySpeakFor(speaker, device);
    });
  };
}

/** Users command every device, anybody else those for which they may speak. */
export function mayCommand(domain: Domain, speaker: Identity, targetId: string | undefined): boolean {
  if (targetId === undefined || speaker.kind === "user") return true;
  const device = domain.read(system, (ctx) => findDevice(ctx, targetId));
  return device === undefined || maySpeakFor(speaker, device);
}
