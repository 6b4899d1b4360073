// Chromium against a real node: HTTP/3 as a browser speaks it, and WebTransport from a plain page.
//
// Takes the name of a scenario and, as JSON, where the node is and who may come. Prints what held; exits 1 with a sentence at
// the first thing that did not.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { connect } from 'node:tls';
import { readFileSync } from 'node:fs';

const { chromium } = createRequire(new URL('../gateway-ws/ui/package.json', import.meta.url))('playwright-core');

const LIMIT_MS = 20_000;
const FLAGS = ['--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

const at = JSON.parse(process.argv[3]);
const https = new URL(at.https);
const quic = new URL(at.webtransport);

const scenarios = {
  // The page itself, what it fetches, and an event stream: all over HTTP/3.
  async http3() {
    const page = await open([`--origin-to-force-quic-on=${quic.host}`], `${quic.origin}/health`);
    assert.equal(await page.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol), 'h3');
    console.log('ok the page comes over h3');
    const seen = await page.evaluate(rest, at);
    assert.deepEqual(seen, { login: 'h3', producers: 'h3', data: 'h3', subscriptions: 'h3' });
    console.log('ok REST goes over h3');
    const { protocol, records, resumed } = await page.evaluate(events, at);
    assert.deepEqual(records, [1, 2, 3]);
    assert.deepEqual(resumed, [3], 'an EventSource resumes by itself with its last id');
    assert.equal(protocol, 'h3');
    console.log('ok an EventSource goes over h3 and resumes');
  },

  // Found by the Alt-Svc of HTTPS over TCP.
  async 'alt-svc'() {
    // The flag names no origin that is asked: its host may have a certificate of no public CA over QUIC, too.
    const page = await open(['--origin-to-force-quic-on=localhost:1'], `${https.origin}/health`);
    assert.equal(await page.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol), 'h2');
    console.log('ok the first page comes over h2');
    await until('h3, as Alt-Svc says', () =>
      page.evaluate(async () => {
        performance.clearResourceTimings();
        await (await fetch('/ready', { cache: 'no-store' })).text();
        return performance.getEntriesByType('resource').at(-1)?.nextHopProtocol === 'h3';
      }),
    );
    console.log('ok later requests go over h3');
  },

  // A session of a page that trusts the certificate by its hash alone.
  async consume() {
    const page = await plain();
    const seen = await page.evaluate(consume, at);
    assert.equal(seen.welcome.role, 'consumer');
    assert.equal(seen.welcome.user_id, at.consumer.id);
    assert.deepEqual(seen.kept, [1, 2, 3]);
    console.log('ok records arrive, each producer on a stream of its own');
    assert.deepEqual(seen.resumed, [3, 4], 'behind the cursor, and live');
    console.log('ok a second session resumes behind the cursor');
    assert.equal(seen.latest, 5);
    console.log('ok the newest arrives by datagram');
    assert.equal(seen.refused.code, 'not_subscribed');
    assert.deepEqual(seen.unsubscribed, { type: 'ended', producer_id: String(at.producer.id), code: 'unsubscribed' });
    console.log('ok subscriptions are refused and ended by message');
  },

  async produce() {
    const page = await plain();
    const seen = await page.evaluate(produce, at);
    assert.equal(seen.welcome.role, 'producer');
    assert.deepEqual(seen.answers.map((a) => a.type), ['ack', 'ack', 'error', 'pong']);
    assert.equal(seen.answers[1].id, 'mine');
    assert.deepEqual(seen.uploaded, ['ack', 'ack']);
    console.log('ok records are acknowledged on the control stream, from it and from streams of their own');
    assert.deepEqual(seen.arrived, [1, 2, 3, 4], 'what was acknowledged is in the log, in order');
    assert.equal(seen.latest, 5);
    console.log('ok a datagram up is a record for who follows now');
  },

  async close() {
    const page = await plain();
    const seen = await page.evaluate(closes, at);
    assert.deepEqual(seen, { nonsense: 4400, nobody: 4401, loggedOut: 4401 });
    console.log('ok a session is closed with the code that says why, at once at logout');
  },
};

// ---- in the page

