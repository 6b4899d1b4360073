// The documented flow, spoken by the `ws` package as every existing client speaks it.
//
// Reads the addresses as JSON from the first argument, prints one line for each thing that held, and exits 1 with a
// sentence at the first that did not.

import assert from 'node:assert/strict';
import WebSocket from 'ws';

const at = JSON.parse(process.argv[2]);
const deadline = setTimeout(() => fail('nothing happened for 30 seconds'), 30_000);

function fail(why) {
  console.error(`flow: ${why}`);
  process.exit(1);
}

async function call(method, url, { token, body } = {}) {
  const headers = { ...(body && { 'content-type': 'application/json' }), ...(token && { authorization: `Bearer ${token}` }) };
  const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  return { status: answer.status, type: answer.headers.get('content-type'), body: await answer.json() };
}

// A socket whose messages are taken one by one.
function open(url, ...rest) {
  const socket = new WebSocket(url, ...rest);
  const messages = [];
  const waiting = [];
  socket.on('message', (data, binary) => {
    assert.equal(binary, false, 'text frames only');
    const text = data.toString();
    waiting.length ? waiting.shift()(text) : messages.push(text);
  });
  const next = () => (messages.length ? Promise.resolve(messages.shift()) : new Promise((got) => waiting.push(got)));
  const opened = new Promise((ok, no) => {
    socket.once('open', ok);
    socket.once('error', no);
    socket.once('unexpected-response', (_, response) => no(Object.assign(new Error('refused'), { status: response.statusCode })));
  });
  const closed = new Promise((done) => socket.once('close', (code) => done(code)));
  return { socket, next, json: async () => JSON.parse(await next()), opened, closed, pending: messages };
}

async function refusedWith(status, url, ...rest) {
  const outcome = await open(url, ...rest).opened.then(() => 'opened', (error) => error.status);
  assert.equal(outcome, status, url.replace(/token=.*/, 'token=…'));
}

const run = Math.random().toString(16).slice(2, 10);
async function account(role, base, extra = {}) {
  const username = `${role}-${run}-${Math.random().toString(16).slice(2, 8)}`;
  const registered = await call('POST', `${base}/register`, { body: { username, password: 'pass123', role, ...extra } });
  assert.equal(registered.status, 201);
  assert.deepEqual(Object.keys(registered.body).sort(), ['created_at', 'device_id', 'id', 'role', 'username']);
  const login = await call('POST', `${base}/login`, { body: { username, password: 'pass123' } });
  assert.equal(login.status, 200);
  assert.equal(login.body.token_type, 'Bearer');
  assert.equal(login.body.user_id, registered.body.id);
  return { id: registered.body.id, username, ...login.body, token: login.body.access_token };
}

const record = (n) => ({ device_id: 'rpi_001', timestamp: '2025-01-29T11:35:00Z', data: { temperature: 24.3, humidity: 51, pressure: 1013.25, n } });

// Accounts, by the seed's paths and by the aliases.
const producer = await account('producer', at.ap, { device_id: 'rpi_001' });
const consumer = await account('consumer', `${at.ap}/api/auth`);
const stranger = await account('consumer', at.ap);
console.log('ok accounts are made and logged in, by both forms of the paths');

const verify = await call('GET', `${at.ap}/verify`, { token: producer.token });
assert.equal(verify.body.valid, true);
assert.equal((await call('GET', `${at.ap}/api/auth/verify`, { token: 'nonsense' })).status, 401);
const producers = await call('GET', `${at.ap}/producers?limit=1000`, { token: consumer.token });
assert.ok(producers.body.some((p) => p.id === producer.id && !('password_hash' in p)));
assert.equal((await call('GET', `${at.ap}/producers`)).status, 401);
console.log('ok tokens are verified and lists are guarded');

// A refresh makes a new pair.
const spare = await account('consumer', at.ap);
const renewed = await call('POST', `${at.ap}/refresh`, { body: { refresh_token: spare.refresh_token } });
assert.equal(renewed.status, 200);
// A client whose answer was lost asks again at once: it is given the same pair, and the login lives on.
const again = await call('POST', `${at.ap}/refresh`, { body: { refresh_token: spare.refresh_token } });
assert.equal(again.body.refresh_token, renewed.body.refresh_token);
assert.equal((await call('POST', `${at.ap}/logout`, { body: { refresh_token: renewed.body.refresh_token } })).status, 200);
assert.equal((await call('POST', `${at.ap}/api/auth/refresh`, { body: { refresh_token: renewed.body.refresh_token } })).status, 401);
console.log('ok a refresh makes a new pair, the same one for whoever asks twice at once, and none after the logout');

// Subscriptions.
const subscribed = await call('POST', `${at.sm}/subscribe`, { token: consumer.token, body: { producer_id: String(producer.id) } });
assert.equal(subscribed.status, 201);
assert.equal(subscribed.body.status, 'active');
assert.equal((await call('POST', `${at.sm}/api/subscribe`, { token: consumer.token, body: { producer_id: producer.id } })).status, 200);
assert.equal((await call('POST', `${at.sm}/subscribe`, { token: consumer.token, body: { producer_id: consumer.id } })).status, 404);
assert.equal((await call('POST', `${at.sm}/subscribe`, { token: producer.token, body: { producer_id: producer.id } })).status, 403);
assert.equal((await call('GET', `${at.sm}/subscriptions/${consumer.id}`, { token: consumer.token })).body.length, 1);
assert.equal((await call('GET', `${at.sm}/subscriptions/${consumer.id}`, { token: stranger.token })).status, 403);
assert.equal((await call('GET', `${at.sm}/api/subscribers/${producer.id}`, { token: producer.token })).body[0].consumer_id, consumer.id);
console.log('ok subscriptions are made, listed and guarded');

