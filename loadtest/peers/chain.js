// The classic chain: a producer's WebSocket message is published to Redis, and what Redis hands to the subscriber goes to
// every consumer's WebSocket. Nothing is logged, stored or parsed: as little work as such a chain can do.
//
// Usage: node chain.js REDIS_PORT PRODUCER_PORT CONSUMER_PORT   (prints "ready" when both ports are open)

import { createServer } from "node:http";
import Redis from "ioredis";
import { WebSocketServer } from "ws";

const CHANNEL = "records";
const [redisPort, producerPort, consumerPort] = process.argv.slice(2).map(Number);

const publisher = new Redis(redisPort, "127.0.0.1", { noDelay: true });
const subscriber = new Redis(redisPort, "127.0.0.1", { noDelay: true });
await subscriber.subscribe(CHANNEL);

function listen(port) {
  const http = createServer();
  // Small messages must not wait for each other.
  http.on("connection", (socket) => socket.setNoDelay(true));
  const server = new WebSocketServer({ server: http, perMessageDeflate: false });
  return new Promise((resolve) => http.listen(port, () => resolve(server)));
}

const producers = await listen(producerPort);
const consumers = await listen(consumerPort);
producers.on("connection", (socket) => socket.on("message", (data) => publisher.publish(CHANNEL, data)));
subscriber.on("messageBuffer", (_channel, data) => {
  for (const socket of consumers.clients) socket.send(data, { binary: false });
});

console.log("ready");
