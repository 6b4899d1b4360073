// A consumer that survives everything: it keeps its cursors in a file, so that it continues where it was after a restart of the server,
// of the network or of itself. See node.mjs for how to install the client.
//
//   MOTIENCE_USERNAME=consumer1 PASSWORD=pass123 node consumer.mjs
//
// The process prints each record in the order of its producer's log, until it is stopped. A crash between the record and its cursor prints
// that record again: an application stores both in one transaction of its database.

import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { Motience, placesOf } from '@motience/client';

const { MOTIENCE_USERNAME, PASSWORD, AP_URL, SM_URL, DSM_URL, WSS2_URL, CURSORS = 'cursors.json' } = process.env;
const motience = new Motience(AP_URL ? { ap: AP_URL, sm: SM_URL, dsm: DSM_URL, wss2: WSS2_URL } : placesOf('localhost'));
await motience.session.logIn(MOTIENCE_USERNAME, PASSWORD);

// The cursor of the last record of each producer. Without a file this is the first start: everything that the log still has.
const cursors = existsSync(CURSORS) ? JSON.parse(readFileSync(CURSORS, 'utf8')) : {};
const from = Object.keys(cursors).length > 0 ? cursors : 'earliest';
const consumer = motience.consumer({ from });
consumer.on('status', ({ state, transport }) => console.error(state, transport ?? ''));

for await (const event of consumer) {
  if (event.type === 'record') {
    console.log(JSON.stringify(event.record));
    cursors[event.record.producer_id] = event.record.cursor;
  } else {
    // gap: retention removed records. reset: the log lost its tail, and continues after this cursor. ended: no longer subscribed.
    console.error('notice:', event);
    if (event.type === 'reset') cursors[event.producer_id] = event.cursor;
  }
  // A new file takes the old one's name in one step: there is always a whole one.
  writeFileSync(`${CURSORS}.new`, JSON.stringify(cursors));
  renameSync(`${CURSORS}.new`, CURSORS);
}
