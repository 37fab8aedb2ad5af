import { expect, test } from "vitest";
import { matchesTopic } from "../../src/mqtt/topics.ts";

// Section 4.7 of MQTT 3.1.1, its own examples among them.
test.each<[string, string, boolean]>([
  ["sport/tennis/player1/#", "sport/tennis/player1", true],
  ["sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true],
  ["sport/tennis/+", "sport/tennis/player1", true],
  ["sport/tennis/+", "sport/tennis/player1/ranking", false],
  ["sport/+", "sport", false],
  ["sport/+", "sport/", true],
  ["+/+", "/finance", true],
  ["/+", "/finance", true],
  ["+", "/finance", false],
  ["#", "a/b", true],
  ["a", "a", true],
  ["a", "A", false],
  ["a/b", "a", false],
  ["#", "$SYS/x", false],
  ["+/x", "$SYS/x", false],
  ["$SYS/#", "$SYS/x", true],
])("%s and %s: %s", (filter, topic, expected) => {
  expect(matchesTopic(filter.split("/"), topic.split("/"))).toBe(expected);
});
