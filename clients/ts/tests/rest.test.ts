// The REST calls against a real server: typed answers, parts of lists, and errors that say what to do.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { ApiError } from '../src/index.ts';
import { Buckets } from '../src/rest/buckets.ts';
import { Caller } from '../src/rest/caller.ts';
import { platform, until, type Platform } from './platform.ts';

describe('REST', () => {
  let at: Platform;
  before(async () => void (at = await platform()));
  after(() => at.stop());

  test('an account is made, verified, listed and ended', async () => {
    const client = await at.account('producer', 'rpi_007');
    const { session, ap } = client;
    const me = await ap.verify(session);
    assert.equal(me.valid, true);
    assert.equal(me.role, 'producer');
    assert.equal(String(me.user_id), session.get()?.userId);
    const listed = (await ap.producers(session, { limit: 1000 })).find((u) => u.username === me.username);
    assert.equal(listed?.device_id, 'rpi_007');
    assert.equal((await ap.producers(session, { limit: 1 })).length, 1);
    const { token } = session.get() as { token: string };
    session.signOut();
    assert.equal(session.get(), null);
    await until('the token to end', async () => ap.verify(token).then(() => false, (cause: unknown) => (cause as ApiError).status === 401));
  });

  test('a session is renewed when its token is refused', async () => {
    const client = await at.account('consumer');
    const identity = client.session.get();
    assert.ok(identity);
    // A clock that differs: the token looks good here and is refused there.
    client.session.set({ ...identity, token: `${identity.token.slice(0, -4)}AAAA` });
    assert.equal((await client.ap.verify(client.session)).valid, true);
    assert.notEqual(client.session.get()?.token, identity.token);
  });

  test('subscriptions begin and end, for both sides', async () => {
    const producer = await at.account('producer');
    const consumer = await at.account('consumer');
    const [mine, theirs] = [consumer.session.get()?.userId ?? '', producer.session.get()?.userId ?? ''];
    assert.equal((await consumer.sm.subscribe(consumer.session, theirs)).status, 'active');
    assert.deepEqual(await consumer.subscriptions(), [theirs]);
    assert.deepEqual((await producer.sm.subscribers(producer.session, theirs)).map((s) => String(s.consumer_id)), [mine]);
    await consumer.sm.unsubscribe(consumer.session, theirs);
    assert.deepEqual(await consumer.subscriptions(), []);
    await assert.rejects(consumer.sm.subscribe(consumer.session, mine), { name: 'ApiError', status: 404 });
    await assert.rejects(consumer.sm.subscribers(consumer.session, theirs), { status: 403 });
  });

  test('records are sent, and the history gives them back a part at a time', async () => {
    const producer = await at.account('producer');
    const id = producer.session.get()?.userId ?? '';
    const records = Array.from({ length: 25 }, (_, i) => ({ device_id: 'd', timestamp: new Date(1.7e12 + i * 1000).toISOString(), data: { n: i } }));
    assert.equal((await producer.dsm.send(producer.session, records)).accepted, 25);
    const seen: unknown[] = [];
    let parts = 0;
    for await (const part of producer.dsm.history(producer.session, id, { limit: 10 })) {
      parts++;
      seen.push(...part.map((r) => (r.data as { n: number }).n));
    }
    assert.deepEqual(seen, records.map((r) => r.data.n));
    assert.ok(parts >= 3);
    const range = await producer.dsm.historyPage(producer.session, id, { from: records[5]?.timestamp ?? '', to: records[9]?.timestamp ?? '', by: 'device' });
    assert.deepEqual(range.value.map((r) => (r.data as { n: number }).n), [5, 6, 7, 8, 9]);
    assert.deepEqual((await producer.dsm.historyPage(producer.session, id, { from: records[5]?.timestamp ?? '', by: 'received' })).value.length, 25);
    await until('the stream among the live ones', async () => (await producer.dsm.streams(producer.session)).some((s) => s.producer_id === id));
  });

  test('a long range comes in buckets, and only what a filter lets through', async () => {
    const producer = await at.account('producer');
    const id = producer.session.get()?.userId ?? '';
    const records = Array.from({ length: 90 }, (_, i) => ({ device_id: 'd', timestamp: new Date(1.7e12 - (1.7e12 % 60_000) + i * 1000).toISOString(), data: { n: i, on: i % 2 === 0 } }));
    await producer.dsm.send(producer.session, records);
    const buckets = await producer.dsm.buckets(producer.session, id, { bucket: '1m', by: 'device', aggregate: ['avg', 'last'], fields: ['/data/n'] });
    assert.deepEqual(buckets.map(({ start, ...rest }) => ({ ...rest, at: Date.parse(start) - Date.parse(records[0]?.timestamp ?? '') })), [
      { device_id: 'd', at: 0, records: 60, values: { '/data/n': { count: 60, avg: 29.5, last: 59 } } },
      { device_id: 'd', at: 60_000, records: 30, values: { '/data/n': { count: 30, avg: 74.5, last: 89 } } },
    ]);
    const page = await producer.dsm.historyPage(producer.session, id, { where: ['/data/n >= 88', '/data/on = true'] });
    assert.deepEqual(page.value.map((r) => r.data), [{ n: 88, on: true }]);
    await assert.rejects(producer.dsm.buckets(producer.session, id, { bucket: '1y' }), { status: 422 });
  });

  test('a bucket that came in two parts is one', () => {
    const part = (count: number, avg: number, min: number, max: number) => [{ device_id: 'd', start: '2026-01-01T00:00:00Z', records: count, values: { '/data': { count, avg, min, max } } }];
    const buckets = new Buckets();
    buckets.add(part(3, 2, 1, 3));
    buckets.add(part(1, 6, 6, 6));
    assert.deepEqual(buckets.list(), part(4, 3, 1, 6));
  });

  test('an answer that is cut off is an error, and not an empty one', async (t) => {
    const server = createServer((_, response) => {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': 100 });
      response.write('[1,');
      setTimeout(() => response.destroy(), 50);
    });
    t.after(() => server.close());
    await new Promise<void>((done) => void server.listen(0, '127.0.0.1', done));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/history/1`;
    await assert.rejects(new Caller().json('GET', url), (cause: ApiError) => cause instanceof ApiError && cause.code === 'unreachable');
  });

  test('errors carry a code, and say where the service is that does not answer', async () => {
    const client = await at.account('consumer');
    await assert.rejects(client.dsm.historyPage(client.session, 999_999), { status: 403 });
    await assert.rejects(client.session.register('x', '1', 'producer'), (cause: ApiError) => cause.status === 422 && cause.code !== '' && /[.]$/.test(cause.message));
    await assert.rejects(client.dsm.historyPage(client.session, client.session.get()?.userId ?? '', { limit: 5000 }), (cause: ApiError) => !cause.temporary);
  });
});
