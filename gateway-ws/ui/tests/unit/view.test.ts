// Lines of charts, alerts, places and grants: what the console's views are made of.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Grant, StreamRecord } from '@motience/client';
import { Alerts } from '../../src/lib/alerts.ts';
import { short, timeTick, timeUnder } from '../../src/lib/format.ts';
import { EVERYTHING, restrictions, termsOf, textOf } from '../../src/lib/grants.ts';
import { continued, nameOfPointer, nearest, stepName, stepOf, until } from '../../src/lib/lines.ts';
import { coordinatesOf, placeOf } from '../../src/lib/places.ts';
import { Track } from '../../src/lib/series.ts';
import { snippets } from '../../src/lib/snippets.ts';

test('the value under the cursor is the nearest there is, and none from afar', () => {
  const points: [number[], (number | null)[]] = [[0, 10, 20, 21, 30], [1, 2, null, null, 5]];
  assert.equal(nearest(points, 9, 5), 2);
  assert.equal(nearest(points, 14, 10), 2);
  assert.equal(nearest(points, 22, 10), 5);
  assert.equal(nearest(points, 20, 3), null);
  assert.equal(nearest(points, 500, 10), null);
  assert.equal(nearest([[], []], 1, 10), null);
});

test('runs of points are put together and cut', () => {
  assert.deepEqual(continued([[1, 2], [1, 2]], [[1, 2, 3], [9, 9, 3]]), [[1, 2, 3], [1, 2, 3]]);
  assert.deepEqual(continued([[], []], [[1], [9]]), [[1], [9]]);
  assert.deepEqual(continued([[5], [5]], [[1], [9]]), [[5], [5]]);
  assert.deepEqual(until([[1, 2, 3], [1, 2, 3]], 2), [[1, 2], [1, 2]]);
});

test('long windows are made of buckets, of as many as a chart can show', () => {
  assert.equal(stepOf(900), 0);
  assert.equal(stepOf(900, true), 5);
  assert.deepEqual([3_600, 86_400, 604_800, 31 * 86_400].map((s) => stepName(stepOf(s))), ['10s', '5m', '30m', '2h']);
  assert.equal(nameOfPointer('/data/at/x~1y'), 'at.x/y');
  assert.equal(nameOfPointer('/data'), 'value');
});

test('times are told as far as they matter', () => {
  const at = new Date(2026, 10, 5, 14, 3, 7, 250).getTime() / 1000;
  assert.equal(timeTick(at, 5), '14:03:07');
  assert.equal(timeTick(at, 60), '14:03');
  assert.equal(timeTick(new Date(2026, 10, 5).getTime() / 1000, 3_600), 'Nov 5');
  assert.match(timeUnder(at, 300), /14:03:07$/);
  assert.match(timeUnder(at, 86_400), /^Nov 5, 14:03$/);
  assert.deepEqual([60, 150, 86_400, 90_061].map(short), ['1m', '2m 30s', '1d', '1d 1h']);
});

const record = (device: string, data: unknown): StreamRecord => ({ producer_id: '1', device_id: device, timestamp: '2026-01-01T00:00:00Z', data }) as StreamRecord;

