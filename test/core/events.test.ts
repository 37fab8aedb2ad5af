import { beforeEach, describe, expect, test } from "vitest";
import { createBus, type Bus } from "../../src/core/events.ts";
import { createLog } from "../../src/log.ts";

let lines: string[];
let bus: Bus;
beforeEach(() => {
  lines = [];
  bus = createBus(createLog({ level: "debug", write: (line) => void lines.push(line) }));
});

describe("the bus", () => {
  test("tells every listener of an event, and none of another", () => {
    const heard: unknown[] = [];
    bus.on("sensors.removed", (event) => void heard.push(["first", event]));
    bus.on("sensors.removed", (event) => void heard.push(["second", event]));
    bus.on("reading.stored", (event) => void heard.push(["other", event]));
    bus.emit("sensors.removed", { count: 2 });
    expect(heard).toEqual([
      ["first", { count: 2 }],
      ["second", { count: 2 }],
    ]);
  });

  test("needs no listener", () => {
    expect(() => bus.emit("sensors.removed", { count: 1 })).not.toThrow();
  });

  test("logs a listener that throws, and goes on with the others", () => {
    const heard: number[] = [];
    bus.on("sensors.removed", () => {
      throw new Error("out of order");
    });
    bus.on("sensors.removed", ({ count }) => void heard.push(count));
    expect(() => bus.emit("sensors.removed", { count: 1 })).not.toThrow();
    bus.emit("sensors.removed", { count: 2 });
    expect(heard).toEqual([1, 2]);
    expect(lines).toHaveLength(1); // sampled: once a minute
    expect(lines[0]).toContain('event=sensors.removed error="out of order"');
  });

  test("does not tell a listener that has been taken away, also by another one meanwhile", () => {
    const heard: string[] = [];
    const stop = bus.on("sensors.removed", () => void heard.push("first"));
    bus.emit("sensors.removed", { count: 1 });
    stop();
    stop();
    bus.emit("sensors.removed", { count: 1 });
    expect(heard).toEqual(["first"]);
    bus.on("sensors.removed", () => stopLater());
    const stopLater = bus.on("sensors.removed", () => void heard.push("later"));
    bus.emit("sensors.removed", { count: 1 });
    expect(heard).toEqual(["first"]);
  });
});
