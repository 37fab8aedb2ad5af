import { request, type ClientRequest } from "node:http";
import { afterEach, beforeEach, expect, test } from "vitest";
import { logIn, until, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// Clients that ask for what takes long and do not wait for it.

let gateway: LocalGateway;
let api: Api;
let isClosed: boolean;

beforeEach(async () => {
  gateway = await startLocalGateway();
  isClosed = false;
  api = await logIn(gateway.url);
  await api("POST", "/v1/devices", { id: "d", name: "d", type: "t" });
  const start = Date.UTC(2026, 0);
  for (let done = 0; done < 20_000; done += 1_000) {
    const points = Array.from({ length: 1_000 }, (_, i) => ({
      timestamp: new Date(start + (done + i) * 1_000).toISOString(),
      value: i,
    }));
    await api("POST", "/v1/data/d", points);
  }
});
const close = async (): Promise<void> => {
  if (!isClosed) await gateway.close();
  isClosed = true;
};
afterEach(close);

const farBack = "/sensor-readings?limit=100&page=190";

function ask(): ClientRequest {
  const asked = request(gateway.url + farBack, { agent: false, headers: { Authorization: `Bearer ${api.token}` } });
  return asked.on("error", () => undefined).end();
}

async function readMetric(name: string): Promise<number> {
  const { body } = await api("GET", "/metrics");
  const line = (body as string).split("\n").find((each) => each.startsWith(`${name} `)) ?? "";
  return Number(line.slice(name.length));
}
const countUnderWay = async (): Promise<number> => (await readMetric("lambdaiot_http_requests_under_way")) - 1;
const countLeft = (): Promise<number> => readMetric('lambdaiot_http_requests_total{dialect="root",status="none"}');

test("what nobody waits for any more is given up: the gateway ends, and logs no error", async () => {
  const asked = Array.from({ length: 200 }, ask);
  await until(async () => (await countUnderWay()) > 50);
  for (const each of asked) each.destroy();
  await until(async () => (await countUnderWay()) === 0);
  expect(await countLeft()).toBeGreaterThan(0);
  await close();
  for (let round = 0; round < 300; round++) await new Promise(setImmediate);
  expect(gateway.log().match(/request failed.{0,200}/)?.[0]).toBeUndefined();
});
