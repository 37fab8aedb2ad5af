import type { Log } from "../log.ts";
import type { Db, Store } from "../store/open.ts";
import type { Readings } from "../store/readings.ts";
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
  /** The wall clock, epoch milliseconds. */
  now: () => number;
  emit: Emit;
  log: Log;
  actor: Actor;
}

/** The domain's two doors. Verbs are synchronous; only the wait for the disk is not. */
export interface Domain {
  /** Runs a verb that only reads. */
  read<T>(actor: Actor, verb: (ctx: Ctx) => T): T;
  /**
   * Runs a verb that writes in the next shared transaction. Settles after COMMIT; the verb's events are emitted then,
   * and only then. A verb may run twice (see Writer.submit): apart from the store it changes nothing.
   */
  commit<T>(actor: Actor, verb: (ctx: Ctx) => T): Promise<T>;
}

export interface DomainOptions {
  store: Store;
  bus: Bus;
  log: Log;
  now?: () => number;
}

type Held = { [K in EventName]: { name: K; event: EventMap[K] } }[EventName];

const emitNothing: Emit = (name) => {
  throw new Error(`${name} emitted by a verb that only reads`);
};

export function createDomain({ store, bus, log, now = Date.now }: DomainOptions): Domain {
  return {
    read: (actor, verb) => verb({ db: store.db, readings: store.readings, now, emit: emitNothing, log, actor }),
    commit(actor, verb) {
      // Of the run that was committed: a verb may run twice.
      let held: Held[] = [];
      const emit: Emit = (name, event) => void held.push({ name, event } as Held);
      const work = () => {
        held = [];
        return verb({ db: store.db, readings: store.readings, now, emit, log, actor });
      };
      // Not async functions, here and on the rest of a reading's way: each would cost it two more promises.
      return store.writer.submit(work).then((result) => {
        for (const { name, event } of held) bus.emit(name, event);
        return result;
      });
    },
  };
}
