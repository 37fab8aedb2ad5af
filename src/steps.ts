// Work that takes long is done in steps, and between them everybody else has a turn: the event loop never stands still for
// a chart of years.

/** Work that pauses where others may have a turn, every 0.1 ms or so, and returns what came of it. */
export type Steps<T> = Generator<undefined, T, undefined>;

/** Does all of the work now. */
export function runToEnd<T>(steps: Steps<T>): T {
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

/** Nobody waits for what would have come of a work any more. */
export class GivenUpError extends Error {
  constructor() {
    super("given up: nobody waits for it any more");
  }
}

export interface Turns {
  /**
   * Does the work in turn with everything else, and with other work of its kind. Rejects with what it throws, and with
   * {@link GivenUpError} where `isWanted`, asked before each turn, says that it need not be done.
   */
  run<T>(steps: Steps<T>, isWanted?: () => boolean): Promise<T>;
}

/** So much of each round of the event loop is for such work. */
const turnMs = 0.5;

interface Task {
  /** Goes on until the work is done or the turn is over. @returns true where it is done, well or not */
  goOn(until: number): boolean;
}

/** Half a millisecond in each round of the event loop, whatever number of works share it: each goes on in its order. */
export function createTurns(): Turns {
  const waiting: Task[] = [];
  /** When the turn of this round is over; `undefined`: nobody has gone on in this round or the last. */
  let until: number | undefined;
  /** What was asked for in this round has begun in it. */
  let hasBegun = false;

  function takeTurn(): void {
    if (hasBegun) hasBegun = false;
    else if (waiting.length === 0) {
      until = undefined;
      return;
    } else {
      until = performance.now() + turnMs;
      do {
        const task = waiting.shift() as Task;
        if (!task.goOn(until)) waiting.push(task);
      } while (waiting.length > 0 && performance.now() < until);
    }
    setImmediate(takeTurn);
  }

  /** @returns true where the work is done: most is, at once, where nobody waits */
  function begin(task: Task): boolean {
    if (waiting.length > 0) return false;
    const now = performance.now();
    if (until === undefined) {
      until = now + turnMs;
      hasBegun = true;
      setImmediate(takeTurn);
    }
    return now < until && task.goOn(until);
  }

  return {
    run: (steps, isWanted = () => true) =>
      new Promise((resolve, reject) => {
        const task: Task = {
          goOn(until) {
            try {
              if (!isWanted()) throw new GivenUpError();
              do {
                const step = steps.next();
                if (step.done === true) {
                  resolve(step.value);
                  return true;
                }
              } while (performance.now() < until);
              return false;
            } catch (error) {
              reject(error);
              return true;
            }
          },
        };
        if (!begin(task)) waiting.push(task);
      }),
  };
}
