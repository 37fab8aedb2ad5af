import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

// What stands between the network and Aedes.

/** A device that has vanished without a word is noticed by TCP itself, also where it asked for no keep-alive. */
const tcpKeepAliveMs = 60_000;

/** Readies a TCP connection for the broker. */
export function admitSocket(socket: Socket): Duplex {
  socket.setNoDelay(true); // a PUBACK waits for nothing
  socket.setKeepAlive(true, tcpKeepAliveMs);
  return admitStream(socket);
}

/**
 * Readies any connection for the broker. Aedes reads once each time that it is told of data, and takes it that it gets
 * all there is; from Node 26 on `read()` gives one chunk of it, and the rest of a message would lie there unread.
 */
export function admitStream(stream: Duplex): Duplex {
  const read = stream.read.bind(stream);
  stream.read = (size?: number | null): unknown => read(size ?? (stream.readableLength || undefined));
  return stream;
}
