/** How topic filters are written, for the library that matches them. */
export const topicWildcards = { wildcard_one: "+", wildcard_some: "#", separator: "/" };

/** Whether a filter, split into levels, matches a topic's (section 4.7 of MQTT 3.1.1). */
export function matchesTopic(filter: readonly string[], topic: readonly string[]): boolean {
  // [MQTT-4.7.2-1]
  if (topic[0]?.startsWith("$") === true && (filter[0] === "#" || filter[0] === "+")) return false;
  for (const [i, level] of filter.entries()) {
    if (level === "#") return true;
    if (i >= topic.length || (level !== "+" && level !== topic[i])) return false;
  }
  return filter.length === topic.length;
}
