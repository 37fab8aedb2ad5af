import type { Identity } from "../core/identities.ts";

// Who may publish and subscribe where. The gateway's own topics are for devices; of all others, a device that has a
// token may use those that the configuration's rules give it, and everybody else may use any.

export interface Speaker {
  identity: Identity;
  clientId: string;
  username: string;
}

export interface Acl {
  canPublish(speaker: Speaker, topic: string): boolean;
  /** `filter` as it was subscribed to, wildcards included. */
  canSubscribe(speaker: Speaker, filter: string): boolean;
}

export interface AclRule {
  access: "read" | "write" | "readwrite";
  /** A topic filter in which `%c` is the client id and `%u` the username. */
  pattern: string;
}

export function createAcl({ topic, rules }: { topic: string; rules: readonly AclRule[] }): Acl {
  const ownTopics = [topic, `${topic}/discovery`];

  const isGranted = (speaker: Speaker, wanted: string, access: "read" | "write"): boolean =>
    rules.some(
      (rule) =>
        (rule.access === "readwrite" || rule.access === access) &&
        covers(fillIn(rule.pattern.split("/"), speaker), wanted.split("/")),
    );

  return {
    canPublish(speaker, name) {
      if (name.startsWith("$")) return false; // the broker's own; text on some of them has crashed brokers
      return speaker.identity.kind !== "device" || ownTopics.includes(name) || isGranted(speaker, name, "write");
    },
    canSubscribe(speaker, filter) {
      const { identity } = speaker;
      if (filter.startsWith("$")) return identity.kind === "user" && identity.role === "admin";
      // What comes to a device on the shared topic is chosen message by message; see the broker's authorizeForward.
      return identity.kind !== "device" || filter === topic || isGranted(speaker, filter, "read");
    },
  };
}

/** A name with a wildcard or a slash in it would widen the rule: for such a client the rule is none. */
function fillIn(levels: readonly string[], { clientId, username }: Speaker): string[] | undefined {
  const values: Record<string, string> = { "%c": clientId, "%u": username };
  const filled: string[] = [];
  for (const level of levels) {
    for (const [sign, value] of Object.entries(values)) {
      if (level.includes(sign) && (value === "" || /[+#/]/.test(value))) return undefined;
    }
    filled.push(level.replaceAll(/%[cu]/g, (sign) => values[sign] as string));
  }
  return filled;
}

/** Whether everything that `filter` matches is matched by `pattern` too. */
function covers(pattern: readonly string[] | undefined, filter: readonly string[]): boolean {
  if (pattern === undefined) return false;
  for (const [i, level] of pattern.entries()) {
    if (level === "#") return true;
    const wanted = filter[i];
    if (wanted === undefined || wanted === "#") return false;
    if (level !== "+" && level !== wanted) return false;
  }
  return pattern.length === filter.length;
}