async function rest({ producer, consumer }) {
  const call = async (path, { token, body } = {}) => {
    const headers = { ...(body && { 'content-type': 'application/json' }), ...(token && { authorization: `Bearer ${token}` }) };
    const answer = await fetch(path, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
    await answer.json();
    return performance.getEntriesByName(new URL(path, location.href).href).at(-1).nextHopProtocol;
  };
  return {
    login: await call('/ap/login', { body: { username: consumer.username, password: consumer.password } }),
    producers: await call('/producers', { token: consumer.token }),
    data: await call('/dsm/data', { token: producer.token, body: { n: 1 } }),
    subscriptions: await call(`/sm/subscriptions/${consumer.id}`, { token: consumer.token }),
  };
}

async function events({ producer, consumer }) {
  const post = (n) =>
    fetch('/data', {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${producer.token}` },
      body: JSON.stringify({ n }),
    });
  const follow = (query, count) =>
    new Promise((done, fail) => {
      const source = new EventSource(`/stream?producers=${producer.id}&token=${consumer.token}${query}`);
      const got = [];
      source.onerror = () => fail(new Error('the event stream broke'));
      source.onmessage = (event) => {
        got.push([event.lastEventId, JSON.parse(event.data).data.n]);
        if (got.length < count) return;
        source.close();
        done(got);
      };
    });
  await post(2);
  await post(3);
  const got = await follow('&from=earliest', 3);
  const resumed = await follow(`&from=${encodeURIComponent(got[1][0])}`, 1);
  const entries = performance.getEntriesByType('resource').filter((e) => e.name.includes('/stream?'));
  return { records: got.map(([, n]) => n), resumed: resumed.map(([, n]) => n), protocol: entries.at(-1)?.nextHopProtocol };
}

/** Helpers of both sides of a session; put into the page before anything else runs there. */
function tools() {
  globalThis.session = async ({ dsm, webtransport }, token) => {
    const { hashes, algorithm } = await (await fetch(`${dsm}/cert-hash`)).json();
    const transport = new WebTransport(webtransport, {
      serverCertificateHashes: hashes.map((hash) => ({ algorithm, value: Uint8Array.from(atob(hash), (c) => c.charCodeAt(0)) })),
    });
    await transport.ready;
    const control = await transport.createBidirectionalStream();
    const heard = lines(control.readable);
    const say = writer(control.writable);
    await say({ type: 'hello', token });
    return { transport, say, next: heard, welcome: await heard(), closed: transport.closed };
  };
  globalThis.writer = (writable) => {
    const out = writable.getWriter();
    const say = (...messages) => out.write(new TextEncoder().encode(messages.map((m) => (typeof m === 'string' ? m : JSON.stringify(m)) + '\n').join('')));
    say.end = () => out.close();
    return say;
  };
  /** A function that gives the next line, as JSON; `undefined` at the end. */
  globalThis.lines = (readable) => {
    const reader = readable.pipeThrough(new TextDecoderStream()).getReader();
    let left = '';
    const ready = [];
    return async () => {
      while (!ready.length) {
        const { value, done } = await reader.read();
        if (done) return undefined;
        const parts = (left + value).split('\n');
        left = parts.pop();
        ready.push(...parts.filter(Boolean).map((line) => JSON.parse(line)));
      }
      return ready.shift();
    };
  };
  globalThis.record = (n) => ({ device_id: 'd', timestamp: '2025-01-29T11:35:00Z', data: { n } });
  globalThis.post = async ({ dsm, producer }, n) => {
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${producer.token}` };
    await fetch(`${dsm}/data`, { method: 'POST', headers, body: JSON.stringify(record(n)) });
  };
  globalThis.follow = async (open, message) => {
    await open.say({ type: 'subscribe', ...message });
    return open.next();
  };
  /** The delivery streams that the server opens: their first line, and the next records of each. */
  globalThis.delivery = async (open) => {
    const { value } = await open.transport.incomingUnidirectionalStreams.getReader().read();
    const next = lines(value);
    return { first: await next(), next };
  };
  globalThis.take = async (next, count) => {
    const got = [];
    while (got.length < count) {
      const message = await next();
      if (message.data) got.push(message);
    }
    return got;
  };
  /** Asks for something to be done until its outcome is there: datagrams may be lost. */
  globalThis.again = async (act, outcome) => {
    let over = false;
    outcome.finally(() => (over = true));
    while (!over) {
      await act();
      await Promise.race([outcome, new Promise((done) => setTimeout(done, 100))]);
    }
    return outcome;
  };
}

async function consume(at) {
  const producer_id = String(at.producer.id);
  for (const n of [1, 2, 3]) await post(at, n);
  const first = await session(at, at.consumer.token);
  const subscribed = await follow(first, { producer_id, from: 'earliest' });
  if (subscribed.type !== 'subscribed') throw new Error(JSON.stringify(subscribed));
  const one = await delivery(first);
  if (one.first.type !== 'cursor' || one.first.producer_id !== producer_id) throw new Error(JSON.stringify(one.first));
  const kept = await take(one.next, 3);
  first.transport.close();

  const second = await session(at, at.consumer.token);
  await follow(second, { producer_id, from: kept[1].cursor });
  const two = await delivery(second);
  await post(at, 4);
  const resumed = await take(two.next, 2);

  const third = await session(at, at.consumer.token);
  await follow(third, { producer_id, from: 'live', lane: 'latest' });
  const datagram = third.transport.datagrams.readable.getReader().read();
  const { value } = await again(() => post(at, 5), datagram);
  const refused = await follow(third, { producer_id: '999999' });
  await third.say({ type: 'unsubscribe', producer_id });
  const numbers = (records) => records.map((record) => record.data.n);
  return {
    welcome: first.welcome,
    kept: numbers(kept),
    resumed: numbers(resumed),
    latest: JSON.parse(new TextDecoder().decode(value)).data.n,
    refused,
    unsubscribed: await third.next(),
  };
}

async function produce(at) {
  const producer_id = String(at.producer.id);
  const consumer = await session(at, at.consumer.token);
  await follow(consumer, { producer_id, from: 'live' });
  const arriving = delivery(consumer);
  const latest = await session(at, at.consumer.token);
  await follow(latest, { producer_id, from: 'live', lane: 'latest' });

  const open = await session(at, at.producer.token);
  await open.say(record(1), { type: 'data', id: 'mine', payload: record(2) }, 'nonsense', { type: 'ping' });
  const answers = [];
  while (answers.length < 4) answers.push(await open.next());
  const upload = writer(await open.transport.createUnidirectionalStream());
  await upload(record(3), record(4));
  await upload.end();
  const uploaded = [(await open.next()).type, (await open.next()).type];
  const arrived = (await take((await arriving).next, 4)).map((message) => message.data.n);

  const up = open.transport.datagrams.writable.getWriter();
  const down = latest.transport.datagrams.readable.getReader();
  // The lane shows the newest of everything: the records above may come first.
  const fifth = async () => {
    for (;;) {
      const { n } = JSON.parse(new TextDecoder().decode((await down.read()).value)).data;
      if (n === 5) return n;
    }
  };
  const seen = await again(() => up.write(new TextEncoder().encode(JSON.stringify(record(5)))), fifth());
  return { welcome: open.welcome, answers, uploaded, arrived, latest: seen };
}

async function closes(at) {
  const code = async (first) => {
    const { hashes, algorithm } = await (await fetch(`${at.dsm}/cert-hash`)).json();
    const serverCertificateHashes = hashes.map((hash) => ({ algorithm, value: Uint8Array.from(atob(hash), (c) => c.charCodeAt(0)) }));
    const transport = new WebTransport(at.webtransport, { serverCertificateHashes });
    await transport.ready;
    const control = await transport.createBidirectionalStream();
    await writer(control.writable)(first);
    return transport.closed.then((end) => end.closeCode, (error) => `${error}`);
  };
  const open = await session(at, at.consumer.token);
  const nonsense = await code('nonsense');
  const nobody = await code({ type: 'hello', token: 'nobody' });
  await fetch(`${at.ap}/logout`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ refresh_token: at.consumer.refresh }),
  });
  return { nonsense, nobody, loggedOut: await open.closed.then((end) => end.closeCode, (error) => `${error}`) };
}

