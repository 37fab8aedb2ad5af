import { createClient, type Client } from "./client.ts";
import { copyDataset, openDataset, type Dataset } from "./dataset.ts";
import { makeFolder, receive, startGateway, startLoad, startScript, type Gateway } from "./processes.ts";
import { atMost, median, quantile, type Figure } from "./report.ts";
import { logIn } from "./rest.ts";
import { makeStore } from "./store.ts";

// What charts and lists ask for, of a store of ten million readings, as a client gets it over HTTP: how long it takes, and
// what it does to the PUBACKs of a device that goes on sending meanwhile.

/** Sensors that are asked for in turn, so that no answer is simply the last one again. */
const asked = 5;
const devices = 1_000;
const pageOfDevices = 100;
const readingsPerSecond = 100;
const env = { LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "1000000", LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "10000000" };

interface Query {
  name: string;
  goal: number;
  /** One after the other make up the query. */
  paths: string[];
  /** What an answer must look like. */
  check(bodies: string[]): boolean;
}

type Points = { data: { value: number; count?: number }[] };
const parse = (body: string): Points["data"] => (JSON.parse(body) as Points).data;

/** The queries of a sensor. */
function listQueries({ sensorIds, deviceIds, from, readings }: Dataset, index: number): Query[] {
  const [sensorId, deviceId] = [sensorIds[index], deviceIds[index]];
  const data = `/v1/data/${deviceId}?sensor=${sensorId}`;
  const year = `${data}&from=${new Date(from).toISOString()}&aggregation`;
  const expected = readings / sensorIds.length;
  /** Clocks differ, and readings are added meanwhile. */
  const isYear = (count: number): boolean => count > expected * 0.999 && count < expected * 1.2;
  const sum = (body: string): number => parse(body).reduce((total, { count = 0 }) => total + count, 0);
  return [
    {
      name: "latest 100 of a sensor",
      goal: 2,
      paths: [`/sensor-readings?sensor_id=${sensorId}&limit=100`],
      check: ([body = ""]) => (JSON.parse(body) as unknown[]).length === 100,
    },
    {
      name: "latest 100 of a sensor, /v1 with their total",
      goal: 2,
      paths: [`${data}&limit=100`],
      check: ([body = ""]) => parse(body).length === 100,
    },
    {
      name: "a year by hour",
      goal: 15,
      paths: [`${year}=avg&interval=1h`],
      check: ([body = ""]) => parse(body).length >= 8_760 && isYear(sum(body)),
    },
    {
      name: "a year by day in Europe/Ljubljana",
      goal: 15,
      paths: [`${year}=avg&interval=1d&tz=Europe/Ljubljana`],
      check: ([body = ""]) => parse(body).length >= 365 && parse(body).length <= 368 && isYear(sum(body)),
    },
    {
      name: "min and max of a year",
      goal: 5,
      paths: [`${year}=min`, `${year}=max`],
      check: ([min = "", max = ""]) =>
        parse(min).length === 1 && (parse(min)[0]?.value as number) < (parse(max)[0]?.value as number),
    },
  ];
}

async function ask(client: Client, { name, paths, check }: Query): Promise<number> {
  let total = 0;
  const bodies: string[] = [];
  for (const path of paths) {
    const { ms, body } = await client.get(path);
    total += ms;
    bodies.push(body);
  }
  if (!check(bodies)) throw new Error(`${name}: not the answer that was expected: ${bodies.join("").slice(0, 300)}`);
  return total;
}

async function time(client: Client, variants: Query[], times: number, warmUp = 30): Promise<number[]> {
  const found: number[] = [];
  for (let i = -warmUp; i < times; i++) {
    const ms = await ask(client, variants[(i + warmUp) % variants.length] as Query);
    if (i >= 0) found.push(ms);
  }
  return found;
}

/** A query of each kind, for some sensors. */
function listVariants(dataset: Dataset): Query[][] {
  const bySensor = Array.from({ length: asked }, (_, i) => listQueries(dataset, 1 + i * 2));
  return (bySensor[0] as Query[]).map((_, kind) => bySensor.map((queries) => queries[kind] as Query));
}

interface DevicePage {
  devices: { lastReading: string | null; lastValue: number | null }[];
}

/** The list of a thousand devices, page by page. */
const listOfDevices: Query = {
  name: `list of ${devices.toLocaleString("en")} devices with last values`,
  goal: 10,
  paths: Array.from(
    { length: devices / pageOfDevices },
    (_, page) => `/v1/devices?include=lastReading&limit=${pageOfDevices}&offset=${page * pageOfDevices}`,
  ),
  check(bodies) {
    const listed = bodies.flatMap((body) => (JSON.parse(body) as DevicePage).devices);
    return (
      listed.length === devices &&
      listed.every(({ lastReading, lastValue }) => lastReading !== null && typeof lastValue === "number")
    );
  },
};

