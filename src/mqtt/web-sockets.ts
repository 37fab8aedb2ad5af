import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { WebSocketServer, createWebSocketStream } from "ws";
import { readForwarded, resolvePeer } from "../core/peers.ts";
import type { Counters } from "../counters.ts";
import type { Gate } from "./gate.ts";

// MQTT over WebSocket (subprotocol `mqtt`), section 6 of MQTT 3.1.1.

export interface WebSocketOptions {
  gate: Gate;
  counters: Counters;
  trustedProxies: readonly string[];
  maxConnections: number;
  maxPacketBytes: number;
  /** Takes a connection that the gate has let in. */
  handle: (connection: Duplex, request: IncomingMessage) => void;
}

export interface WebSockets {
  /** Takes a connection over from the HTTP server. */
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Cuts all of them. */
  terminate(): void;
}

export function createWebSockets({
  gate,
  counters,
  trustedProxies,
  maxConnections,
  maxPacketBytes,
  handle,
}: WebSocketOptions): WebSockets {
  const server = new WebSocketServer({
    noServer: true,
    maxPayload: maxPacketBytes,
    perMessageDeflate: false,
    handleProtocols: (protocols) => ["mqtt", "mqttv3.1"].find((protocol) => protocols.has(protocol)) ?? false,
  });
  server.on("wsClientError", (_error, socket) => {
    counters.increment("mqtt.handshakes_refused");
    socket.once("finish", () => socket.destroy());
    socket.end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nSec-WebSocket-Version: 13\r\n\r\n");
  });
  return {
    handleUpgrade(request, socket, head) {
      if (server.clients.size >= maxConnections) {
        counters.increment("mqtt.connections_dropped");
        socket.destroy();
        return;
      }
      server.handleUpgrade(request, socket, head, (webSocket) => {
        const remote = request.socket.remoteAddress ?? "";
        const { address } = resolvePeer(remote, readForwarded(request.headers), trustedProxies);
        const connection = gate.admitStream(createWebSocketStream(webSocket), address);
        if (connection !== undefined) handle(connection, request);
      });
    },
    terminate() {
      for (const webSocket of server.clients) webSocket.terminate();
    },
  };
}
