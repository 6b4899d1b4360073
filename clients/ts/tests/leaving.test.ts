// A connection that is left ends at once and never opens: also where it is left while its token is awaited.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { stream } from '../src/consumer/stream.ts';
import type { Connect, Link } from '../src/consumer/transport.ts';
import { websocket } from '../src/consumer/websocket.ts';
import { httpProducer } from '../src/producer/http.ts';
import type { ProducerLink } from '../src/producer/transport.ts';
import { websocketProducer } from '../src/producer/websocket.ts';
import { NodeWebSocket } from './platform.ts';

describe('leaving', () => {
  // Takes connections, and never answers.
  let silent: Server;
  let places: Link['places'];
  let asked = 0;
  before(async () => {
    silent = createServer(() => void asked++);
    silent.on('upgrade', () => void asked++);
    silent.listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const at = `127.0.0.1:${(silent.address() as AddressInfo).port}`;
    places = { ap: `http://${at}`, sm: `http://${at}`, dsm: `http://${at}`, wss1: `ws://${at}`, wss2: `ws://${at}`, webtransport: null };
  });
  after(() => {
    silent.closeAllConnections();
    silent.close();
  });

  const consumers: Record<string, Connect> = { websocket: websocket(NodeWebSocket), ndjson: stream('ndjson'), sse: stream('sse') };
  const connections: Record<string, (signal: AbortSignal, token: () => Promise<string>) => Promise<{ code: number; opened: boolean }>> = {
    'a producer by websocket': (signal, token) => websocketProducer(NodeWebSocket)(producerLink(signal, token)),
    'a producer by http': (signal, token) => httpProducer(producerLink(signal, token)),
  };
  for (const [name, connect] of Object.entries(consumers)) connections[`a consumer by ${name}`] = (signal, token) => connect(consumerLink(signal, token));

  for (const [name, connect] of Object.entries(connections)) {
    test(`${name}: while the token is awaited`, async () => {
      const before = asked;
      const stop = new AbortController();
      const ending = await connect(stop.signal, async () => (stop.abort(), 'token'));
      assert.deepEqual([ending.code, ending.opened], [1000, false]);
      assert.equal(asked, before, 'nothing is asked for who has left');
    });

    test(`${name}: while the server is asked`, async () => {
      const before = asked;
      const stop = new AbortController();
      const ended = connect(stop.signal, async () => 'token');
      while (asked === before) await new Promise((later) => setTimeout(later, 5));
      stop.abort();
      const ending = await ended;
      assert.deepEqual([ending.code, ending.opened], [1000, false]);
    });
  }

  function consumerLink(signal: AbortSignal, token: () => Promise<string>): Link {
    const never = () => assert.fail('nothing is opened');
    return {
      places,
      selection: {},
      signal,
      token,
      from: 'live',
      wanted: () => null,
      followed: async () => new Set(),
      progress: { position: () => null, positions: () => ({}), began: () => undefined },
      opened: never,
      take: never,
      full: false,
      room: async () => undefined,
      onChange: () => undefined,
    };
  }

  function producerLink(signal: AbortSignal, token: () => Promise<string>): ProducerLink {
    const never = () => assert.fail('nothing is opened');
    return { places, signal, token, opened: never, answered: never };
  }
});
