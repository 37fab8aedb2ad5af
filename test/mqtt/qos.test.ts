import { afterEach, describe, expect, test } from "vitest";
import { until } from "../support/client.ts";
import { cleanUp, connect, listen, start } from "./kit.ts";

// [MQTT-3.3.5-1]: a message arrives with the highest QoS of the subscriptions that match, and never a higher one than its own.

afterEach(cleanUp);

type Qos = 0 | 1 | 2;

const cases: { granted: [string, Qos][]; sent: Qos; arrives: Qos }[] = [
  { granted: [["w/#", 1]], sent: 2, arrives: 1 },
  {
    granted: [
      ["w/+", 0],
      ["w/a", 1],
    ],
    sent: 2,
    arrives: 1,
  },
  {
    granted: [
      ["w/a", 1],
      ["w/+", 0],
    ],
    sent: 2,
    arrives: 1,
  },
  {
    granted: [
      ["w/#", 2],
      ["w/a", 0],
    ],
    sent: 1,
    arrives: 1,
  },
  {
    granted: [
      ["w/a", 1],
      ["w/#", 2],
    ],
    sent: 2,
    arrives: 2,
  },
  {
    granted: [
      ["w/#", 0],
      ["other", 2],
    ],
    sent: 2,
    arrives: 0,
  },
];

describe.each(cases)("with $granted, what is sent with QoS $sent", ({ granted, sent, arrives }) => {
  test.each([true, false])(`arrives with QoS ${arrives}, once (clean: %s)`, async (clean) => {
    const gateway = await start();
    const { client, graded: seen } = await listen(gateway, { clean });
    for (const [filter, qos] of granted) await client.subscribeAsync(filter, { qos });
    const publisher = await connect(gateway);
    await publisher.publishAsync("w/a", "1", { qos: sent });
    await publisher.publishAsync("w/a", "end", { qos: sent });
    await until(() => seen.some((text) => text.endsWith("end")));
    expect(seen).toEqual([`${arrives} 1`, `${arrives} end`]);
    if (clean) return;
    await client.endAsync();
    // Nothing of it is left in the queue; what is sent now waits there with the same QoS.
    await publisher.publishAsync("w/a", "queued", { qos: sent });
    const { graded: later } = await listen(gateway);
    await publisher.publishAsync("w/a", "last", { qos: sent });
    await until(() => later.some((text) => text.endsWith("last")));
    expect(later).toEqual(arrives === 0 ? ["0 last"] : [`${arrives} queued`, `${arrives} last`]);
  });
});

test("a retained message arrives with no more than the QoS of the filter that it matches", async () => {
  const gateway = await start();
  const publisher = await connect(gateway);
  await publisher.publishAsync("r/a", "kept", { qos: 2, retain: true });
  const { client, graded: seen } = await listen(gateway);
  await client.subscribeAsync("r/#", { qos: 0 });
  await until(() => seen.length > 0);
  expect(seen).toEqual(["0 kept"]);
});
