import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { once } from "node:events";
import { createServer } from "node:net";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { renderTable } from "../../src/config.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";

// What the README says can be done is done here, word for word.

const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");

it("lists every key of the configuration as it is now (npm run openapi writes the table)", () => {
  const table = /<!-- prettier-ignore-start -->\n\n([\s\S]*?)\n\n<!-- prettier-ignore-end -->/.exec(readme)?.[1];
  expect(table).toBe(renderTable());
});

/** The commands that a newcomer pastes. */
const example = /<!-- paste-in -->\n\n```sh\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
const ports = [8080, 1883];

const findProgram = (name: string): boolean =>
  (process.env["PATH"] ?? "").split(delimiter).some((folder) => existsSync(join(folder, name)));

async function isPortFree(port: number): Promise<boolean> {
  const server = createServer().listen(port);
  try {
    await once(server, "listening");
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}

const missing = ["bash", "curl", "sed", "mosquitto_pub"].filter((name) => !findProgram(name));
const taken: number[] = [];
for (const port of ports) if (!(await isPortFree(port))) taken.push(port);
const obstacles = [
  ...missing.map((name) => `${name} is not installed`),
  ...taken.map((port) => `port ${port} is taken`),
];
const skipNote = obstacles.length === 0 ? "" : `, skipped: ${obstacles.join(", ")}`;

describe.skipIf(obstacles.length > 0)(`the README's first steps on a new gateway${skipNote}`, () => {
  const { folder, remove } = makeFolder();
  let gateway: BuiltGateway;
  let output: string;

  beforeAll(async () => {
    gateway = await startBuiltGateway({
      folder,
      env: { LAMBDAIOT_SERVER_PORT: String(ports[0]), LAMBDAIOT_MQTT_PORT: String(ports[1]) },
    });
    const { stdout } = await promisify(execFile)("bash", ["-e", "-c", example]);
    output = stdout;
  });

  afterAll(async () => {
    await gateway?.stop();
    remove();
  });

  it("are no more than 20 lines", () => {
    const lines = example.trim().split("\n");
    expect(lines.filter((line) => line.trim() !== "").length).toBeLessThanOrEqual(20);
  });

  it("show the device, the new user, and the reading that was published", () => {
    const [devices, user, readings] = output
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown);
    expect(devices).toMatchObject([
      { id: "3814fb88-565c-5dc8-9b91-60d4002b6edc", name: "Room sensor", location: "Living room", status_id: 1 },
    ]);
    expect(user).toMatchObject({ username: "admin" });
    expect(readings).toMatchObject([{ id: 1, sensor_id: "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947", value: 21.5 }]);
  });
});
