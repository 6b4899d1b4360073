// Readings over time: names, windows and bounds. And the simulated device that feeds them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DEVICES, POINTS, SERIES, Track, Tracks, flatten } from '../../src/lib/series.ts';
import { Simulation, stamped } from '../../src/lib/simulate.ts';

test('nested numbers become series names', () => {
  assert.deepEqual(flatten({ t: 1, deep: { a: { b: 2 } }, list: [3, 'x', { y: 4 }], on: true, text: '5', none: null, nan: Number.NaN }), [
    ['t', 1],
    ['deep.a.b', 2],
    ['list.0', 3],
    ['list.2.y', 4],
    ['on', 1],
  ]);
  assert.deepEqual(flatten(7), [['value', 7]]);
  assert.equal(flatten(Object.fromEntries(Array.from({ length: 999 }, (_, i) => [`k${i}`, i]))).length, SERIES);
});

test('a track holds a window, with gaps where a reading was left out', () => {
  const track = new Track('k', '1', 'd');
  track.add(10, [['a', 1]]);
  track.add(11, [['b', 5]]);
  track.add(12, [['a', 3], ['b', 6]]);
  assert.deepEqual(track.names, ['a', 'b']);
  assert.deepEqual(track.points('a', 0), [[10, 11, 12], [1, null, 3]]);
  assert.deepEqual(track.points('b', 11), [[11, 12], [5, 6]]);
  assert.deepEqual(track.points('unknown', 12), [[12], [null]]);
  assert.deepEqual(track.points('a', 13), [[], []]);
  assert.equal(track.latest('a'), 3);
});

test('a slow device is bounded: what is older than an hour goes', () => {
  const track = new Track('k', '1', 'd');
  const all = POINTS * 2 + 123;
  for (let i = 0; i < all; i++) track.add(i, [['a', i]]);
  const [times, values] = track.points('a', 0);
  assert.ok(times.length <= POINTS && times.length >= 3600, `${times.length} points`);
  assert.deepEqual(times, values);
  assert.equal(times.at(-1), all - 1);
  assert.equal(track.since, times[0]);
  assert.deepEqual(track.points('a', all - 2)[0], [all - 2, all - 1]);
});

test('a fast device keeps its whole hour, drawn coarser', () => {
  const track = new Track('k', '1', 'd');
  for (let i = 0; i <= 360_000; i++) track.add(i / 100, i % 2 === 0 ? [['even', i]] : [['odd', i]]);
  const [times, even] = track.points('even', 0);
  assert.equal(track.since, 0);
  assert.ok(times.length > POINTS / 4 && times.length <= POINTS, `${times.length} points`);
  for (let i = 1; i < times.length; i++) assert.ok((times[i] ?? 0) > (times[i - 1] ?? 0));
  assert.ok(even.every((v, i) => v !== null && Math.abs(v / 100 - (times[i] ?? 0)) < 3), 'values stay at their time');
  assert.equal(track.latest('even'), 360_000);
  assert.equal(track.latest('odd'), null);
});

test('a clock that is set back does not disorder a track', () => {
  const track = new Track('k', '1', 'd');
  for (const t of [5, 3, 6]) track.add(t, [['a', t]]);
  assert.deepEqual(track.points('a', 0), [[5, 6], [3, 6]]);
});

test('the device that was silent longest makes room', () => {
  const tracks = new Tracks();
  for (let i = 0; i < DEVICES; i++) tracks.add('1', `d${i}`, i, { a: 1 });
  tracks.add('1', 'd0', 100, { a: 2 });
  tracks.add('1', 'new', 101, { a: 3 });
  assert.equal(tracks.list().length, DEVICES);
  const devices = tracks.list().map((t) => t.device);
  assert.ok(devices.includes('d0') && devices.includes('new') && !devices.includes('d1'));
  tracks.add('1', 'no numbers', 102, { a: 'x' });
  assert.ok(!tracks.list().some((t) => t.device === 'no numbers'));
});

test('a simulated device moves its numbers, stays near them and keeps the rest', () => {
  const record = { device_id: 'd', timestamp: 't', data: { temperature: 24.3, label: 'x', deep: [{ p: 1013.25 }] } };
  const simulation = new Simulation();
  const seen = new Set<number>();
  for (let i = 0; i < 2000; i++) {
    const next = simulation.next(record) as typeof record;
    assert.ok(Math.abs(next.data.temperature - 24.3) < 24.3 * 0.25);
    assert.equal(next.data.label, 'x');
    assert.equal(typeof next.data.deep[0]?.p, 'number');
    seen.add(next.data.temperature);
  }
  assert.ok(seen.size > 50);
  assert.equal(record.data.temperature, 24.3);
  const field = simulation.next({ type: 'data', payload: { a: 1 } }) as { payload: { a: number } };
  assert.notEqual(field.payload.a, undefined);
});

test('the timestamp is set in both forms', () => {
  const now = new Date('2026-01-02T03:04:05.678Z');
  assert.deepEqual(stamped({ timestamp: 'old', data: {} }, now), { timestamp: now.toISOString(), data: {} });
  assert.deepEqual(stamped({ type: 'data', payload: { data: {} } }, now), { type: 'data', payload: { data: {}, timestamp: now.toISOString() } });
  assert.deepEqual(stamped({ type: 'data', payload: { a: 1 } }, now), { type: 'data', payload: { a: 1 } });
  assert.deepEqual(stamped({ type: 'ping' }, now), { type: 'ping' });
});
