import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import type { Duplex } from "node:stream";
import { StartError } from "../core/errors.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import type { SecurePort } from "../tls/tls.ts";
import type { Gate } from "./gate.ts";

export interface ListenerOptions {
  gate: Gate;
  log: Log;
  counters: Counters;
  host: string | undefined;
  port: number;
  /** Where there is a certificate: TLS on a port of its own. */
  secure: SecurePort | undefined;
  /** At once, on each port. */
  maxConnections: number;
  /** Gets every connection that the gate lets in. */
  handle: (connection: Duplex) => void;
}

export interface Listeners {
  /** The ports listened on, the real ones where 0 was asked for. */
  port: number;
  securePort: number | undefined;
  isListening(): boolean;
  /** Accepts nobody any more; those who are here stay. */
  close(): void;
  /** Ends what is still open: whoever has not said CONNECT is no client of the broker's, which would end with it. */
  cutOff(): void;
}

/** Opens the broker's ports. @throws {StartError} where one is taken or not allowed */
export async function openListeners(options: ListenerOptions): Promise<Listeners> {
  const { gate, log, counters, secure, maxConnections, handle } = options;
  const servers: Server[] = [];
  const sockets = new Set<Socket>();

  async function listen(
    { host, port }: { host: string | undefined; port: number },
    key: string,
    take: (socket: Socket) => void,
  ): Promise<number> {
    const server = createServer(take);
    server.maxConnections = maxConnections;
    server.on("connection", (socket) => {
      sockets.add(socket);
      socket.once("close", () => sockets.delete(socket));
    });
    server.on("drop", () => counters.increment("mqtt.connections_dropped"));
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      // All devices come back at once after a restart: whom the system turns away tries again after a second, then three.
      server.listen({ port, backlog: maxConnections, ...(host !== undefined && { host }) }, resolve);
    }).catch((error: NodeJS.ErrnoException) => {
      close();
      throw new StartError(`the MQTT broker cannot listen on port ${port} (${key}): ${error.code ?? error.message}`);
    });
    server.on("error", (error) => log.error("MQTT listener error", { port, error }));
    servers.push(server);
    return (server.address() as AddressInfo).port;
  }
  const close = (): void => servers.forEach((server) => void server.close());

  const port = await listen(options, "mqtt.port", (socket) => {
    const connection = gate.admitSocket(socket);
    if (connection !== undefined) handle(connection);
  });
  let securePort: number | undefined;
  if (secure !== undefined) {
    const { tls } = secure;
    // It listens nowhere itself: whoever has too many connections costs no handshake.
    const handshakes = createTlsServer(tls.serverOptions(), (socket) => handle(gate.admitSecured(socket)));
    tls.attach(handshakes);
    securePort = await listen(secure, "tls.mqtts_port", (socket) => {
      if (gate.reserve(socket)) handshakes.emit("connection", socket);
    });
  }
  return {
    port,
    securePort,
    isListening: () => servers.every((server) => server.listening),
    close,
    cutOff: () => sockets.forEach((socket) => void socket.destroy()),
  };
}
