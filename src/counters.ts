// Counts of what was dropped, refused or went wrong. Every limit of the gateway has one, so that nothing is lost quietly.

export interface Counters {
  /** Adds `by` (default 1) to the counter `name`, which comes into being with its first use. */
  increment(name: string, by?: number): void;
  /** The counter's value; 0 for one that never counted. */
  get(name: string): number;
  /** All that ever counted. */
  snapshot(): Record<string, number>;
}

/** Names are dotted and fixed in the source, never taken from input: the map cannot grow with traffic. */
export function createCounters(): Counters {
  const counts = new Map<string, number>();
  return {
    increment(name, by = 1) {
      counts.set(name, (counts.get(name) ?? 0) + by);
    },
    get: (name) => counts.get(name) ?? 0,
    snapshot: () => Object.fromEntries(counts),
  };
}
