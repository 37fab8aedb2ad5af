import { setTimeout as sleep } from "node:timers/promises";
import type { Domain } from "../core/ctx.ts";
import type { Bus } from "../core/events.ts";
import {
  carryOver,
  chooseCut,
  firstInstant,
  giveBack,
  measureStore,
  sweepStep,
  type RetentionPolicy,
  type StoreSize,
} from "../core/retention.ts";
import { floorTo, readWatermark, rollupWidths } from "../core/rollups.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import { startPeriodic, type Job } from "./periodic.ts";

export interface RetentionOptions {
  domain: Domain;
  bus: Bus;
  log: Log;
  counters: Counters;
  now: () => number;
  policy: RetentionPolicy;
  /** What the store's file may take up; 0: what it needs. */
  maxBytes: number;
  /** Whether there is room on the disk. */
  hasRoom: () => boolean;
  everyMs?: number;
}

/** Alerts and webhooks look at what has come within seconds: what is as old as that, they have seen. */
const intervalMs = 10_000;
/** What a device brings along that is too old to be kept is looked for so often. */
const sweepEveryMs = 10 * 60 * 1_000;
/** Between two steps everybody else has a turn, several at the least. */
const pauseMs = 10;
/** A clock that leaps so far may be wrong: a day's readings are not to go for that, nor all of them. */
const leapMs = rollupWidths.day;
const restMs = 60 * 60 * 1_000;
/** Where the store is too large, it becomes so much smaller that this does not come again at once. */
const shareAfter = 0.95;
/** What is free in the file is used again. More than this, and than a tenth of it, is given back. */
const keptFreeBytes = 4 * 1024 * 1024;
/** A millisecond or two, each of them moved from the file's end. */
const pagesPerStep = 64;

const system = { kind: "system" } as const;

/** Removes what is older than it is to be kept, or too much, in small steps, and gives back what the disk may need. */
export function startRetention({
  domain,
  bus,
  log,
  counters,
  now,
  policy,
  maxBytes,
  hasRoom,
  everyMs = intervalMs,
}: RetentionOptions): Job {
  const stopping = new AbortController();
  const lastId = (): number => domain.read(system, ({ readings }) => readings.lastId());
  const summedUpTo = (): number => domain.read(system, readWatermark);
  /** Readings up to there have been here for an interval, and those up to `nextSeenId` will have been. */
  let seenId = lastId();
  let nextSeenId = seenId;
  let notedAt = performance.now();
  let looked = { at: notedAt, clock: now() };
  let restsUntil = -Infinity;
  let sweptAt = -Infinity;
  let sweptDay: number | undefined;
  /** Asked for, and to be done once more until everything up to there has been seen. */
  let wantedUpTo: number | undefined;

  const pause = (): Promise<void> => sleep(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined); // aborted: the loop ends
  const measure = (): StoreSize => domain.read(system, measureStore);
  const usedBytes = ({ bytes, freeBytes }: StoreSize): number => bytes - freeBytes;

  function look(): void {
    const at = performance.now();
    if (at - notedAt >= everyMs * 0.9) {
      notedAt = at;
      seenId = nextSeenId;
      nextSeenId = lastId();
    }
    if (Math.abs(now() - looked.clock - (at - looked.at)) > leapMs) {
      restsUntil = at + restMs;
      log.warn("the clock was set by more than a day: for an hour nothing is removed for its age");
    }
    looked = { at, clock: now() };
  }

  /** @returns how many readings were removed */
  async function sweep(before: number, reason: "age" | "size"): Promise<number> {
    const done = { readings: 0, rollups: 0 };
    for (let afterPk: number | undefined = 0; afterPk !== undefined && !stopping.signal.aborted;) {
      const from: number = afterPk;
      const step = await domain.commit(system, (ctx) => sweepStep(ctx, { policy, before, upToId: seenId }, from));
      afterPk = step.afterPk;
      counters.increment(`retention.readings.${reason}`, step.readings);
      counters.increment("retention.rollups", step.rollups);
      done.readings += step.readings;
      done.rollups += step.rollups;
      if (step.readings + step.rollups > 0) await pause();
    }
    if (done.readings + done.rollups > 0) log.info("old readings removed, their sums kept", { reason, ...done });
    return done.readings;
  }

  async function sweepOld(): Promise<void> {
    const at = performance.now();
    const today = floorTo(now(), rollupWidths.day);
    if (at < restsUntil || (wantedUpTo === undefined && sweptDay === today && at - sweptAt < sweepEveryMs)) return;
    const wanted = wantedUpTo;
    await sweep(firstInstant, "age");
    if (wanted !== undefined && wanted === wantedUpTo && Math.min(seenId, summedUpTo()) >= wanted)
      wantedUpTo = undefined;
    sweptAt = at;
    sweptDay = today;
  }

  async function shrink(): Promise<void> {
    if (maxBytes === 0 || usedBytes(measure()) <= maxBytes) return;
    while (!stopping.signal.aborted && usedBytes(measure()) > maxBytes * shareAfter) {
      const cut = domain.read(system, chooseCut);
      if (cut === undefined) {
        counters.increment("retention.too_large");
        log.sampled("retention.too_large", "the store is larger than database.max_size, and no reading is left to go");
        return;
      }
      // What is left until the next time has just come.
      if ((await sweep(cut, "size")) === 0) return;
    }
  }

  /** Bytes of the file that nothing is in and that are to be given back, so many at once. */
  function excessOf({ bytes, freeBytes, pageBytes }: StoreSize): number {
    if (!hasRoom()) return freeBytes;
    const overCap = maxBytes > 0 ? Math.min(freeBytes, bytes - maxBytes) : 0;
    if (overCap > 0) return overCap;
    const overKept = freeBytes - Math.max(keptFreeBytes, bytes / 10);
    // Not page by page as they become free.
    return overKept < pagesPerStep * pageBytes ? 0 : overKept;
  }

  async function giveBackFree(): Promise<void> {
    let isGiven = false;
    for (let size = measure(); !stopping.signal.aborted; size = measure()) {
      const pages = Math.min(pagesPerStep, Math.ceil(excessOf(size) / size.pageBytes));
      if (pages <= 0) break;
      await domain.commit(system, (ctx) => giveBack(ctx, pages));
      counters.increment("retention.bytes", size.bytes - measure().bytes);
      isGiven = true;
      await pause();
    }
    // Where nothing is stored, the log would not be carried over by itself, and the file stay as long as it is.
    if (isGiven && !hasRoom()) domain.read(system, carryOver);
  }

  const job = startPeriodic({
    name: "retention",
    log,
    intervalMs: everyMs,
    async run() {
      look();
      await sweepOld();
      await shrink();
      await giveBackFree();
    },
  });
  const unsubscribe = bus.on("retention.changed", () => {
    wantedUpTo = lastId();
    job.wake();
  });

  return {
    async stop() {
      unsubscribe();
      stopping.abort();
      await job.stop();
    },
  };
}