// Refused upgrades.
await refusedWith(401, at.wss1);
await refusedWith(401, `${at.wss1}?token=nonsense`);
await refusedWith(403, `${at.wss1}?token=${consumer.token}`);
await refusedWith(403, `${at.wss2}?token=${producer.token}`);
console.log('ok upgrades without the right token are refused');

// The seed's flow, with the token in each of its places.
const consuming = open(`${at.wss2}?token=${consumer.token}`);
const second = open(at.wss2, ['bearer', consumer.token]);
const v2 = open(`${at.wss2}?token=${consumer.token}`, ['motience.v2']);
const outside = open(`${at.wss2}?token=${stranger.token}`);
const producing = open(at.wss1, { headers: { authorization: `Bearer ${producer.token}` } });
await Promise.all([consuming, second, v2, outside, producing].map((s) => s.opened));
producing.socket.send(JSON.stringify(record(1)));
assert.deepEqual(await producing.json(), { type: 'ack', seq: 1, subscriberCount: 1 });
const expected = { producer_id: String(producer.id), ...record(1) };
assert.equal(await consuming.next(), JSON.stringify(expected), 'exactly the documented message');
assert.deepEqual(await second.json(), expected);
const { offset, cursor, record_id, ...rest } = await v2.json();
assert.deepEqual(rest, expected);
assert.equal(typeof offset, 'number');
assert.equal(cursor.split('-')[1], String(offset));
assert.match(record_id, /^[0-9a-f]{16}-\d+$/);
console.log('ok a record reaches its consumers exactly as documented');

producing.socket.send(JSON.stringify({ type: 'data', payload: record(2) }));
producing.socket.send(JSON.stringify({ type: 'data', payload: { temperature: 5 } }));
producing.socket.send('{"device_id":');
producing.socket.send(JSON.stringify({ ...record(3), producer_id: '999' }));
producing.socket.send(JSON.stringify({ type: 'ping' }));
producing.socket.send(JSON.stringify(record(4)));
assert.equal((await producing.json()).seq, 2);
assert.equal((await producing.json()).seq, 3);
assert.equal((await producing.json()).code, 'invalid_json');
assert.equal((await producing.json()).type, 'error');
assert.deepEqual(await producing.json(), { type: 'pong' });
assert.equal((await producing.json()).seq, 4);
assert.deepEqual((await consuming.json()).data, record(2).data);
assert.deepEqual((await consuming.json()).data, { temperature: 5 });
assert.deepEqual((await consuming.json()).data, record(4).data);
console.log('ok both forms are taken, bad records are answered, the connection stays');

// HTTP data, the history's guard, live streams.
const posted = await call('POST', `${at.dsm}/data`, { token: producer.token, body: [record(5), record(6)] });
assert.equal(posted.status, 200);
assert.deepEqual((await consuming.json()).data.n, 5);
assert.deepEqual((await consuming.json()).data.n, 6);
assert.equal((await call('POST', `${at.dsm}/api/data`, { token: producer.token, body: record(7) })).status, 200);
assert.equal((await consuming.json()).data.n, 7);
assert.equal((await call('GET', `${at.dsm}/history/${producer.id}`, { token: stranger.token })).status, 403);
assert.equal((await call('GET', `${at.dsm}/history/${producer.id}`, { token: consumer.token })).status, 200);
const streams = await call('GET', `${at.dsm}/streams`, { token: consumer.token });
assert.ok(streams.body.some((s) => Number(s.producer_id) === producer.id), 'the producer is live');
console.log('ok records posted over HTTP arrive, and streams are listed');

// Resume from the log.
const resumed = open(`${at.wss2}?v=2&resume=${encodeURIComponent(JSON.stringify({ [producer.id]: cursor }))}`, ['bearer', consumer.token]);
await resumed.opened;
assert.deepEqual((await resumed.json()).data, record(2).data);
console.log('ok a v2 consumer resumes behind its cursor');

// A subscription that ends and comes back takes effect on the live connection.
assert.equal((await call('DELETE', `${at.sm}/unsubscribe?producer_id=${producer.id}`, { token: consumer.token })).body.status, 'inactive');
assert.equal((await call('DELETE', `${at.sm}/unsubscribe`, { token: consumer.token, body: { producer_id: producer.id } })).status, 404);
await call('POST', `${at.sm}/subscribe`, { token: stranger.token, body: { producer_id: producer.id } });
// The change is told within a second; until then records may still go to the old consumer.
let n = 100;
const pump = setInterval(() => producing.socket.send(JSON.stringify(record(n++))), 50);
const got = await outside.json();
assert.equal(got.producer_id, String(producer.id));
clearInterval(pump);
assert.equal(outside.pending.filter((m) => m.includes('offset')).length, 0);
console.log('ok subscriptions change live');

// Logging out ends the login's live connections.
assert.equal((await call('POST', `${at.ap}/logout`, { body: { refresh_token: stranger.refresh_token } })).status, 200);
assert.equal(await outside.closed, 4401);
console.log('ok logging out closes with 4401');

// Errors have one form.
for (const [method, url, status] of [
  ['GET', `${at.ap}/nowhere`, 404],
  ['PUT', `${at.ap}/login`, 405],
]) {
  const answer = await call(method, url);
  assert.equal(answer.status, status);
  assert.match(answer.type, /^application\/problem\+json/);
  assert.equal(typeof answer.body.error, 'string');
  assert.equal(typeof answer.body.code, 'string');
}
assert.equal((await call('POST', `${at.ap}/register`, { body: { username: producer.username, password: 'pass123', role: 'producer' } })).status, 409);
console.log('ok errors are problem documents');

clearTimeout(deadline);
for (const s of [consuming, second, v2, resumed, producing]) s.socket.terminate();
console.log('flow complete');
