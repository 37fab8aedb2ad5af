import type { Ctx } from "./ctx.ts";
import { readProgress, setProgress } from "./progress.ts";
import { formatInstant } from "./time.ts";
import { enqueueEvent } from "./webhooks.ts";

// Whether there is room on the disk for more readings. Below a floor there is none: what is left is for the store to work
// with, and an SQLite that has run out of disk can neither store nor delete.

export interface Room {
  /** False from the moment at which less than the floor is free, to that at which there is a quarter more than that. */
  isOpen(): boolean;
  /** As measured last. */
  freeBytes(): number;
  readonly minFreeBytes: number;
  /** Takes note of what is free now. */
  note(freeBytes: number): void;
}

/** What is free swings a little, as files come and go. */
const hysteresis = 1.25;

/** Open until something else is noted. `minFreeBytes` 0: always open. */
export function createRoom(minFreeBytes: number): Room {
  let isOpen = true;
  let free = Infinity;
  return {
    isOpen: () => isOpen,
    freeBytes: () => free,
    minFreeBytes,
    note(freeBytes) {
      free = freeBytes;
      isOpen = freeBytes >= minFreeBytes * (isOpen ? 1 : hysteresis);
    },
  };
}

// The gateway's own alert: the disk is nearly full. It is told like those of devices, with no device and no rule, to
// webhooks and to who watches live. When it began is kept: a restart neither repeats nor forgets it.

/** Since when there has been no room for readings; 0: there is. */
const sinceName = "disk.full_since";

export interface DiskState {
  hasRoom: boolean;
  freeBytes: number;
  minFreeBytes: number;
}

/** True where what was told last is not so any more. */
export const isRoomChanged = (ctx: Ctx, hasRoom: boolean): boolean =>
  ((readProgress(ctx, sinceName) ?? 0) === 0) !== hasRoom;

/** Raises the alert, or ends it. */
export function tellRoom(ctx: Ctx, { hasRoom, freeBytes, minFreeBytes }: DiskState): void {
  if (!isRoomChanged(ctx, hasRoom)) return;
  const triggeredAt = hasRoom ? (readProgress(ctx, sinceName) as number) : ctx.now();
  setProgress(ctx, sinceName, hasRoom ? 0 : triggeredAt);
  const event = hasRoom ? "alert.resolved" : "alert.triggered";
  const data = {
    alertId: `disk-${triggeredAt}`,
    ruleId: null,
    deviceId: null,
    sensor: null,
    condition: "disk_full",
    threshold: minFreeBytes,
    severity: "critical",
    value: freeBytes,
    triggeredAt: formatInstant(triggeredAt),
    ...(hasRoom && { resolvedAt: formatInstant(ctx.now()) }),
  };
  enqueueEvent(ctx, event, data);
  ctx.emit("alert", { event, deviceId: "", data });
}
