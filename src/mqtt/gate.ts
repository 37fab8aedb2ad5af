import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

// What stands between the network and Aedes.

/** A device that has vanished without a word is noticed by TCP itself, also where it asked for no keep-alive. */
const tcpKeepAliveMs = 60_000;

/** Readies a TCP connection for the broker. */
export function admitSocket(socket: Socket): Duplex {
  socket.setNoDelay(true); // a PUBACK waits for nothing
  socket.setKeepAlive(true, tcpKeepAliveMs);
  return socket;
}
