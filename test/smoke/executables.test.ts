import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readdirSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { embed } from "../../build.mjs";
import { makeFolder } from "../support/gateway.ts";
import { liveThrough } from "./life.ts";

// The self-contained executables, each alone in an empty folder and without a Node in reach.

const root = new URL("../..", import.meta.url).pathname;
const targets = ["linux-x64", "linux-arm64"] as const;
type Target = (typeof targets)[number];

const buildMs = 300_000; // the base of another processor's executable is a download of 57 MB the first time
const emulatedMs = 180_000;

const build = (...args: string[]) =>
  spawnSync(process.execPath, ["build.mjs", ...args], { cwd: root, encoding: "utf8" });

/** What runs an executable for `target` on this machine, or `undefined` where nothing here does. */
function findRunner(target: Target): readonly string[] | undefined {
  if (`${process.platform}-${process.arch}` === target) return [];
  if (process.platform !== "linux" || target !== "linux-arm64") return undefined;
  const libraries = ["/lib/ld-linux-aarch64.so.1", "/usr/lib/aarch64-linux-gnu/libatomic.so.1"];
  if (!libraries.every((file) => existsSync(file))) return undefined;
  const emulator = ["qemu-aarch64", "qemu-aarch64-static"]
    .flatMap((name) => (process.env["PATH"] ?? "").split(delimiter).map((directory) => join(directory, name)))
    .find((file) => existsSync(file));
  return emulator === undefined ? undefined : [emulator];
}

const whyNot: Record<Target, string> = {
  "linux-x64": " (skipped: this is no such machine)",
  "linux-arm64": " (skipped: needs qemu-user-static, libc6:arm64, libstdc++6:arm64 and libatomic1:arm64)",
};

/** A piece out of the middle of a target's addon, as it stands in whatever carries it. */
function takeTrace(target: Target): string {
  const { contents } = embed("embedded:addons", [target]);
  const middle = Math.floor(contents.length / 2);
  return contents.slice(middle, middle + 200);
}

describe.each(targets)("the executable for %s", (target) => {
  const executable = join(root, "dist", `lambdaiot-${target}`);
  const runner = findRunner(target);
  const because = runner === undefined ? whyNot[target] : "";
  let folder: string;
  let remove: () => void;

  beforeEach(() => ({ folder, remove } = makeFolder()));
  afterEach(() => remove());

  test("is built, with its own SQLite addon and no other", { timeout: buildMs }, () => {
    const { status, stderr } = build("--quiet", "--executable", target);
    expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
    const bytes = readFileSync(executable);
    expect(targets.filter((each) => bytes.includes(takeTrace(each)))).toEqual([target]);
  });

  test.skipIf(runner === undefined)(
    `takes a reading over MQTT, gives it back over REST, and stops when told to${because}`,
    { timeout: emulatedMs },
    async () => {
      copyFileSync(executable, join(folder, "lambdaiot"));
      const command = [...(runner as readonly string[]), join(folder, "lambdaiot")];
      await liveThrough({ command, folder, env: { PATH: "" } });
      expect(readdirSync(folder).toSorted()).toEqual(["data", "lambdaiot"]);
    },
  );

  test.skipIf(runner === undefined)(`reads its arguments${because}`, () => {
    const [file, ...args] = [...(runner as readonly string[]), executable, "--config", "absent.toml"];
    const { status, stdout, stderr } = spawnSync(file, args, { cwd: folder, env: {}, encoding: "utf8" });
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    expect(stderr).toMatch(/^lambdaiot: .*absent\.toml.*\n$/);
  });
});

test("no executable is built for a target that nobody has tried, and the line says which there are", () => {
  const { status, stdout, stderr } = build("--executable", "darwin-arm64");
  expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
  expect(stderr).toMatch(
    /^build: no executable can be built for darwin-arm64, only for linux-x64 and linux-arm64;.*\n$/,
  );
});
