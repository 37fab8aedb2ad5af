import { startMosquitto } from "./mosquitto.ts";
import { makeFolder, receive, startGateway, startScript } from "./processes.ts";
import { rate, ratio, type Figure } from "./report.ts";
import type { FanoutOrder, FanoutResult } from "./fanout-load.ts";

// One publisher to 100 subscribers: deliveries a second, beside Debian's mosquitto.

const rounds = 5;
const subscribers = 100;
const messages = 2_000;
const window = 64;

export async function measureFanout(): Promise<Figure[]> {
  using folder = makeFolder();
  const env = { LAMBDAIOT_MQTT_MAX_CONNECTIONS_PER_ADDRESS: String(2 * subscribers) };
  await using gateway = await startGateway(folder.path, { env });
  await using mosquitto = await startMosquitto(folder.path);
  await using load = await startScript("fanout-load.ts");

  const deliveriesPerSecond = async (port: number, qos: 0 | 1): Promise<number> => {
    const order: FanoutOrder = { port, subscribers, qos, messages, window };
    const result = receive<FanoutResult>(load.child);
    load.child.send(order);
    return (messages * subscribers) / (await result).seconds;
  };

  const figures: Figure[] = [];
  for (const qos of [0, 1] as const) {
    const ours: number[] = [];
    const theirs: number[] = [];
    // The first round is for the compilers to warm up.
    for (let round = 0; round <= rounds; round++) {
      const rates = [
        await deliveriesPerSecond(gateway.mqttPort, qos),
        mosquitto && (await deliveriesPerSecond(mosquitto.port, qos)),
      ] as const;
      if (round === 0) continue;
      ours.push(rates[0]);
      if (rates[1] !== undefined) theirs.push(rates[1]);
    }
    figures.push(rate(`fanout: deliveries to ${subscribers} subscribers, QoS ${qos}`, ours, "/s"));
    if (mosquitto === undefined) continue;
    figures.push(
      rate(`fanout: mosquitto, QoS ${qos}`, theirs, "/s"),
      ratio(`fanout: QoS ${qos} ÷ mosquitto`, ours, theirs, 0.5),
    );
  }
  if (mosquitto === undefined) figures.push({ what: "fanout: mosquitto is not installed", measured: "skipped" });
  return figures;
}
