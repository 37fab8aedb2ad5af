// What Aedes does by itself: the gateway's own options, and hooks that pass everything at once.
import { createServer, type AddressInfo, type Socket } from "node:net";
import { Aedes } from "aedes";

const aedes = await Aedes.createBroker({
  concurrency: 1_000,
  connectTimeout: 10_000,
  drainTimeout: 5_000,
  queueLimit: 1_000,
  preConnect: (_client, _packet, done) => done(null, true),
  authenticate: (_client, _username, _password, done) => done(null, true),
  authorizePublish: (_client, _packet, done) => done(null),
  authorizeSubscribe: (_client, subscription, done) => done(null, subscription),
});
/** From Node 26 on `read()` gives one chunk, and Aedes takes it for all there is. */
function readAll(socket: Socket): Socket {
  const read = socket.read.bind(socket);
  socket.read = (size?: number): unknown => read(size ?? (socket.readableLength || undefined));
  return socket.setNoDelay(true);
}

const server = createServer((socket) => void aedes.handle(readAll(socket)));
server.listen(0, "127.0.0.1", () => process.send?.((server.address() as AddressInfo).port));
process.on("disconnect", () => process.exit());
