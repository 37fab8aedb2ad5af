import { Agent, get } from "node:http";

// One client that keeps its connection, and a clock: from the request to the last byte of the answer.

export interface Answer {
  ms: number;
  body: string;
}

export interface Client extends Disposable {
  /** @throws where the answer is not 200 */
  get(path: string): Promise<Answer>;
}

export function createClient(url: string, token: string): Client {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const headers = { Authorization: `Bearer ${token}` };
  const ask = (path: string): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const start = performance.now();
      const request = get(url + path, { agent, headers }, (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => void chunks.push(chunk));
        response.once("error", reject);
        response.once("end", () => {
          const ms = performance.now() - start;
          const body = Buffer.concat(chunks).toString();
          if (response.statusCode === 200) resolve({ ms, body });
          else reject(new Error(`${path}: ${response.statusCode} ${body}`));
        });
      });
      request.once("error", (error: NodeJS.ErrnoException) => {
        // The server has closed the connection, which nothing had been asked on for a while.
        if (request.reusedSocket && error.code === "ECONNRESET") resolve(ask(path));
        else reject(error);
      });
    });
  return { get: ask, [Symbol.dispose]: () => agent.destroy() };
}
