// A program that signs in by an API key, against a real server: it sends and reads within its scopes, and ends with the key.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ApiError, Motience } from '../src/index.ts';
import { NodeWebSocket, platform, until, type Platform } from './platform.ts';

describe('an API key', () => {
  let at: Platform;
  before(async () => void (at = await platform()));
  after(() => at.stop());

  /** A client that knows nothing but a key of this account. */
  async function byKey(owner: Motience, ...scopes: string[]): Promise<{ client: Motience; id: string }> {
    const { id, key = '' } = await owner.account.createKey(owner.session, 'program', scopes);
    assert.match(key, /^motk_/);
    const client = new Motience(at.places);
    client.session.useToken(key);
    assert.equal(await client.session.token(), key);
    return { client, id };
  }

  test('sends and reads within its scopes, over plain requests and WebSocket, until it is ended', async (t) => {
    const sender = await at.account('producer');
    const reader = await at.account('consumer');
    await reader.sm.subscribe(reader.session, sender.session.get()!.userId!);
    const publishing = await byKey(sender, 'publish');
    const consuming = await byKey(reader, 'consume');
    assert.deepEqual(await consuming.client.session.verify(), { kind: 'good' });

    const seen: unknown[] = [];
    const consumer = consuming.client.consumer({ transport: 'websocket', WebSocket: NodeWebSocket });
    t.after(() => consumer.close());
    const reading = (async () => {
      for await (const event of consumer) if (event.type === 'record') seen.push((event.record.data as { n: number }).n);
    })();
    await until('the consumer to be connected', () => consumer.status.get().state === 'open');
    for (const [n, transport] of (['http', 'websocket'] as const).entries()) {
      const producer = publishing.client.producer({ transport, WebSocket: NodeWebSocket });
      await producer.send({ device_id: 'd', timestamp: new Date().toISOString(), data: { n } });
      await producer.close(0);
    }
    await until('both records', () => seen.length === 2);
    assert.deepEqual(seen, [0, 1]);

    // No more than its scopes, and no longer than it lives.
    const lists = publishing.client.ap.producers(publishing.client.session);
    await assert.rejects(lists, (cause) => cause instanceof ApiError && cause.code === 'scope_missing');
    await sender.account.revokeKey(sender.session, publishing.id);
    const late = publishing.client.producer({ transport: 'http' });
    await assert.rejects(late.send({ device_id: 'd', data: { n: 9 } }));
    await reader.account.revokeKey(reader.session, consuming.id);
    await until('the consumer to end', () => consumer.status.get().state === 'ended');
    await reading.catch(() => undefined);
  });
});
