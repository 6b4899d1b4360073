// Consumers and producers against a real server, cut off again and again: no hole and no double.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Motience, StreamRecord, TransportKind } from '../src/index.ts';
import { NodeWebSocket, platform, until, type Platform } from './platform.ts';

const FLOOD = 6_000;
const CUTS = 12;

describe('streams', () => {
  let at: Platform;
  before(async () => void (at = await platform()));
  after(() => at.stop());

  for (const transport of ['websocket', 'ndjson', 'sse'] as TransportKind[]) {
    test(`${transport}: every record of a flood exactly once, whatever is cut off`, async (t) => {
      const [sender, reader] = await pair();
      const consumer = reader.consumer({ transport, WebSocket: NodeWebSocket, buffer: 256 });
      t.after(() => consumer.close());
      const seen: number[] = [];
      const states: string[] = [];
      consumer.status.subscribe(({ state }) => states.push(state));
      const opened = () => states.filter((state) => state === 'open').length;
      consumer.on('record', (record) => void seen.push(numberOf(record)));
      consumer.start();
      await until('the consumer to be connected', () => consumer.status.get().state === 'open');
      const producer = sender.producer({ transport: 'websocket', WebSocket: NodeWebSocket });
      t.after(() => producer.close(0));
      // A live consumer begins somewhere: from its first record on nothing may be missing.
      await until('the first record', async () => (await producer.send({ n: 0 }), seen.length > 0));
      seen.length = 0;
      const flood = Promise.all(Array.from({ length: FLOOD }, (_, i) => producer.send({ n: i + 1 })));
      for (let cut = 1; cut <= CUTS; cut++) {
        await until(`a part of the flood, ${cut}`, () => seen.length >= (FLOOD / (CUTS + 1)) * cut);
        await until('a connection for each cut', () => opened() >= cut);
        if (cut % 3 === 0) producer.reconnect();
        consumer.reconnect();
      }
      await flood;
      await until('the last record', () => seen.includes(FLOOD));
      const numbers = seen.filter((n) => n > 0);
      assert.equal(numbers.length, FLOOD, 'neither a hole nor a double');
      assert.deepEqual(numbers, Array.from({ length: FLOOD }, (_, i) => i + 1), 'in the order of the log');
      await until('a connection after each cut', () => opened() > CUTS);
    });

    test(`${transport}: a slow application bounds what waits, and loses nothing`, async (t) => {
      const [sender, reader] = await pair();
      const records = Array.from({ length: 1_000 }, (_, i) => ({ device_id: 'slow', timestamp: new Date().toISOString(), data: { n: i } }));
      for (let i = 0; i < 3; i++) await sender.dsm.send(sender.session, records);
      const consumer = reader.consumer({ transport, WebSocket: NodeWebSocket, buffer: 64, from: { [idOf(sender)]: 'earliest' } });
      t.after(() => consumer.close());
      let most = 0;
      let handled = 0;
      for await (const event of consumer) {
        most = Math.max(most, consumer.waiting);
        if (event.type === 'record' && ++handled === 3_000) break;
        if (handled % 50 === 0) await new Promise((later) => setTimeout(later, 1));
      }
      assert.equal(handled, 3_000);
      assert.ok(most < 1_500, `${most} events waited for a slow application`);
    });
  }

  test('another process goes on from the cursors it was given', async () => {
    const [sender, reader] = await pair();
    const id = idOf(sender);
    await sender.dsm.send(sender.session, numbered(1, 10));
    const first = await collect(reader, 4, { [id]: 'earliest' });
    assert.deepEqual(first.numbers, [1, 2, 3, 4]);
    const second = await collect(reader, 6, first.cursors);
    assert.deepEqual(second.numbers, [5, 6, 7, 8, 9, 10]);
  });

  test('a subscription takes effect, and ends, while connected', async (t) => {
    const sender = await at.account('producer');
    const reader = await at.account('consumer');
    const consumer = reader.consumer({ transport: 'websocket', WebSocket: NodeWebSocket });
    t.after(() => consumer.close());
    const seen: StreamRecord[] = [];
    consumer.on('record', (record) => void seen.push(record));
    consumer.start();
    await until('the consumer to be connected', () => consumer.status.get().state === 'open');
    await reader.sm.subscribe(reader.session, idOf(sender));
    await until('a record', async () => (await sender.dsm.send(sender.session, numbered(1, 1)), seen.length > 0));
    await reader.sm.unsubscribe(reader.session, idOf(sender));
    await until('silence', async () => {
      const before = seen.length;
      await sender.dsm.send(sender.session, numbered(2, 2));
      await new Promise((later) => setTimeout(later, 200));
      return seen.length === before;
    });
  });

  test('a producer names its records: the same name twice is one record', async (t) => {
    const [sender, reader] = await pair();
    const producer = sender.producer({ transport: 'websocket', WebSocket: NodeWebSocket });
    t.after(() => producer.close(0));
    await producer.send({ n: 1 }, 'same');
    await producer.send({ n: 1 }, 'same');
    await producer.send({ n: 2 }, 'other');
    await assert.rejects(producer.send({ device_id: 'x', timestamp: 'never', data: {} }), { name: 'RecordError' });
    await producer.send({ n: 3 });
    assert.deepEqual((await collect(reader, 3, { [idOf(sender)]: 'earliest' })).numbers, [1, 2, 3]);
  });

  test('a token that is refused ends the consumer with a reason', async (t) => {
    const reader = await at.account('consumer');
    reader.session.useToken('not.a.token');
    const consumer = reader.consumer({ transport: 'websocket', WebSocket: NodeWebSocket });
    t.after(() => consumer.close());
    const ended = new Promise((told) => consumer.on('ended', told));
    consumer.start();
    assert.deepEqual(await ended.then((e) => (e as { code: string }).code), 'invalid_token');
    assert.equal(consumer.status.get().state, 'ended');
  });

  test('without WebTransport `auto` says why and uses WebSocket', async (t) => {
    const [, reader] = await pair();
    const consumer = reader.consumer({ WebSocket: NodeWebSocket });
    t.after(() => consumer.close());
    consumer.start();
    await until('a connection', () => consumer.status.get().state === 'open');
    assert.equal(consumer.status.get().transport, 'websocket');
    assert.match(consumer.status.get().fallback ?? '', /has no WebTransport/);
  });

  // ---- helpers

  async function pair(): Promise<[Motience, Motience]> {
    const sender = await at.account('producer');
    const reader = await at.account('consumer');
    await reader.sm.subscribe(reader.session, idOf(sender));
    return [sender, reader];
  }

  async function collect(reader: Motience, count: number, from: Record<string, string>) {
    const consumer = reader.consumer({ transport: 'websocket', WebSocket: NodeWebSocket, from });
    const numbers: number[] = [];
    let cursors = {};
    for await (const event of consumer) {
      if (event.type !== 'record') continue;
      numbers.push(numberOf(event.record));
      cursors = { [event.record.producer_id]: event.record.cursor };
      if (numbers.length === count) break;
    }
    return { numbers, cursors };
  }
});

function numbered(from: number, to: number) {
  return Array.from({ length: to - from + 1 }, (_, i) => ({ device_id: 'd', timestamp: new Date().toISOString(), data: { n: from + i } }));
}

function numberOf(record: StreamRecord): number {
  return (record.data as { n: number }).n;
}

function idOf(client: Motience): string {
  return client.session.get()?.userId ?? '';
}
