// Who listens to a gateway: the receiver of a webhook, which takes its time, and a client of the live stream, which reads
// all there is and looks at none of it.
//
//   listeners.ts GATEWAY_URL TOKEN
//
// Says 0 once both listen; asked anything, it answers with what they have heard.
import { createServer, get } from "node:http";
import type { AddressInfo } from "node:net";

export interface Heard {
  deliveries: number;
  bytes: number;
  /** The stream has ended before this process did. */
  isCutOff: boolean;
}

const [, , url = "", token = ""] = process.argv;
const answerAfterMs = 50;

const heard: Heard = { deliveries: 0, bytes: 0, isCutOff: false };
const headers = { Authorization: `Bearer ${token}` };

const receiver = createServer((request, response) => {
  request.resume();
  request.once("end", () =>
    setTimeout(() => {
      heard.deliveries += 1;
      response.writeHead(204).end();
    }, answerAfterMs),
  );
});
await new Promise<void>((resolve) => receiver.listen(0, "127.0.0.1", resolve));
const { status } = await fetch(`${url}/v1/webhooks`, {
  method: "POST",
  headers: { ...headers, "Content-Type": "application/json" },
  body: JSON.stringify({
    url: `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`,
    events: ["data.received"],
  }),
});
if (status !== 201) throw new Error(`no webhook: ${status}`);

get(`${url}/v1/live`, { headers }, (response) => {
  if (response.statusCode !== 200) throw new Error(`no live stream: ${response.statusCode}`);
  response.on("data", (chunk: Buffer) => void (heard.bytes += chunk.length));
  response.once("close", () => void (heard.isCutOff = true));
  process.send?.(0);
});

process.on("message", () => process.send?.(heard));
process.on("disconnect", () => process.exit());
