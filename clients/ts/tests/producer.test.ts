// A producer by plain requests against a real server: what ends it, what only refuses a record, and when it is used at all.
import assert from 'node:assert/strict';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { ApiError, Motience, RecordError, type Places, type ProducerStatus } from '../src/index.ts';
import { NodeWebSocket, platform, until, type Platform } from './platform.ts';

const LIMIT_MS = 30_000;

describe('a producer over plain requests', () => {
  let at: Platform;
  before(async () => void (at = await platform({ STRICT_DEVICE: 'true', MAX_RECORD_BYTES: '8KiB' })));
  after(() => at.stop());

  test('a refused record is its own error, alone and beside good ones', async (t) => {
    const sender = await at.account('producer', 'mine');
    const producer = sender.producer({ transport: 'http' });
    t.after(() => producer.close(0));
    const good = (n: number) => ({ device_id: 'mine', timestamp: new Date().toISOString(), data: { n } });
    const bad = {
      wrong_device: { ...good(0), device_id: 'another' },
      too_large: { ...good(0), data: { text: 'x'.repeat(9_000) } },
      unknown_field: { ...good(0), offset: 7 },
      invalid_timestamp: { ...good(0), timestamp: 'never' },
    };
    for (const [code, record] of Object.entries(bad)) {
      await assert.rejects(producer.send(record), (cause) => cause instanceof RecordError && cause.code === code, `${code}, alone`);
      const beside = await Promise.allSettled([producer.send(good(1)), producer.send(record), producer.send(good(2)), producer.send(record)]);
      assert.deepEqual(beside.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled', 'rejected'], `${code}, beside good ones`);
      for (const each of beside) if (each.status === 'rejected') assert.equal((each.reason as RecordError).code, code);
    }
    // Where every line is bad the answer is that of the first.
    const all = await Promise.allSettled(Object.values(bad).map((record) => producer.send(record)));
    assert.deepEqual(all.map((each) => each.status === 'rejected' && (each.reason as RecordError).code), Object.keys(bad));
    await producer.send(good(3));
    assert.equal(producer.status.get().state, 'open');
    await until('every good record once', async () => (await numbers(sender)).length >= 9);
    assert.deepEqual(await numbers(sender), [1, 2, 1, 2, 1, 2, 1, 2, 3]);
  });

  test('an account without the right ends it', async () => {
    const reader = await at.account('consumer');
    const producer = reader.producer({ transport: 'http' });
    await assert.rejects(producer.send({ n: 1 }), (cause) => cause instanceof ApiError && cause.status === 403);
    assert.equal(producer.status.get().state, 'ended');
  });

  test('a token that the service refuses is renewed, and the records go on', async (t) => {
    const sender = await at.account('producer', 'mine');
    const producer = sender.producer({ transport: 'http' });
    t.after(() => producer.close(0));
    await producer.send({ n: 1 });
    for (const n of [2, 3]) {
      const refused = spoil(sender);
      await producer.send({ n });
      assert.notEqual(sender.session.get()?.token, refused);
    }
    assert.equal(producer.status.get().state, 'open');
    await until('all records', async () => (await numbers(sender)).length >= 3);
    assert.deepEqual(await numbers(sender), [1, 2, 3]);
  });

  test('a token that nobody renews ends it, and a session without one does', async () => {
    const sender = await at.account('producer', 'mine');
    sender.session.useToken(spoil(sender));
    const refused = sender.producer({ transport: 'http' });
    await assert.rejects(refused.send({ n: 1 }), (cause) => cause instanceof RecordError && cause.code === 'close_4401');
    assert.equal(refused.status.get().state, 'ended');
    sender.session.signOut();
    const nobody = sender.producer({ transport: 'http' });
    await assert.rejects(nobody.send({ n: 1 }), (cause) => cause instanceof ApiError && cause.code === 'signed_out');
  });

  test('while the service is away nothing is open; once it is there `auto` sends over a socket', async (t) => {
    const far = await Relay.before(at.places);
    t.after(() => far.close());
    const sender = new Motience(far.places);
    await sender.session.register(`client-far-${process.pid}`, 'client-tests-1!', 'producer');
    const producer = sender.producer({ WebSocket: NodeWebSocket });
    t.after(() => producer.close(0));
    const seen: ProducerStatus[] = [];
    producer.status.subscribe((status) => seen.push(status));
    const sent = producer.send({ n: 1 });
    const tried = () => seen.filter(({ state, transport }) => state === 'waiting' && transport === 'http').length;
    await until('every way to be tried, twice', () => tried() >= 2, LIMIT_MS);
    assert.deepEqual(seen.filter(({ state }) => state === 'open'), []);
    await far.open();
    await sent;
    assert.equal(producer.status.get().transport, 'websocket');
    far.cut();
    await until('the break to be seen', () => seen.at(-1)?.state !== 'open' || seen.filter(({ state }) => state === 'open').length > 1);
    await producer.send({ n: 2 });
    assert.ok(seen.filter(({ state }) => state === 'open').every(({ transport }) => transport === 'websocket'));
  });
});

/** Gives the session a token that no service takes; what renews it stays. */
function spoil({ session }: Motience): string {
  const identity = session.get();
  assert.ok(identity);
  const token = `${identity.token.slice(0, -8)}spoiled0`;
  session.set({ ...identity, token });
  return token;
}

/** The history of an account, in the order of its log. */
async function numbers({ dsm, session }: Motience): Promise<number[]> {
  const found: number[] = [];
  for await (const page of dsm.history(session, session.get()?.userId ?? '')) found.push(...page.map(({ data }) => (data as { n: number }).n));
  return found;
}

/** The data service and the producers' socket at addresses where nobody listens yet. */
class Relay {
  readonly places: Places;
  readonly #ways: { port: number; target: number }[];
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();

  private constructor(places: Places, ways: { port: number; target: number }[]) {
    this.places = places;
    this.#ways = ways;
  }

  static async before(places: Places): Promise<Relay> {
    const ways = await Promise.all([places.dsm, places.wss1 ?? ''].map(async (url) => ({ port: await freePort(), target: Number(new URL(url).port) })));
    const [dsm, wss1] = ways.map(({ port }) => port);
    return new Relay({ ...places, dsm: `http://127.0.0.1:${dsm}`, wss1: `ws://127.0.0.1:${wss1}/producer` }, ways);
  }

  async open(): Promise<void> {
    for (const { port, target } of this.#ways) {
      const server = createServer((near) => {
        const far = connect(target, '127.0.0.1');
        for (const socket of [near, far]) {
          this.#sockets.add(socket);
          socket.on('error', () => undefined).on('close', () => (near.destroy(), far.destroy()));
        }
        near.pipe(far).pipe(near);
      });
      this.#servers.push(server);
      await listening(server, port);
    }
  }

  /** Ends what stands; new connections are let in. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  close(): void {
    for (const server of this.#servers) server.close();
    this.cut();
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await listening(server, 0);
  const { port } = server.address() as AddressInfo;
  await new Promise((closed) => server.close(closed));
  return port;
}

function listening(server: Server, port: number): Promise<void> {
  return new Promise((open, failed) => server.once('error', failed).listen(port, '127.0.0.1', () => open()));
}
