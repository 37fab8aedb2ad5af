import { statfsSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { isRoomChanged, tellRoom, type Room } from "../core/disk.ts";
import type { Domain } from "../core/ctx.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import { startPeriodic, type Job } from "./periodic.ts";

/** At full speed a gateway writes ten megabytes in that time. */
const intervalMs = 1_000;

const system = { kind: "system" } as const;

export interface DiskOptions {
  domain: Domain;
  room: Room;
  /** A folder on the store's disk. */
  folder: string;
  log: Log;
  counters: Counters;
  everyMs?: number;
}

/** Looks how much of the disk is free, at once and from then on, and raises an alert where it is too little. */
export function startDisk({ domain, room, folder, log, counters, everyMs = intervalMs }: DiskOptions): Job {
  function note(freeBytes: number): void {
    const wasOpen = room.isOpen();
    room.note(freeBytes);
    if (room.isOpen() === wasOpen) return;
    const { minFreeBytes } = room;
    if (room.isOpen()) {
      log.info("there is room on the disk again: readings are stored", { freeBytes, minFreeBytes });
      return;
    }
    counters.increment("store.floors");
    log.error("the disk is nearly full: readings are neither stored nor acknowledged until there is room", {
      freeBytes,
      minFreeBytes,
    });
  }

  // A folder that is gone, a disk that was pulled out, has no room.
  try {
    const { bavail, bsize } = statfsSync(folder);
    note(bavail * bsize);
  } catch {
    note(0);
  }
  const job = startPeriodic({
    name: "disk",
    log,
    intervalMs: everyMs,
    async run() {
      const free = await statfs(folder).catch(() => undefined);
      note(free === undefined ? 0 : free.bavail * free.bsize);
      const state = { hasRoom: room.isOpen(), freeBytes: room.freeBytes(), minFreeBytes: room.minFreeBytes };
      if (domain.read(system, (ctx) => isRoomChanged(ctx, state.hasRoom)))
        await domain.commit(system, (ctx) => tellRoom(ctx, state));
    },
  });
  job.wake();
  return job;
}
