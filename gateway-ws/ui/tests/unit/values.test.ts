// The small modules without surroundings: configuration, numbers, bounded lists, close codes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { backoff, closing } from '@motience/client';
import { Bounded } from '../../src/lib/bounded.ts';
import { endpoints, type Config } from '../../src/lib/config.ts';
import { bytes, clock, measure, rate, reading, span, tick } from '../../src/lib/format.ts';
import { preview, received } from '../../src/lib/record.ts';
import { Pending, Rate, Samples } from '../../src/lib/stats.ts';

const config: Config = { role: 'producer', ws_port: 8001, ws_path: '/producer', ap_port: 3001, sm_port: 3002, dsm_port: 3003, ap_url: null, sm_url: null, ws_url: null };

test('services are on the host of the page where no URL is given', () => {
  assert.deepEqual(endpoints(config, { protocol: 'http:', hostname: '[::1]' }), {
    ws: 'ws://[::1]:8001/producer',
    ap: 'http://[::1]:3001',
    sm: 'http://[::1]:3002',
    dsm: 'http://[::1]:3003',
    wss1: 'ws://[::1]:8001/producer',
    webtransport: null,
    issuers: [],
    testers: { consumer: null, producer: null, console: null, other: null },
  });
  assert.equal(endpoints(config, { protocol: 'https:', hostname: 'a.example' }).ws, 'wss://a.example:8001/producer');
});

test('given URLs win, without a slash at their end', () => {
  const at = endpoints({ ...config, ap_url: 'https://ap.example/', ws_url: 'wss://ws.example/producer' }, { protocol: 'http:', hostname: 'x' });
  assert.equal(at.ap, 'https://ap.example');
  assert.equal(at.ws, 'wss://ws.example/producer');
  assert.equal(at.sm, 'http://x:3002');
});

test('relative addresses are seen from the page, sockets too', () => {
  const at = endpoints({ ...config, ap_url: '../ap', ws_url: '../producer' }, { protocol: 'https:', hostname: 'a.example', href: 'https://a.example:4433/m/console/' });
  assert.equal(at.ap, 'https://a.example:4433/m/ap');
  assert.equal(at.ws, 'wss://a.example:4433/m/producer');
});

test('a reading and its unit share the prefix of a large number', () => {
  assert.deepEqual(measure(79_400_000_000, 'B'), ['79.4', 'GB']);
  assert.deepEqual(measure(1_500_000, ''), ['1.5 M', '']);
  assert.deepEqual(measure(21.5, '°C'), ['21.50', '°C']);
});

test('backoff grows, is bounded and is never nothing', () => {
  assert.equal(backoff(0, () => 0.9999), 500);
  assert.equal(backoff(3, () => 0.5), 2125);
  assert.equal(backoff(1000, () => 1), 30_000);
  assert.equal(backoff(5, () => 0), 250);
  assert.notEqual(backoff(0, () => 0.1), backoff(0, () => 0.2), 'many clients do not all wait for the shortest time');
});

test('a bounded list keeps the newest, newest first', () => {
  const list = new Bounded<number>(5);
  for (let i = 0; i < 1234; i++) list.push(i);
  assert.equal(list.length, 5);
  assert.deepEqual(list.newest(), [1233, 1232, 1231, 1230, 1229]);
  assert.deepEqual(list.newest(2, (n) => n % 2 === 0), [1232, 1230]);
  list.clear();
  assert.deepEqual(list.newest(), []);
});

test('rate counts finished seconds and forgets old ones', () => {
  const r = new Rate(5);
  assert.equal(r.perSecond(0), 0);
  for (let ms = 0; ms < 10_000; ms += 100) r.add(ms);
  assert.equal(r.perSecond(10_000), 10);
  assert.equal(r.perSecond(12_000), 6);
  assert.equal(r.perSecond(60_000), 0);
  r.add(60_500);
  assert.equal(r.perSecond(61_000), 0.2);
});

test('rate in its first second shows what came so far', () => {
  const r = new Rate(5);
  r.add(100);
  r.add(200);
  assert.equal(r.perSecond(300), 2);
  assert.equal(r.perSecond(1100), 2);
});

test('samples give median, last and tail of the newest', () => {
  const s = new Samples(100);
  assert.equal(s.percentile(50), null);
  assert.equal(s.last, null);
  for (let i = 1; i <= 1000; i++) s.add(i);
  assert.equal(s.last, 1000);
  assert.equal(s.percentile(50), 950);
  assert.equal(s.percentile(99), 999);
});

test('pending answers are first in, first out, and bounded', () => {
  const p = new Pending(3);
  for (let i = 1; i <= 5; i++) p.sent(i);
  assert.equal(p.length, 3);
  assert.deepEqual([p.answered(), p.answered(), p.answered(), p.answered()], [3, 4, 5, null]);
  for (let i = 0; i < 50_000; i++) {
    p.sent(i);
    assert.equal(p.answered(), i);
  }
  assert.equal(p.length, 0);
});

test('close codes have meanings, and hopeless ones are not tried again', () => {
  assert.match(closing(4401).name, /expired/);
  for (const code of [1000, 1008, 4401, 4403]) assert.equal(closing(code).retry, false, String(code));
  for (const code of [1001, 1006, 1012, 1013]) assert.equal(closing(code).retry, true, String(code));
  assert.equal(closing(4999).name, 'application code');
});

test('numbers read well', () => {
  assert.deepEqual([0, 999, 1000, 12_345, 999_499, 999_999, 5e9].map(bytes), ['0 B', '999 B', '1.0 kB', '12 kB', '999 kB', '1.0 MB', '5.0 GB']);
  assert.deepEqual([null, 0.42, 12.4, 1234, -3, 200_000, 57_369_600_000].map(span), ['–', '0.4 ms', '12 ms', '1.2 s', '−3.0 ms', '3 min 20 s', '664 d']);
  assert.deepEqual([0, 59_999, 61_000, 7_500_000].map(clock), ['0 s', '59 s', '1 min 1 s', '2 h 5 min']);
  assert.deepEqual([0, 0.2, 9.96, 1234].map(rate), ['0', '0.2', '10.0', '1,234']);
  assert.deepEqual([51, 24.3, 1013.25, 0.01234, 1_904_767_270.3].map(reading), ['51', '24.30', '1013.3', '0.0123', '1.9048 G']);
  assert.deepEqual([tick(24.5, 0.5), tick(1020, 20), tick(1.95e9, 5e7), tick(0.25, 0.05)], ['24.5', '1020', '1.95 G', '0.25']);
});

test('a received record is read, and anything else is not one', () => {
  const text = '{"producer_id":"123","device_id":"rpi_001","timestamp":"2025-01-29T11:35:00Z","data":{"temperature":24.3,"humidity":51}}';
  const at = Date.parse('2025-01-29T11:35:00.250Z');
  const record = received(text, 7, at);
  assert.equal(record?.producer, '123');
  assert.equal(record?.latency, 250);
  assert.equal(preview(record?.data), 'temperature 24.30  ·  humidity 51');
  assert.equal(received(text.replace('2025-01-29T11:35:00Z', 'soon'), 1, at)?.latency, null);
  for (const other of ['', '[]', 'null', '{"type":"pong"}', '{"producer_id":"1"}']) assert.equal(received(other, 1, at), null, other);
  assert.equal(preview({ state: 'on' }), '{"state":"on"}');
});
