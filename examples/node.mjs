// Motience with Node and @motience/client: register, log in, subscribe, send, receive, resume.
//
// Start a server first (`cargo run --release`). Install the client in the folder of this file, then run it:
//
//   (cd clients/ts && npm ci && npm pack)
//   cd examples && npm install ../clients/ts/motience-client-0.1.0.tgz && node node.mjs
//
// AP_URL, SM_URL, DSM_URL, WSS1_URL and WSS2_URL name services that are elsewhere.

import { ApiError, Motience, placesOf } from '@motience/client';

const { AP_URL, SM_URL, DSM_URL, WSS1_URL, WSS2_URL } = process.env;
const places = AP_URL
  ? { ap: AP_URL, sm: SM_URL, dsm: DSM_URL, wss1: WSS1_URL, wss2: WSS2_URL }
  : placesOf('localhost');

// A session of an account, which is made where it does not exist yet.
async function logIn(role) {
  const motience = new Motience(places);
  const account = [`node-${role}`, 'pass123'];
  await motience.session.register(...account, role).catch((error) => {
    if (!(error instanceof ApiError && error.status === 409)) throw error; // 409: the name is taken, by an earlier run.
  });
  await motience.session.logIn(...account);
  return motience;
}

// Prints so many records, and gives the cursor of the last one of each producer.
async function receive(motience, from, count) {
  const cursors = {};
  for await (const event of motience.consumer({ from })) {
    if (event.type !== 'record') {
      console.warn('notice:', event); // gap, reset, ended
      continue;
    }
    const { producer_id, data, cursor } = event.record;
    console.log('received', data, 'at', cursor);
    cursors[producer_id] = cursor;
    if (--count === 0) break;
  }
  return cursors;
}

const producing = await logIn('producer');
const consuming = await logIn('consumer');
const { user_id: producerId } = await producing.ap.verify(producing.session);
await consuming.sm.subscribe(consuming.session, producerId);
console.log('subscribed to producer', producerId);

const producer = producing.producer();
async function send(temperature) {
  await producer.send({ device_id: 'rpi_001', data: { temperature } });
  console.log('sent', temperature);
}

await send(20.5);
await send(21.5);
const cursors = await receive(consuming, 'earliest', 2);

// The consumer is away now. A record that is sent meanwhile waits in the log.
await send(22.5);
console.log('resuming after', cursors);
await receive(consuming, cursors, 1);
await producer.close();
