import type { Ctx, Domain } from "../../core/ctx.ts";
import type { Counters } from "../../counters.ts";
import type { Log } from "../../log.ts";

// How the broker's state gets into the store: before an acknowledgement, or behind what nobody waits for.

export interface WriteOptions {
  domain: Domain;
  log: Log;
  counters: Counters;
}

export interface Writes {
  /** Settles when it is durable, or rejects: then nothing of it is stored. */
  commit<T>(verb: (ctx: Ctx) => T): Promise<T>;
  /** Writes what no acknowledgement waits for. */
  behind(verb: (ctx: Ctx) => void): void;
  /** Counts and logs a write behind that failed. */
  fail(message: string, error: unknown): void;
}

const system = { kind: "system" } as const;

export function createWrites({ domain, log, counters }: WriteOptions): Writes {
  const commit = <T>(verb: (ctx: Ctx) => T): Promise<T> => domain.commit(system, verb);
  function fail(message: string, error: unknown): void {
    counters.increment("mqtt.persistence_errors");
    log.sampled("mqtt.persistence", message, { error });
  }
  return {
    commit,
    behind(verb) {
      commit(verb).catch((error: unknown) => fail("the broker's state could not be written", error));
    },
    fail,
  };
}
