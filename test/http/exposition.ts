// A strict reader of Prometheus' text format 0.0.4, as its documentation has it, and stricter where every client library
// is: HELP and TYPE before the samples, once; samples of a family together; counters end with `_total`.

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

export interface Family {
  name: string;
  type: "counter" | "gauge";
  help: string;
  samples: Sample[];
}

const metricName = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const labelName = /^[a-zA-Z_][a-zA-Z0-9_]*$/;
const floatText = /^(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|NaN|[+-]Inf)$/;

/** @throws {Error} with the line that is wrong */
export function parseExposition(text: string): Map<string, Family> {
  const families = new Map<string, Family>();
  const seen = new Set<string>();
  let current: { name: string; help?: string; type?: string } | undefined;
  if (!text.endsWith("\n")) throw new Error("the last line has no end");
  for (const [i, line] of text.slice(0, -1).split("\n").entries()) {
    const fail = (why: string): never => {
      throw new Error(`line ${i + 1}: ${why}: ${line}`);
    };
    if (line === "" || line !== line.trim() || line.includes("\r")) fail("empty or padded");
    const comment = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line);
    if (comment !== null) {
      const [, kind, name = "", rest = ""] = comment;
      if (!metricName.test(name)) fail("not a metric's name");
      if (kind === "HELP") {
        if (families.has(name) || current?.name === name) fail("a second HELP");
        if (rest.replaceAll(/\\[\\n]/g, "").includes("\\")) fail("an escape that is none");
        current = { name, help: rest.replaceAll(/\\[\\n]/g, (escape) => (escape === "\\n" ? "\n" : "\\")) };
        continue;
      }
      if (current?.name !== name || current.help === undefined || current.type !== undefined) fail("TYPE without HELP");
      if (rest !== "counter" && rest !== "gauge") return fail("not a type that is used here");
      if ((rest === "counter") !== name.endsWith("_total")) fail("_total is for counters, and all of them");
      families.set(name, { name, type: rest, help: current?.help ?? "", samples: [] });
      current = { name, help: "", type: rest };
      continue;
    }
    if (line.startsWith("#")) fail("a comment of no use");
    const { name, labels, value } = parseSample(line, fail);
    const family = families.get(name);
    if (family === undefined || current?.name !== name || current.type === undefined) return fail("not in its family");
    const key = name + JSON.stringify(Object.entries(labels).toSorted(([a], [b]) => (a < b ? -1 : 1)));
    if (seen.has(key)) fail("a second sample");
    seen.add(key);
    const first = family.samples[0];
    if (first !== undefined && Object.keys(first.labels).join() !== Object.keys(labels).join()) fail("other labels");
    if (family.type === "counter" && !(value >= 0)) fail("a counter below 0");
    family.samples.push({ name, labels, value });
  }
  for (const { name, samples } of families.values()) if (samples.length === 0) throw new Error(`${name} has no sample`);
  return families;
}

function parseSample(line: string, fail: (why: string) => never): Sample {
  const name = /^[^\s{]+/.exec(line)?.[0] ?? "";
  if (!metricName.test(name)) fail("not a metric's name");
  let rest = line.slice(name.length);
  const labels: Record<string, string> = {};
  if (rest.startsWith("{")) {
    rest = rest.slice(1);
    while (!rest.startsWith("}")) {
      const pair = /^([^=]*)="((?:[^"\\]|\\["\\n])*)"(,(?=[^}])|(?=\}))/.exec(rest);
      if (pair === null) return fail("labels that are none");
      const [whole, label = "", word = ""] = pair;
      if (!labelName.test(label) || label.startsWith("__") || Object.hasOwn(labels, label)) fail("not a label's name");
      labels[label] = word.replaceAll(/\\["\\n]/g, (escape) => (escape === "\\n" ? "\n" : escape.slice(1)));
      rest = rest.slice(whole.length);
    }
    rest = rest.slice(1);
  }
  const value = /^ (\S+)$/.exec(rest)?.[1];
  if (value === undefined || !floatText.test(value)) return fail("not a value");
  return { name, labels, value: Number(value.replace("Inf", "Infinity")) };
}
