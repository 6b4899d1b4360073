// Where a WebSocket consumer begins: in its address, or in messages where that has no room.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Link } from '../src/consumer/transport.ts';
import { websocket, type WebSocketLike } from '../src/consumer/websocket.ts';

/** A socket that opens at once, hears what is said, and closes. */
class Socket {
  static made: Socket[] = [];
  readyState = 0;
  sent: string[] = [];
  onopen: (() => void) | null = null;
  onmessage: unknown = null;
  onclose: ((close: { code: number; reason: string }) => void) | null = null;
  constructor(readonly url: string) {
    Socket.made.push(this);
    queueMicrotask(() => {
      this.onopen?.();
      this.onclose?.({ code: 1000, reason: '' });
    });
  }
  send(text: string) {
    this.sent.push(text);
  }
  close() {
    this.readyState = 3;
  }
}

async function connected(producers: number): Promise<Socket> {
  const positions = Object.fromEntries(Array.from({ length: producers }, (_, n) => [String(n + 1), `7153046918624-${n}`]));
  const link: Partial<Link> = {
    places: { wss2: 'ws://there/consumer' } as Link['places'],
    selection: {},
    signal: new AbortController().signal,
    token: async () => 'token',
    from: 'live',
    wanted: () => null,
    progress: { positions: () => positions } as unknown as Link['progress'],
    opened: () => undefined,
  };
  await websocket(Socket as unknown as WebSocketLike)(link as Link);
  return Socket.made[Socket.made.length - 1]!;
}

test('few positions are in the address, and many in messages of which the last says that no more come', async () => {
  const few = await connected(100);
  assert.equal(Object.keys(JSON.parse(new URL(few.url).searchParams.get('resume')!)).length, 100);
  assert.deepEqual(few.sent, []);

  const many = await connected(1001);
  assert.equal(new URL(many.url).searchParams.get('resume'), 'later');
  const parts = many.sent.map((text) => JSON.parse(text) as { type: string; cursors: Record<string, string>; more: boolean });
  assert.ok(many.url.length < 200 && many.sent.every((text) => text.length < 16 * 1024));
  assert.deepEqual(parts.map((part) => [part.type, part.more]), [...Array(5).fill(['resume', true]), ['resume', false]]);
  const all = Object.assign({}, ...parts.map((part) => part.cursors));
  assert.equal(Object.keys(all).length, 1001);
  assert.equal(all['1001'], '7153046918624-1000');
});
