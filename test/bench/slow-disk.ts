import { spawnSync } from "node:child_process";

/**
 * What runs a program so that each wait for the disk takes so much longer, as on an SD card, and leaves it the process that
 * was started; or why that cannot be done here.
 */
export function slowDown(ms: number): { by: string[] } | { reason: string } {
  if (spawnSync("strace", ["-V"]).error !== undefined) return { reason: "strace is not installed" };
  const calls = "fsync,fdatasync";
  // Only these two calls stop for it, and it stays behind the program instead of in front of it.
  const trace = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", `trace=${calls}`];
  const by = [...trace, "-e", `inject=${calls}:delay_exit=${ms * 1_000}`];
  return spawnSync(by[0] as string, [...by.slice(1), "true"]).status === 0
    ? { by }
    : { reason: "strace may not trace here" };
}
