import type { Log } from "../log.ts";

export interface Job {
  /** Stops, and waits for what is under way. */
  stop(): Promise<void>;
}

export interface PeriodicJob extends Job {
  /** Runs it now, or once more after the run that is under way. */
  wake(): void;
}

export interface PeriodicOptions {
  name: string;
  log: Log;
  intervalMs: number;
  /** Long work asks `isStopping` between its steps. */
  run: (isStopping: () => boolean) => Promise<void>;
}

/** Runs work again and again, never twice at once. Work that fails is logged, and tried again when its time comes. */
export function startPeriodic({ name, log, intervalMs, run }: PeriodicOptions): PeriodicJob {
  let isStopping = false;
  let isWanted = false;
  let running: Promise<void> | undefined;

  async function runWhileWanted(): Promise<void> {
    while (isWanted) {
      isWanted = false;
      try {
        await run(() => isStopping);
      } catch (error) {
        log.sampled(`job.${name}`, "background work failed; it will be tried again", { job: name, error });
      }
    }
    running = undefined;
  }

  const wake = (): void => {
    if (isStopping) return;
    isWanted = true;
    running ??= runWhileWanted();
  };
  const timer = setInterval(wake, intervalMs);

  return {
    wake,
    async stop() {
      isStopping = true;
      isWanted = false;
      clearInterval(timer);
      await running;
    },
  };
}
