import Sqlite, { type Database } from "better-sqlite3";
import { DomainError, DoubtError } from "../core/errors.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import { isDamage } from "./damage.ts";

// Group commit. What is committed counts when the disk has it, which takes 0.5 ms on an SSD and 10 to 50 ms on an SD card,
// whatever a commit carries. So everything that is asked for while one is on its way shares the next: a lone write is
// committed at once, and under load thousands share one wait. The wait itself is another thread's: the event loop goes on.

/** A write in an object of its own, for paths on which a promise each would cost more than the write. */
export interface Job {
  /**
   * Reads and writes the store, synchronously, and does nothing else. May run again: when another one of its transaction
   * fails half-way, all are undone and run again, each in a savepoint of its own.
   */
  run(): void;
  /** Called once: when what `run` did is durable, or with an error when it is not and never will be. Does not throw. */
  settle(error?: unknown): void;
}

export interface Writer {
  /** Runs a job in the next shared transaction. Jobs run, and are settled, in the order in which they were enqueued. */
  enqueue(job: Job): void;
  /**
   * {@link enqueue} for a function: settles with what `work` returned when that is durable, with the error that it threw,
   * and with `unavailable` when the commit failed or too many are waiting.
   */
  submit<T>(work: () => T): Promise<T>;
  /** Resolves when all that was submitted until now has settled. */
  drain(): Promise<void>;
  /** False from a failed commit to the next one that goes through. */
  isHealthy(): boolean;
  /** Works that wait now, and what the last commits took in milliseconds, a moving average. */
  stats(): { pending: number; commitMs: number };
  /** Drains, and takes nothing more. */
  close(): Promise<void>;
}

/** What keeps a part of the store in memory, and goes through the same transactions. */
export interface Participant {
  mark(): unknown;
  /** Whether anything has changed since the mark. */
  hasChanged(mark: unknown): boolean;
  /** Takes back what has happened since the mark; the store has done so already. */
  undo(mark: unknown): void;
  /** Writes down what has not been written yet. */
  beforeCommit(): void;
  /** The transaction is committed. */
  settle(): void;
  /** What has been committed counts, and everybody who waited has been told. */
  announce?(): void;
  /** How many of the changes that SQLite has counted were in memory alone: for those no disk is waited for. */
  volatileChanges?(): number;
}

export interface WriterOptions {
  /** Works that may wait; one more is refused. */
  maxPending: number;
  participant?: Participant;
  /** Calls back when all that has been committed is on the disk. Absent: COMMIT itself waits for that. */
  sync?: (done: (error: Error | null) => void) => void;
  /** What is to be done between two transactions; the next one begins when it calls back. */
  carryOver?: (done: () => void) => void;
  log: Log;
  counters: Counters;
}

/** Bounds how long the event loop stands still for one transaction. */
const maxBatch = 1_000;
/** Another program may hold the store's lock for a moment (a backup, a look with the sqlite3 shell). */
const busyRetryMs = 20;
const busyDeadlineMs = 10_000;
/** What one commit counts in the average. */
const averageWeight = 0.1;

/** The store's fault and not the work's. SQLite rolls all back by itself then, or only the statement; it may choose. */
const isStoreFailure = (error: unknown): boolean =>
  /^SQLITE_(?:FULL|IOERR)/.test((error as { code?: string }).code ?? "");

/** What went wrong with one job of a transaction; `undefined`: nothing. */
type Failure = { error: unknown } | undefined;

/** A job has met a damaged page. SQLite writes nothing more in that transaction, whoever asks for it. */
class Damage {
  readonly index: number;
  readonly error: unknown;

  constructor(index: number, error: unknown) {
    this.index = index;
    this.error = error;
  }
}

