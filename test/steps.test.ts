import { expect, test } from "vitest";
import { createTurns, GivenUpError, runToEnd, type Steps } from "../src/steps.ts";

/** Longer than a turn. */
function work(): void {
  const until = performance.now() + 2;
  while (performance.now() < until);
}

function* workOf(name: string, steps: number, seen: string[]): Steps<string> {
  for (let i = 0; i < steps; i++) {
    work();
    seen.push(name);
    yield;
  }
  return name;
}

/** Rounds of the event loop, for as long as `running` does. */
async function countRounds(running: Promise<unknown>): Promise<number> {
  let rounds = 0;
  const count = (): void => {
    rounds += 1;
    next = setImmediate(count);
  };
  let next = setImmediate(count);
  await running;
  clearImmediate(next);
  return rounds;
}

test("the event loop goes round between the steps of a long work", async () => {
  expect(await countRounds(createTurns().run(workOf("a", 10, [])))).toBeGreaterThanOrEqual(10);
});

test("several works share the turns: each goes on in its order, and the event loop between them", async () => {
  const turns = createTurns();
  const seen: string[] = [];
  const all = Promise.all(["a", "b", "c"].map((name) => turns.run(workOf(name, 4, seen))));
  const rounds = await countRounds(all);
  expect(await all).toEqual(["a", "b", "c"]);
  // The first has begun at once.
  expect(seen.slice(0, 7)).toEqual(["a", "a", "b", "c", "a", "b", "c"]);
  expect(rounds).toBeGreaterThanOrEqual(12);
});

test("what is short is done at once, until the turn of the round is over", async () => {
  const turns = createTurns();
  const seen: string[] = [];
  const short = function* (name: string): Steps<void> {
    seen.push(name);
    yield;
  };
  const running = [turns.run(short("a")), turns.run(workOf("long", 1, seen)), turns.run(short("b"))];
  expect(seen).toEqual(["a", "long"]);
  await Promise.all(running);
  expect(seen).toEqual(["a", "long", "b"]);
  await new Promise((resolve) => setTimeout(resolve));
  running.push(turns.run(short("c")));
  expect(seen).toEqual(["a", "long", "b", "c"]);
  await Promise.all(running);
});

test("a work that fails rejects, and the others go on", async () => {
  const turns = createTurns();
  const seen: string[] = [];
  const failing = function* (): Steps<void> {
    work();
    yield;
    throw new Error("no");
  };
  const [bad, good] = await Promise.allSettled([turns.run(failing()), turns.run(workOf("good", 3, seen))]);
  expect(bad).toMatchObject({ status: "rejected", reason: { message: "no" } });
  expect(good).toEqual({ status: "fulfilled", value: "good" });
});

test("a work that nobody wants any more is given up, and the others go on", async () => {
  const turns = createTurns();
  const seen: string[] = [];
  const isWanted = (): boolean => seen.filter((name) => name === "left").length < 2;
  const [left, good] = await Promise.allSettled([
    turns.run(workOf("left", 1_000, seen), isWanted),
    turns.run(workOf("good", 4, seen)),
  ]);
  expect(left).toMatchObject({ status: "rejected", reason: expect.any(GivenUpError) });
  expect(good).toEqual({ status: "fulfilled", value: "good" });
  expect(seen).toEqual(["left", "left", "good", "good", "good", "good"]);
});

test("all at once it comes to the same", () => {
  const seen: string[] = [];
  expect(runToEnd(workOf("a", 3, seen))).toBe("a");
  expect(seen).toEqual(["a", "a", "a"]);
});
