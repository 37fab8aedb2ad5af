import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { expect, it } from "vitest";

// A path in a document is a promise that there is something at it.

const root = new URL("../../", import.meta.url).pathname;

const pages = [
  "README.md",
  "CONTRIBUTING.md",
  "CHANGELOG.md",
  "test/faults.md",
  ...readdirSync(join(root, "docs"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".md"))
    .map((file) => join("docs", file)),
];

/** Links, without those to other sites and to places within a page. */
const listLinks = (text: string): string[] =>
  [...text.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = ""]) => target.replace(/#.*$/, ""))
    .filter((target) => target !== "" && !/^[a-z]+:/i.test(target));

/** Paths of this repository that are named as code, in prose or in a tree. `dist` and `data` come with a build and a run. */
const listPaths = (text: string): string[] =>
  [
    ...text.matchAll(/(?<![\w/.-])(?:src|test|docs|drizzle)\/[\w./-]*|(?<=`)[\w.-]+\.(?:mjs|ts|toml|json|md)(?=`)/g),
  ].map(([path]) => path.replace(/\.$/, ""));

it.each(pages)("%s leads nowhere that is not there", (page) => {
  const text = readFileSync(join(root, page), "utf8");
  const here = dirname(join(root, page));
  // What the build makes is named without its folder where it has been copied.
  const built = new Set(["lambdaiot.mjs"]);
  const missing = [
    ...listLinks(text).map((target) => join(here, target)),
    ...listPaths(text)
      .filter((path) => !built.has(path))
      .map((path) => join(root, path)),
  ].filter((path) => !existsSync(path));
  expect(missing.map((path) => relative(root, path))).toEqual([]);
});

it("finds links and paths where there are some", () => {
  expect(listLinks("[a](docs/a.md#b) [c](https://example.com) [d](#e)")).toEqual(["docs/a.md"]);
  expect(listPaths("`src/nowhere.ts`, in `config.toml`; test/none/ and http://x/docs/y")).toEqual([
    "src/nowhere.ts",
    "config.toml",
    "test/none/",
  ]);
});

it("lists every decision in the index of decisions", () => {
  const index = listLinks(readFileSync(join(root, "docs/adr/README.md"), "utf8"));
  const decisions = readdirSync(join(root, "docs/adr")).filter((file) => /^\d{4}-/.test(file));
  expect(index.toSorted()).toEqual(decisions.toSorted());
});
