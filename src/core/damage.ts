import type { Log } from "../log.ts";
import { isDamage } from "../store/damage.ts";
import { DomainError } from "./errors.ts";

/**
 * Tells `onDamage`, and the log what to do, each time that the store has found its file damaged.
 * @returns what an error becomes for whoever made the call: of damage, `unavailable`
 */
export const createDamageWatch =
  (log: Log, onDamage?: () => void) =>
  (error: unknown): unknown => {
    if (!isDamage(error)) return error;
    onDamage?.();
    log.sampled("store.damaged", "the store is damaged: restore a backup, or move it away to start anew", { error });
    return new DomainError("unavailable", "the store is damaged", { cause: error });
  };
