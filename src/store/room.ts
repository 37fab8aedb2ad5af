// Whether there is room on the disk for more readings. Below a floor there is none: what is left is for the store to work
// with, and an SQLite that has run out of disk can neither store nor delete.

export interface Room {
  /** False from the moment at which less than the floor is free, to that at which there is a quarter more than that. */
  isOpen(): boolean;
  /** As measured last. */
  freeBytes(): number;
  readonly minFreeBytes: number;
  /** Takes note of what is free now. */
  note(freeBytes: number): void;
}

/** What is free swings a little, as files come and go. */
const hysteresis = 1.25;

/** Open until something else is noted. `minFreeBytes` 0: always open. */
export function createRoom(minFreeBytes: number): Room {
  let isOpen = true;
  let free = Infinity;
  return {
    isOpen: () => isOpen,
    freeBytes: () => free,
    minFreeBytes,
    note(freeBytes) {
      free = freeBytes;
      isOpen = freeBytes >= minFreeBytes * (isOpen ? 1 : hysteresis);
    },
  };
}
