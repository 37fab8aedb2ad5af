import { getComponent } from "./components.ts";
import type { Ctx } from "./ctx.ts";
import { parseUuid } from "./ids.ts";
import { formatInstant } from "./time.ts";

/** What the gateway says to devices, as the Lambda document writes it. */
export type Command =
  | { type: "sensor_trigger"; sensor_id: string; action: string; requested_at: string }
  | { type: "actor_command"; actor_id: string; action: string; value?: unknown; requested_at: string }
  | { type: "device_check_request"; device_id: string; requested_at: string }
  | { type: "ping"; timestamp: string };

/** Whom a command is for. */
export interface CommandTarget {
  kind: "device" | "sensor" | "actor";
  /** In lower case, as ids are stored. */
  id: string;
}

/** By command, what it names its target with. A ping is for everybody. */
const targetFields = {
  sensor_trigger: ["sensor", "sensor_id"],
  actor_command: ["actor", "actor_id"],
  device_check_request: ["device", "device_id"],
} as const satisfies Record<Exclude<Command["type"], "ping">, readonly [CommandTarget["kind"], string]>;

/** Whom a message would command; `undefined` for what is no command, or names nothing that can exist. */
export function readCommandTarget(message: unknown): CommandTarget | undefined {
  if (typeof message !== "object" || message === null) return undefined;
  const { type, ...fields } = message as Record<string, unknown>;
  if (typeof type !== "string" || !Object.hasOwn(targetFields, type)) return undefined;
  const [kind, field] = targetFields[type as keyof typeof targetFields];
  const given = fields[field];
  const id = typeof given === "string" ? parseUuid(given) : undefined;
  return id === undefined ? undefined : { kind, id };
}

/** Resolves with the topic once the broker has the message, whether or not anybody is there to receive it. */
export type PublishCommand = (command: Command) => Promise<string>;

/** Asks a sensor for a reading. @throws {DomainError} `not_found` */
export function triggerSensor(ctx: Ctx, id: string, action: string): Command {
  const sensor = getComponent(ctx, "sensor", id);
  return { type: "sensor_trigger", sensor_id: sensor.id, action, requested_at: formatInstant(ctx.now()) };
}

/** Tells an actor what to do; `value` is any JSON value, or absent. @throws {DomainError} `not_found` */
export function writeActor(ctx: Ctx, id: string, { action, value }: { action: string; value?: unknown }): Command {
  const actor = getComponent(ctx, "actor", id);
  return {
    type: "actor_command",
    actor_id: actor.id,
    action,
    ...(value !== undefined && { value }),
    requested_at: formatInstant(ctx.now()),
  };
}

export const pingBroker = (ctx: Ctx): Extract<Command, { type: "ping" }> => ({
  type: "ping",
  timestamp: formatInstant(ctx.now()),
});

export const requestCheck = (ctx: Ctx, deviceId: string): Command => ({
  type: "device_check_request",
  device_id: deviceId,
  requested_at: formatInstant(ctx.now()),
});