/** PUBACKs of one device: with a query running all the time, and without. */
async function measureHindrance(
  gateway: Gateway,
  client: Client,
  queries: readonly Query[],
  sensorIds: string[],
  seconds: number,
): Promise<Figure[]> {
  await using load = await startLoad();
  let firstValue = 0;
  const run = async (): Promise<number[]> => {
    const messages = readingsPerSecond * seconds;
    const order = { topic: "lambdaiot", connections: 1, inFlight: 1, perSecond: readingsPerSecond, isTimed: true };
    const { latencies } = await load.run({ ...order, port: gateway.mqttPort, messages, sensorIds, firstValue });
    firstValue += messages;
    return latencies;
  };
  await run();
  const calm: number[] = [];
  const hindered: number[][] = [];
  for (const query of queries) {
    calm.push(...(await run()));
    const over = new AbortController();
    const asking = (async () => {
      while (!over.signal.aborted) await ask(client, query);
    })();
    hindered.push(await run());
    over.abort();
    await asking;
  }
  const reference = quantile(calm, 0.99);
  return [
    {
      what: `queries: PUBACK p50 / p99 at ${readingsPerSecond} readings/s, no query`,
      measured: `${quantile(calm, 0.5).toFixed(2)} / ${reference.toFixed(2)} ms`,
    },
    ...queries.map(({ name }, i) => {
      const p99 = quantile(hindered[i] as number[], 0.99);
      const figure = atMost(`queries: PUBACK p99 during “${name}” ÷ without`, p99 / reference, 2);
      return { ...figure, measured: `${figure.measured} (${p99.toFixed(2)} ms)` };
    }),
  ];
}

async function measureDevices(): Promise<Figure> {
  using folder = makeFolder();
  await makeStore(folder.path, devices, 5, { sensorsOfDevice: 1 });
  await using gateway = await startGateway(folder.path, { env });
  using client = createClient(gateway.url, await logIn(gateway.url));
  const ms = median(await time(client, [listOfDevices], 50));
  return atMost(`queries: ${listOfDevices.name}`, ms, listOfDevices.goal, "ms");
}

export async function measureQueries(): Promise<Figure[]> {
  const dataset = await openDataset({ sensors: 100, days: 365 });
  using folder = makeFolder();
  copyDataset(dataset, folder.path);
  await using gateway = await startGateway(folder.path, { env });
  using client = createClient(gateway.url, await logIn(gateway.url));
  const variants = listVariants(dataset);
  const figures: Figure[] = [];
  for (const queries of variants) {
    const [{ name, goal }] = queries as [Query];
    figures.push(atMost(`queries: ${name}`, median(await time(client, queries, 100)), goal, "ms"));
  }
  figures.push(await measureDevices());
  const first = variants.map(([query]) => query as Query);
  return [...figures, ...(await measureHindrance(gateway, client, first, dataset.sensorIds.slice(0, 10), 6))];
}

/** The same queries beside a bare web server that returns the same bytes, over the readings of ten sensors. */
export async function measureQueriesShort(): Promise<Figure[]> {
  const dataset = await openDataset({ sensors: 10, days: 365 });
  using folder = makeFolder();
  copyDataset(dataset, folder.path);
  await using gateway = await startGateway(folder.path, { env });
  const token = await logIn(gateway.url);
  using client = createClient(gateway.url, token);
  const figures: Figure[] = [];
  for (const queries of listVariants(dataset)) {
    const [query] = queries as [Query];
    const bodies: string[] = [];
    for (const path of query.paths) bodies.push((await client.get(path)).body);
    const bare: Query = { ...query, paths: query.paths.map(() => "/sensor-readings"), check: () => true };
    await using hono = await startScript("bare-hono.ts");
    const listening = receive<number>(hono.child);
    hono.child.send(bodies[0] as string);
    using bareClient = createClient(`http://127.0.0.1:${await listening}`, token);
    const ratios: number[] = [];
    let ms = 0;
    for (let round = 0; round < 3; round++) {
      const warmUp = round === 0 ? 30 : 5;
      // The quick ones among them: what else the machine does hits the long queries harder than the short answers.
      ms = quantile(await time(client, queries, 30, warmUp), 0.1);
      ratios.push(quantile(await time(bareClient, [bare], 30, warmUp), 0.1) / ms);
    }
    figures.push({
      what: `queries: bare Hono ÷ ${query.name}`,
      measured: `${median(ratios).toFixed(2)} (${ms.toFixed(2)} ms)`,
      ratio: median(ratios),
    });
  }
  return figures;
}
