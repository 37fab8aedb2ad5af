import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { bundle, makeFolder, testEnv } from "../support/gateway.ts";
import { liveThrough } from "./life.ts";

// dist/lambdaiot.mjs on its own, far from the project and its node_modules.

let folder: string;
let remove: () => void;
let copy: string;

beforeEach(() => {
  ({ folder, remove } = makeFolder());
  copy = join(folder, "lambdaiot.mjs");
  copyFileSync(bundle, copy);
});
afterEach(() => remove());

/** The machine's own Node, where that is one of those on which lambdaiot does not run. */
const oldNode = (process.env["PATH"] ?? "")
  .split(delimiter)
  .map((directory) => join(directory, "node"))
  .filter((file) => existsSync(file))
  .find((file) => Number(/^v(\d+)/.exec(spawnSync(file, ["--version"], { encoding: "utf8" }).stdout)?.[1]) < 24);

function run(node: string, args: readonly string[] = []) {
  const env = { PATH: "", ...testEnv };
  const { status, stdout, stderr } = spawnSync(node, [...args, copy], { cwd: folder, env, encoding: "utf8" });
  return { status, stdout, stderr };
}

describe("the bundle, copied alone into an empty folder", () => {
  test("takes a reading over MQTT, gives it back over REST, and stops when told to", async () => {
    await liveThrough({ command: [process.execPath, "lambdaiot.mjs"], folder });
    expect(readdirSync(folder).toSorted()).toEqual(["data", "lambdaiot.mjs"]);
  });

  test("leaves nothing where temporary files go", async () => {
    const temporary = join(folder, "tmp");
    mkdirSync(temporary);
    await liveThrough({ command: [process.execPath, "lambdaiot.mjs"], folder, env: { TMPDIR: temporary } });
    expect(readdirSync(temporary)).toEqual([]);
  });

  test("runs where nothing can be put among temporary files, and leaves only its own beside the store", async () => {
    const env = { TMPDIR: join(folder, "absent") };
    await liveThrough({ command: [process.execPath, "lambdaiot.mjs"], folder, env });
    expect(readdirSync(join(folder, "data")).filter((name) => name.startsWith("lambdaiot-"))).toEqual([]);
  });

  const because = oldNode === undefined ? " (skipped: none on the PATH)" : "";
  test.skipIf(oldNode === undefined)(`tells an older Node in one line what it needs${because}`, () => {
    const { version } = JSON.parse(
      spawnSync(oldNode as string, ["-p", "JSON.stringify({ version: process.versions.node })"], { encoding: "utf8" })
        .stdout,
    ) as { version: string };
    expect(run(oldNode as string)).toEqual({
      status: 1,
      stdout: "",
      stderr: `lambdaiot: Node ${version} is too old; it runs on 24 and newer\n`,
    });
  });

  test.each(["arm", "ia32"])("tells a 32-bit system (%s) in one line what it needs", (arch) => {
    const pretend = `data:text/javascript,Object.defineProperty(process,"arch",{value:${JSON.stringify(arch)}})`;
    const { status, stdout, stderr } = run(process.execPath, ["--import", pretend]);
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
    expect(stderr).toMatch(/^lambdaiot: this is a 32-bit system .*64-bit Raspberry Pi OS\n$/);
  });

  test("names the systems that it was built for on one of another kind", () => {
    const pretend = `data:text/javascript,Object.defineProperty(process,"arch",{value:"riscv64"})`;
    const { status, stderr } = run(process.execPath, ["--import", pretend]);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^lambdaiot: this build does not run on \w+-riscv64; it was built for .*linux-arm64.*\n$/);
  });
});
