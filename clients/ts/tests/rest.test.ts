// The REST calls against a real server: typed answers, parts of lists, and errors that say what to do.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ApiError } from '../src/index.ts';
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

  test('errors carry a code, and say where the service is that does not answer', async () => {
    const client = await at.account('consumer');
    await assert.rejects(client.dsm.historyPage(client.session, 999_999), { status: 403 });
    await assert.rejects(client.session.register('x', '1', 'producer'), (cause: ApiError) => cause.status === 422 && cause.code !== '' && /[.]$/.test(cause.message));
    await assert.rejects(client.dsm.historyPage(client.session, client.session.get()?.userId ?? '', { limit: 5000 }), (cause: ApiError) => !cause.temporary);
  });
});
