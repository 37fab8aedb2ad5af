/**
 * What makes a random test repeatable: print it, and `LAMBDAIOT_TEST_SEED=1 npx vitest run test/durability` gives the
 * same moments again.
 */
export const seed = Number(process.env["LAMBDAIOT_TEST_SEED"] ?? Date.now() % 1_000_000);

/** Numbers from 0 up to 1, the same ones for the same seed (Mulberry32). */
export function createRandom(state: number): () => number {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