test('an alert holds while a reading is beyond its limit, and is kept', () => {
  const kept = new Map<string, string>();
  const store = { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => void kept.set(key, value) };
  const alerts = new Alerts('7', store, 0);
  alerts.add({ producer: '1', device: '', kind: 'above', reading: 'at.t', value: 30 });
  alerts.record(record('a', { at: { t: 31 } }), 1000);
  alerts.record(record('b', { at: { t: 29 } }), 1000);
  alerts.record({ ...record('a', { at: { t: 99 } }), producer_id: '2' }, 1000);
  assert.deepEqual(alerts.firing.get().map(({ device, since, value }) => [device, since, value]), [['a', 1000, 31]]);
  alerts.record(record('a', { other: 1 }), 2000);
  alerts.record(record('a', { at: { t: 33 } }), 2000);
  assert.deepEqual(alerts.firing.get().map(({ since, value }) => [since, value]), [[1000, 33]]);
  const again = new Alerts('7', store, 2500);
  assert.deepEqual(again.firing.get().map(({ device, since, value, rule }) => [device, since, value, rule.value]), [['a', 1000, 31, 30]], 'it still fires after a reload');
  again.record(record('a', { at: { t: 3 } }), 2600);
  assert.deepEqual([again.firing.get(), new Alerts('7', store).firing.get()], [[], []]);
  alerts.record(record('a', { at: { t: 30 } }), 3000);
  assert.deepEqual(alerts.firing.get(), []);
  assert.deepEqual(new Alerts('7', store).rules.get(), alerts.rules.get());
  assert.deepEqual(new Alerts('8', store).rules.get(), []);
  alerts.remove(alerts.rules.get()[0]?.id ?? '');
  assert.deepEqual(new Alerts('7', store).rules.get(), []);
  assert.deepEqual(new Alerts('9', { getItem: () => '[{"id":1}, null, 5]', setItem: () => undefined }).rules.get(), []);
});

test('silence is noticed, of who was heard and of who never was', () => {
  const alerts = new Alerts('7', null, 0);
  alerts.add({ producer: '1', device: '', kind: 'silent', reading: '', value: 10 });
  alerts.look(9_000);
  assert.equal(alerts.firing.get().length, 0);
  alerts.look(11_000);
  assert.equal(alerts.firing.get().length, 1);
  alerts.record(record('a', 1), 12_000);
  alerts.look(13_000);
  assert.deepEqual(alerts.firing.get(), []);
  alerts.look(23_000);
  assert.deepEqual(alerts.firing.get().map((f) => f.device), ['a']);
});

test('coordinates are two readings beside each other', () => {
  assert.deepEqual(coordinatesOf(['t', 'at.lat', 'lon', 'at.lon']), ['at.lat', 'at.lon']);
  assert.equal(coordinatesOf(['flat', 'along']), null);
  const track = new Track('k', '1', 'd');
  track.add(1, [['lat', 48], ['lon', 11]]);
  track.add(2, [['lat', 48], ['lon', 11]]);
  track.add(3, [['lat', 49], ['lon', 12]]);
  track.add(4, [['lat', 200], ['lon', 12]]);
  assert.deepEqual(placeOf(track, 0), { device: 'd', latitude: 49, longitude: 12, trail: [[11, 48], [12, 49]] });
});

test('a scope is what a form says, and nothing is restricted by what it leaves empty', () => {
  assert.deepEqual(termsOf(EVERYTHING), {});
  const terms = termsOf({ ...EVERYTHING, devices: 'a, b', where: '/data/t > 1 and /data/u = 2', fields: '/data/t', every: '10s', since: '7d', connections: '2', expires: '2027-01-01T00:00' });
  assert.deepEqual(terms.agreements, [{ type: 'stream', devices: ['a', 'b'], where: ['/data/t > 1', '/data/u = 2'], fields: '/data/t', every: '10s', since: '7d', connections: 2 }]);
  const grant = { grantor: { id: 1, name: 'p' }, grantee: { id: 2, name: 'c' }, effectiveAt: '2026-01-01T00:00:00Z', ...terms } as Grant;
  assert.deepEqual(restrictions(grant).map(([name]) => name), ['Devices', 'Records with', 'Members', 'At most', 'Since', 'Connections', 'Until']);
  assert.deepEqual(termsOf(textOf(grant, (time) => time.toISOString())), terms);
  assert.deepEqual(restrictions(null), []);
});

test('a snippet is quoted for its language', () => {
  const all = snippets({ ap: 'http://h:1', sm: 'http://h:2', dsm: 'http://h:3' } as Parameters<typeof snippets>[0], '5', { where: ["/device_id = \"it's\""], every: '10s' }, 'TOKEN');
  assert.deepEqual(all.map((s) => s.id), ['curl', 'node', 'python']);
  assert.ok(all[0]?.code.includes(`--data-urlencode 'where=/device_id = "it'\\''s"'`));
  assert.ok(all.every((s) => s.code.includes('TOKEN')));
});
