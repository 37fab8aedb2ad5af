import { crc32 } from "node:zlib";
import type { Ctx, Domain } from "./ctx.ts";

// A reading without `value_at` carries nothing that would tell a resend from a new reading of the same value, except
// where the protocol says so: the same packet identifier, the same payload, and the DUP flag [MQTT-3.3.1-1]. So the
// fingerprints of the last ones stored are kept beside the readings themselves: a device whose PUBACK a power cut
// swallowed sends again, and is known.

export interface ResendGuard {
  /**
   * Commits `verb`, unless it is a resend of something that has been committed or is about to be: then it settles with
   * that one. `undefined` as result where the original was stored before. `verb` stores the fingerprint with its reading.
   */
  commitOnce<T>(fingerprint: number, isMarkedDup: boolean, verb: (ctx: Ctx) => T): Promise<T | undefined>;
}

/**
 * 48 bits: a checksum of who sent it and its bytes, and its packet identifier. Consulted for DUP alone, so chance matches
 * do not matter, and a digest would cost as much as all the rest of a message's way to the store.
 */
export const fingerprintMessage = (clientId: string, messageId: number, payload: Uint8Array): number =>
  crc32(payload, crc32(clientId)) * 65_536 + messageId;

/**
 * Holds the last `size` numbers added, in a ring. A Set alone would do, but to find its oldest member it passes by the
 * places of all that have gone, which took a tenth of a reading's time.
 */
function createRecentSet(size: number, first: readonly number[]) {
  const ring: number[] = [];
  /** Where in the ring each was put last. */
  const places = new Map<number, number>();
  let next = 0;
  const add = (member: number): void => {
    const oldest = ring[next];
    if (oldest !== undefined && places.get(oldest) === next) places.delete(oldest);
    ring[next] = member;
    places.set(member, next);
    next = (next + 1) % size;
  };
  for (const member of first) add(member);
  return {
    add,
    has: (member: number): boolean => places.has(member),
    remove: (member: number): void => void places.delete(member),
  };
}

/** `window`: how many fingerprints are kept. */
export function createResendGuard(domain: Domain, window: number): ResendGuard {
  const pending = new Map<number, Promise<unknown>>();
  const known = createRecentSet(
    window,
    domain.read({ kind: "system" }, ({ readings }) => readings.fingerprints(window)),
  );

  return {
    commitOnce<T>(fingerprint: number, isMarkedDup: boolean, verb: (ctx: Ctx) => T) {
      if (isMarkedDup) {
        const original = pending.get(fingerprint);
        if (original !== undefined) return original as Promise<T>;
        // In its turn, as many steps from the commit as the others: acknowledgements go out in the order in which the
        // messages came.
        if (known.has(fingerprint)) return domain.commit({ kind: "device" }, () => undefined).then(() => undefined);
      }
      const forget = (): void => {
        if (pending.get(fingerprint) === committed) pending.delete(fingerprint);
      };
      const committed = domain.commit({ kind: "device" }, verb).then(
        (result) => {
          forget();
          // Only now: what memory knew before its COMMIT would let a device's next try be acknowledged and lost.
          known.add(fingerprint);
          return result;
        },
        (error: unknown) => {
          forget();
          // The packet identifier was in use for this one, which is lost: an earlier one of the same bytes must not
          // pass for it when the device tries again.
          known.remove(fingerprint);
          throw error;
        },
      );
      pending.set(fingerprint, committed);
      return committed;
    },
  };
}