// ---- outside the page

let browser;

/** A page of the node's own, with its certificate trusted by key. */
async function open(flags, url) {
  const spki = await keyHash();
  browser = await launch([...flags, '--enable-quic', `--ignore-certificate-errors-spki-list=${spki}`, '--host-resolver-rules=MAP localhost 127.0.0.1']);
  const page = await browser.newPage({ bypassCSP: true });
  page.setDefaultTimeout(LIMIT_MS);
  await page.goto(url);
  return page;
}

/** A page of another origin, in a browser that was told nothing. */
async function plain() {
  const server = createServer((_, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><title>A plain page</title>'));
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  server.unref();
  browser = await launch(['--host-resolver-rules=MAP localhost 127.0.0.1']);
  const page = await browser.newPage({ bypassCSP: true });
  page.setDefaultTimeout(LIMIT_MS);
  await page.goto(`http://localhost:${server.address().port}/`);
  await page.evaluate(tools);
  return page;
}

function launch(flags) {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', ...FLAGS, ...flags] });
}

/** The hash of the certificate's key, as Chromium's flag wants it. */
async function keyHash() {
  const ca = readFileSync(at.ca);
  const socket = connect({ host: '127.0.0.1', port: Number(https.port), servername: 'localhost', ca });
  await new Promise((ok, no) => socket.once('secureConnect', ok).once('error', no));
  const key = socket.getPeerX509Certificate().publicKey.export({ type: 'spki', format: 'der' });
  socket.destroy();
  return createHash('sha256').update(key).digest('base64');
}

async function until(what, holds) {
  const deadline = Date.now() + LIMIT_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `waited in vain for ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

const overdue = setTimeout(() => fail(new Error(`not done after ${(3 * LIMIT_MS) / 1000} s`)), 3 * LIMIT_MS);

function fail(error) {
  console.error(error);
  process.exit(1);
}

try {
  await scenarios[process.argv[2]]();
} catch (error) {
  fail(error);
}
clearTimeout(overdue);
await browser.close();
process.exit(0);
