// The kept connection: opening, refusals, losses, coming back, expiry.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApiError, type Session, type Verdict } from '@motience/client';
import { Link, type Note, type Surroundings } from '../../src/lib/socket.ts';

class FakeSocket {
  static all: FakeSocket[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  bufferedAmount = 0;
  sent: string[] = [];
  closedWith: number | undefined | null = null;
  readonly url: string;
  constructor(url: string) {
    this.url = url;
    FakeSocket.all.push(this);
  }
  send(text: string) {
    this.sent.push(text);
  }
  close(code?: number) {
    this.closedWith = code;
  }
}

function scene(verdict: Verdict = { kind: 'good' }) {
  FakeSocket.all = [];
  const timers = new Map<number, { run: () => void; at: number }>();
  let now = 0;
  let nextTimer = 1;
  const world: Surroundings = {
    WebSocket: FakeSocket as unknown as Surroundings['WebSocket'],
    now: () => now,
    setTimeout: (run, ms) => (timers.set(nextTimer, { run, at: now + ms }), nextTimer++),
    clearTimeout: (id) => void timers.delete(id as number),
    random: () => 1,
  };
  const session = { renewable: false, renewed: 0, token: async () => 'tok&en', verify: async () => verdict, renew: async () => void session.renewed++ };
  const notes: Note[] = [];
  const messages: string[] = [];
  const link = new Link({
    url: 'ws://gateway/producer',
    role: 'producer',
    session: session as unknown as Session,
    onMessage: (text) => messages.push(text),
    onNote: (note) => notes.push(note),
    surroundings: world,
  });
  const settle = () => new Promise<void>((done) => setImmediate(done));
  const pass = async (ms: number) => {
    now += ms;
    for (const [id, timer] of [...timers]) if (timer.at <= now && timers.delete(id)) timer.run();
    await settle();
  };
  const socket = () => FakeSocket.all.at(-1) as FakeSocket;
  const opened = async () => {
    link.connect();
    await settle();
    socket().onopen?.();
  };
  return { link, session, notes, messages, socket, settle, pass, opened, timers };
}

test('it opens with the token, delivers and sends', async () => {
  const s = scene();
  await s.opened();
  assert.equal(s.socket().url, 'ws://gateway/producer?token=tok%26en');
  assert.equal(s.link.get().state, 'open');
  assert.equal(s.link.send('{}'), true);
  assert.deepEqual(s.socket().sent, ['{}']);
  s.socket().onmessage?.({ data: 'hello' });
  assert.deepEqual(s.messages, ['hello']);
  assert.ok(!s.notes.some((n) => n.text.includes('tok')), 'no token in the log');
});

test('a full send buffer holds messages back', async () => {
  const s = scene();
  assert.equal(s.link.send('x'), false);
  await s.opened();
  s.socket().bufferedAmount = 2 << 20;
  assert.equal(s.link.send('x'), false);
  assert.deepEqual(s.socket().sent, []);
});

test('a refused token is explained and not tried again', async () => {
  const s = scene({ kind: 'wrong_role', role: 'consumer' });
  s.link.connect();
  await s.settle();
  s.socket().onclose?.({ code: 1006, reason: '' });
  await s.settle();
  assert.equal(s.link.get().state, 'idle');
  assert.equal(s.link.get().problem?.title, 'This token belongs to a consumer');
  await s.pass(100_000);
  assert.equal(FakeSocket.all.length, 1);
});

test('a gateway that is away is tried again, later and later', async () => {
  const s = scene();
  s.link.connect();
  await s.settle();
  const waits: number[] = [];
  for (let i = 0; i < 4; i++) {
    s.socket().onclose?.({ code: 1006, reason: '' });
    await s.settle();
    assert.equal(s.link.get().state, 'waiting');
    assert.equal(s.link.get().problem?.title, 'The gateway did not answer');
    const wait = [...s.timers.values()][0]?.at ?? 0;
    waits.push(wait);
    await s.pass(100_000);
  }
  assert.equal(FakeSocket.all.length, 5);
  assert.deepEqual(waits.map((w, i) => w - i * 100_000), [500, 1000, 2000, 4000]);
});

test('a loss comes back only where that is wanted', async () => {
  const s = scene();
  await s.opened();
  s.link.reconnect = false;
  s.socket().onclose?.({ code: 1012, reason: 'update' });
  await s.settle();
  assert.equal(s.link.get().state, 'idle');
  assert.match(s.link.get().problem?.advice ?? '', /update/);
  assert.ok(s.notes.some((n) => n.kind === 'close' && n.text === '1012 service restart: update'));
});

test('an expired token is renewed where it can be, and ends the connection where not', async () => {
  const s = scene();
  s.session.renewable = true;
  await s.opened();
  s.socket().onclose?.({ code: 4401, reason: '' });
  await s.settle();
  assert.equal(s.session.renewed, 1);
  assert.equal(FakeSocket.all.length, 2);
  s.socket().onopen?.();
  s.session.renewable = false;
  s.socket().onclose?.({ code: 4401, reason: '' });
  await s.settle();
  assert.equal(s.link.get().state, 'idle');
  assert.match(s.link.get().problem?.title ?? '', /Token expired or revoked \(4401\)/);
});

test('a service that is away at renewal is waited for, a refusal is not', async () => {
  const s = scene();
  s.session.renewable = true;
  await s.opened();
  s.session.renew = async () => Promise.reject(new ApiError(0, 'unreachable', 'AP cannot be reached.'));
  s.socket().onclose?.({ code: 4401, reason: '' });
  await s.settle();
  assert.equal(s.link.get().state, 'waiting');
  await s.pass(1000);
  s.socket().onopen?.();
  assert.equal(s.link.get().state, 'open');
  s.session.renew = async () => Promise.reject(new ApiError(401, 'invalid_token', 'Spent.'));
  s.socket().onclose?.({ code: 4401, reason: '' });
  await s.settle();
  assert.equal(s.link.get().state, 'idle');
  assert.equal(s.link.get().problem?.advice, 'Spent. Log in again.');
});

test('disconnecting ends everything, also a wait and an answer on its way', async () => {
  const s = scene();
  await s.opened();
  s.socket().onclose?.({ code: 1006, reason: '' });
  await s.settle();
  assert.equal(s.link.get().state, 'waiting');
  s.link.disconnect();
  await s.pass(100_000);
  assert.equal(FakeSocket.all.length, 1);
  s.link.connect();
  s.link.disconnect();
  await s.settle();
  assert.equal(FakeSocket.all.length, 1, 'the token came too late to open');
  await s.opened();
  s.link.disconnect();
  assert.equal(s.socket().closedWith, 1000);
  assert.deepEqual(s.link.get(), { state: 'idle', openedAt: null, retryAt: null, problem: null });
});

test('an upgrade without an answer is given up', async () => {
  const s = scene();
  s.link.connect();
  await s.settle();
  await s.pass(15_000);
  assert.notEqual(s.socket().closedWith, null);
});
