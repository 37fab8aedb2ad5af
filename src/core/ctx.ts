import { NoRoomError } from "./errors.ts";
import type { Log } from "../log.ts";
import type { Db, Store } from "../store/open.ts";
import type { Readings } from "../store/readings.ts";
import type { Sightings } from "../store/sightings.ts";
import type { Sources } from "../store/sources.ts";
import { createTurns, type Steps } from "../steps.ts";
import type { Job } from "../store/writer.ts";
import { createDamageWatch } from "./damage.ts";
import type { Bus, Emit, EventMap, EventName } from "./events.ts";

/** Who asks. */
export type Actor =
  | { kind: "system" }
  | { kind: "anonymous" }
  | { kind: "device" } // over MQTT, without an identity of its own
  | { kind: "user"; id: string; username: string; role: "admin" | "member" }
  | { kind: "access-key"; purchaseId: string }; // what was bought, whoever brings the key

/** What every verb of the domain gets as its first argument. */
export interface Ctx {
  db: Db;
  readings: Readings;
  sources: Sources;
  sightings: Sightings;
  /** The wall clock, epoch milliseconds. */
  now: () => number;
  /** Whether there is room for more readings (see core/disk). */
  hasRoom: () => boolean;
  emit: Emit;
  /** Whether anybody listens for an event: some come by the thousand. */
  isHeard: Bus["isHeard"];
  log: Log;
  actor: Actor;
}

/** The domain's doors. Verbs are synchronous, or steps that are; only the wait for the disk, and for one's turn, is not. */
export interface Domain {
  /** Runs a verb that only reads. */
  read<T>(actor: Actor, verb: (ctx: Ctx) => T): T;
  /**
   * {@link read} for a verb that takes more than a millisecond. Between two steps others read and write: a verb that needs
   * all of one moment sees to it (see `ofOneMoment`). Where `isWanted` says no between them, it rejects with `GivenUpError`.
   */
  readInSteps<T>(actor: Actor, verb: (ctx: Ctx) => Steps<T>, isWanted?: () => boolean): Promise<T>;
  /**
   * Runs a verb that writes in the next shared transaction. Settles after COMMIT; the verb's events are emitted then,
   * and only then. A verb may run twice (see Writer.submit): apart from the store it changes nothing.
   */
  commit<T>(actor: Actor, verb: (ctx: Ctx) => T): Promise<T>;
  /** {@link commit} for what devices say, thousands of times a second: an object each, and no promise. */
  enqueue(work: Work): void;
}

export interface DomainOptions {
  store: Store;
  bus: Bus;
  log: Log;
  now?: () => number;
  /** Told each time that the store finds its own file damaged. */
  onDamage?: () => void;
  /** Absent: there always is. */
  hasRoom?: () => boolean;
  /** Told of each work that was refused for want of room. */
  onRefusal?: () => void;
}

type Held = { [K in EventName]: { name: K; event: EventMap[K] } }[EventName];

/** What the works of one domain share. */
interface Scope {
  ctx: Ctx;
  /** The work that runs now: what is emitted is its. */
  current: Work | undefined;
  bus: Bus;
  /** What an error of the store's is for whoever asked. */
  explain(error: unknown): unknown;
}

/** A verb with what it needs and what comes of it. */
export abstract class Work implements Job {
  scope: Scope | undefined;
  /** Events of the run that was committed: a work may run twice. */
  held: Held[] | undefined;

  /** Runs in a transaction that others share, perhaps twice: apart from the store it changes nothing but this object. */
  protected abstract apply(ctx: Ctx): void;
  /** It is durable, or, with an error, it is not and never will be. */
  protected abstract finish(error: unknown): void;

  run(): void {
    const scope = this.scope as Scope;
    scope.current = this;
    this.held = undefined;
    this.apply(scope.ctx);
  }

  settle(error?: unknown): void {
    if (error === undefined && this.held !== undefined) {
      for (const { name, event } of this.held) (this.scope as Scope).bus.emit(name, event);
    }
    this.finish(error === undefined ? undefined : (this.scope as Scope).explain(error));
  }
}

const emitNothing: Emit = (name) => {
  throw new Error(`${name} emitted by a verb that only reads`);
};

export function createDomain({
  store,
  bus,
  log,
  now = Date.now,
  hasRoom = () => true,
  onRefusal,
  onDamage,
}: DomainOptions): Domain {
  const { db, readings, sources, sightings, writer } = store;
  const turns = createTurns();
  const open = (actor: Actor, emit: Emit): Ctx => ({
    db,
    readings,
    sources,
    sightings,
    now,
    hasRoom,
    emit,
    isHeard: bus.isHeard,
    log,
    actor,
  });
  const explainDamage = createDamageWatch(log, onDamage);
  const explain = (error: unknown): unknown => {
    if (error instanceof NoRoomError) onRefusal?.();
    return explainDamage(error);
  };
  store.onStored((count) => bus.emit("readings.stored", { count }));
  const scope: Scope = {
    ctx: open({ kind: "device" }, (name, event) => {
      const work = scope.current as Work;
      (work.held ??= []).push({ name, event } as Held);
    }),
    current: undefined,
    bus,
    explain,
  };
  return {
    read(actor, verb) {
      try {
        return verb(open(actor, emitNothing));
      } catch (error) {
        throw scope.explain(error);
      }
    },
    async readInSteps(actor, verb, isWanted) {
      return await turns.run(verb(open(actor, emitNothing)), isWanted).catch((error: unknown) => {
        throw scope.explain(error);
      });
    },
    async commit(actor, verb) {
      // Of the run that was committed: a verb may run twice.
      let held: Held[] = [];
      const ctx = open(actor, (name, event) => void held.push({ name, event } as Held));
      const result = await writer
        .submit(() => {
          held = [];
          return verb(ctx);
        })
        .catch((error: unknown) => {
          throw scope.explain(error);
        });
      for (const { name, event } of held) bus.emit(name, event);
      return result;
    },
    enqueue(work) {
      work.scope = scope;
      writer.enqueue(work);
    },
  };
}
