import type { PublishCommand } from "../core/commands.ts";
import { requestCheck } from "../core/commands.ts";
import type { Domain } from "../core/ctx.ts";
import { listCheckedDevices, markLost, type CheckedDevice } from "../core/devices.ts";
import type { Log } from "../log.ts";
import { startPeriodic, type Job } from "./periodic.ts";

export interface DeviceCheckOptions {
  domain: Domain;
  publish: PublishCommand;
  log: Log;
  intervalMs: number;
}

/** A device that has sent nothing for so many intervals is lost. */
export const intervalsUntilLost = 3;

const system = { kind: "system" } as const;

/**
 * Asks every device that is not disabled, once an interval, whether it is there, and marks those lost that keep silent.
 *
 * Silence is counted in rounds in which `lastSeenAt` has not changed, not by the clock: neither a clock that is set nor
 * a gateway that was off makes devices look lost.
 */
export function startDeviceCheck({ domain, publish, log, intervalMs }: DeviceCheckOptions): Job {
  const silence = new Map<number, { lastSeenAt: number | null; rounds: number }>();

  async function check(): Promise<void> {
    const devices = domain.read(system, listCheckedDevices);
    const lost = countSilence(devices);
    if (lost.length > 0) await domain.commit(system, (ctx) => markLost(ctx, lost));
    for (const { id } of devices) await publish(domain.read(system, (ctx) => requestCheck(ctx, id)));
  }

  function countSilence(devices: CheckedDevice[]): CheckedDevice[] {
    const present = new Set(devices.map(({ pk }) => pk));
    for (const pk of silence.keys()) if (!present.has(pk)) silence.delete(pk);
    return devices.filter(({ pk, lastSeenAt }) => {
      const before = silence.get(pk);
      const rounds = before !== undefined && before.lastSeenAt === lastSeenAt ? before.rounds + 1 : 0;
      silence.set(pk, { lastSeenAt, rounds });
      return rounds >= intervalsUntilLost;
    });
  }

  return startPeriodic({ name: "device check", log, intervalMs, run: check });
}