export function createWriter(
  sqlite: Database,
  { maxPending, participant, sync = (done) => done(null), carryOver = (done) => done(), log, counters }: WriterOptions,
): Writer {
  const begin = sqlite.prepare("BEGIN IMMEDIATE");
  const commit = sqlite.prepare("COMMIT");
  const rollback = sqlite.prepare("ROLLBACK");
  const savepoint = sqlite.prepare("SAVEPOINT work");
  const release = sqlite.prepare("RELEASE work");
  const undo = sqlite.prepare("ROLLBACK TO work");
  const totalChanges = sqlite.prepare<[], number>("SELECT total_changes()").pluck();

  const countLastingChanges = (): number => (totalChanges.get() as number) - (participant?.volatileChanges?.() ?? 0);

  let queue: Job[] = [];
  /** A transaction is about to begin, or is on its way to the disk. */
  let isBusy = false;
  let isClosed = false;
  let healthy = true;
  /** The disk did not take a commit: what it has of it is not known. */
  let isInDoubt = false;
  let busySince: number | undefined;
  let commitMs = 0;
  /** Where the participant stood when the transaction began that is running now. */
  let beginMark: unknown;

  function schedule(): void {
    if (isBusy || queue.length === 0) return;
    isBusy = true;
    // After the sockets that are readable now have been read: what they carry shares the commit.
    setImmediate(flush);
  }

  function next(): void {
    isBusy = false;
    schedule();
  }

  function flush(): void {
    if (!beginTransaction()) return;
    let jobs = queue.length <= maxBatch ? queue : queue.slice(0, maxBatch);
    queue = queue.length <= maxBatch ? [] : queue.slice(maxBatch);
    let failures: Failure[];
    const changesBefore = countLastingChanges();
    const startedAt = performance.now();
    try {
      failures = runUntilDamage(jobs);
      // What comes after it is the next transaction's.
      if (failures.length < jobs.length) {
        queue = [...jobs.slice(failures.length), ...queue];
        jobs = jobs.slice(0, failures.length);
      }
      participant?.beforeCommit();
      commit.run();
    } catch (error) {
      fail(jobs, error);
      next();
      return;
    }
    participant?.settle();
    beginMark = undefined;
    if (countLastingChanges() === changesBefore) {
      settle(jobs, failures);
      next();
      return;
    }
    sync((error) => {
      if (error === null) {
        commitMs += (performance.now() - startedAt - commitMs) * averageWeight;
        settle(jobs, failures);
        carryOver(next);
      } else {
        isInDoubt = true;
        fail(jobs, error, DoubtError);
        next();
      }
    });
  }

  function settle(jobs: Job[], failures: Failure[]): void {
    healthy = true;
    counters.increment("store.commits");
    for (let i = 0; i < jobs.length; i++) tell(jobs[i] as Job, failures[i]?.error);
    participant?.announce?.();
  }

  /** Whatever one does when it hears of it, the others are told too. */
  function tell(job: Job, error: unknown): void {
    try {
      job.settle(error);
    } catch (thrown) {
      log.error("a write was not taken note of", { error: thrown });
    }
  }

  /** @throws SQLITE_BUSY while somebody reads what the log holds: SQLite itself says so in its answer alone. */
  function resolveDoubt(): void {
    const [answer] = sqlite.pragma("wal_checkpoint(TRUNCATE)") as [{ busy: number }];
    if (answer.busy !== 0) throw new Sqlite.SqliteError("the log is being read", "SQLITE_BUSY");
  }

  /** False where the lock is not to be had now; the queue waits, up to a deadline, and the event loop goes on. */
  function beginTransaction(): boolean {
    try {
      if (isInDoubt) {
        // Carries all of the log into the store and waits for the disk: whatever it had missed, it has then.
        resolveDoubt();
        isInDoubt = false;
      }
      begin.run();
      busySince = undefined;
      beginMark = participant?.mark();
      return true;
    } catch (error) {
      busySince ??= performance.now();
      const isLocked = (error as { code?: string }).code?.startsWith("SQLITE_BUSY") === true;
      if (isLocked && performance.now() - busySince < busyDeadlineMs) {
        counters.increment("store.busy");
        setTimeout(flush, busyRetryMs);
      } else {
        busySince = undefined;
        const jobs = queue;
        queue = [];
        fail(jobs, error);
        next();
      }
      return false;
    }
  }

  /** @returns what became of all the jobs, or, where one met a damaged page, of those up to that one */
  function runUntilDamage(jobs: Job[]): Failure[] {
    let damage: Damage | undefined;
    for (;;) {
      const whole = damage === undefined ? jobs : jobs.slice(0, damage.index);
      try {
        const failures = runTogether(whole) ?? runApart(whole);
        if (damage !== undefined) failures[damage.index] = { error: damage.error };
        return failures;
      } catch (error) {
        if (!(error instanceof Damage)) throw error;
        damage = error;
        startAnew();
      }
    }
  }

  function startAnew(): void {
    rollback.run();
    participant?.undo(beginMark);
    begin.run();
  }

  /** The usual way: no savepoints. `undefined`, with everything undone, where a work failed and something had been written. */
  function runTogether(jobs: Job[]): Failure[] | undefined {
    const failures: Failure[] = jobs.map(() => undefined);
    const changesBefore = totalChanges.get();
    for (let i = 0; i < jobs.length; i++) {
      try {
        (jobs[i] as Job).run();
      } catch (error) {
        if (!sqlite.inTransaction || isStoreFailure(error)) throw error;
        if (isDamage(error)) throw new Damage(i, error);
        if (totalChanges.get() !== changesBefore || participant?.hasChanged(beginMark) === true) {
          startAnew();
          return undefined;
        }
        failures[i] = { error };
      }
    }
    return failures;
  }

  /** Each work in a savepoint, so that one that fails takes back its own writes and no other's. */
  function runApart(jobs: Job[]): Failure[] {
    return jobs.map((job, i) => {
      savepoint.run();
      const mark = participant?.mark();
      try {
        job.run();
        release.run();
        return undefined;
      } catch (error) {
        if (!sqlite.inTransaction || isStoreFailure(error)) throw error;
        if (isDamage(error)) throw new Damage(i, error);
        undo.run();
        participant?.undo(mark);
        release.run();
        return { error };
      }
    });
  }

  function fail(jobs: Job[], error: unknown, Refusal: typeof DoubtError | typeof DomainError = DomainError): void {
    if (sqlite.inTransaction) rollback.run();
    if (beginMark !== undefined) participant?.undo(beginMark);
    beginMark = undefined;
    healthy = false;
    counters.increment("store.commits_failed");
    log.sampled("store.commit", "commit failed: nothing of it was acknowledged", { error, works: jobs.length });
    const refusal = new Refusal("unavailable", "the store does not take writes now", { cause: error });
    for (const job of jobs) tell(job, refusal);
  }

  function enqueue(job: Job): void {
    if (isClosed || queue.length >= maxPending) {
      counters.increment("store.writes_refused");
      const reason = isClosed ? "the gateway is stopping" : "too many writes are waiting";
      job.settle(new DomainError("unavailable", reason, { retryAfterSeconds: 1 }));
      return;
    }
    queue.push(job);
    schedule();
  }

  const submit = <T>(work: () => T): Promise<T> =>
    new Promise<T>((resolve, reject) => {
      let value: T;
      enqueue({
        run: () => void (value = work()),
        settle(error) {
          if (error === undefined) resolve(value);
          else reject(error);
        },
      });
    });

  const hasWork = (): boolean => queue.length > 0 || isBusy;

  const drain = (): Promise<void> =>
    new Promise((resolve) => {
      if (!hasWork()) return resolve();
      // A job like any other, at the end of the line, and never refused: a full line is waited for too. Its failure has
      // told whoever submitted the ones before it.
      queue.push({ run: () => undefined, settle: () => resolve() });
      schedule();
    });

  return {
    enqueue,
    submit,
    drain,
    isHealthy: () => healthy,
    stats: () => ({ pending: queue.length, commitMs }),
    async close() {
      // What is submitted meanwhile is waited for too.
      while (hasWork()) await drain();
      isClosed = true;
    },
  };
}
