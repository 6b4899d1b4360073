// Retention and erasure in words and fields; the audit log as it is searched, saved and remembered.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AuditChain, KeptRecords } from '@motience/client';
import { Heads, accountOf, exported, linesOf, queryOf, told, type AuditText } from '../../src/lib/audit.ts';
import { classText, classesOf, firstCut, historyCut, isLess, recordsOf, said, textOf, valueOf, wishOf } from '../../src/lib/retention.ts';

const KEPT: KeptRecords = { producer_id: '1', log_age_seconds: 86_400, log_bytes: 64 << 20, history_age_seconds: null, history_rows: null, own: { log_age_seconds: null, log_bytes: null, history_age_seconds: null, classes: [] }, first_cut: null, history_cut: null };

test('a bound is read and written in the unit in which it is whole', () => {
  for (const [value, kind, words] of [[60, 'age', '1 minute'], [5400, 'age', '90 minutes'], [7200, 'age', '2 hours'], [86_400, 'age', '1 day'], [64 << 20, 'size', '64 MiB'], [1 << 30, 'size', '1 GiB'], [null, 'age', 'for ever']] as const) {
    assert.equal(said(value, kind), words);
    if (value !== null) assert.equal(valueOf(textOf(value, kind), kind), value);
  }
  assert.equal(said(90, 'age'), '1.5 minutes');
  assert.deepEqual([valueOf({ amount: ' ', unit: 'days' }, 'age'), valueOf({ amount: '1,5', unit: 'hours' }, 'age'), valueOf({ amount: 'x', unit: 'days' }, 'age'), valueOf({ amount: '-1', unit: 'MiB' }, 'size')], [null, 5400, undefined, undefined]);
  assert.deepEqual(textOf(null, 'size'), { amount: '', unit: 'MiB' });
});

test('less is kept where a limit falls, or begins', () => {
  assert.equal(isLess({}, KEPT), false);
  assert.equal(isLess({ log_age_seconds: 86_400, log_bytes: null }, KEPT), false);
  assert.equal(isLess({ log_age_seconds: 3_600 }, KEPT), true);
  assert.equal(isLess({ history_age_seconds: 1e9 }, KEPT), true, 'it was kept for ever');
});

test('the bound that comes first is said with its time', () => {
  assert.equal(firstCut(KEPT), 'The log has no records.');
  assert.equal(firstCut({ ...KEPT, first_cut: { bound: 'age', seconds: 7_500 } }), 'The oldest record of the log goes in 2 h 5 min, as it is 1 day old then.');
  assert.equal(firstCut({ ...KEPT, first_cut: { bound: 'bytes', seconds: 0 } }), 'The oldest record of the log goes within a minute, as the log has 64 MiB then.');
});

test('the bound of the history that comes first is said, or that nothing goes', () => {
  assert.equal(historyCut(KEPT), 'Rows stay in the history for ever.');
  assert.equal(historyCut({ ...KEPT, history_age_seconds: 60 }), 'The history has no rows.');
  assert.equal(historyCut({ ...KEPT, history_age_seconds: 86_400, history_cut: { bound: 'age', seconds: 90 } }), 'The oldest row of the history goes in 1 min 30 s, as it is 1 day old then.');
  assert.equal(historyCut({ ...KEPT, history_rows: 5_000, history_cut: { bound: 'rows', seconds: 7_200 } }), 'The oldest row of the history goes in 2 h 0 min, as there are 5,000 rows then.');
});

test('classes of devices are what a form says, each once and with a time', () => {
  const camera = { label: 'kind', value: 'camera', history_age_seconds: 7_200 };
  const text = classText(camera);
  assert.deepEqual(text, { label: 'kind', value: 'camera', age: { amount: '2', unit: 'hours' } });
  assert.deepEqual(classesOf([{ ...text, label: ' kind ' }, { ...text, value: '' }]), [camera, { ...camera, value: '' }]);
  for (const wrong of [[{ ...text, label: ' ' }], [{ ...text, age: { amount: '', unit: 'days' } }], [{ ...text, age: { amount: 'x', unit: 'days' } }], [text, { ...text, label: 'kind ' }]]) assert.equal(typeof classesOf(wrong), 'string', JSON.stringify(wrong));
  // A class that is new or shorter takes rows away, one that goes or is longer does not.
  const kept = { ...KEPT, own: { ...KEPT.own, classes: [camera] } };
  const less = (age: number, value = 'camera') => isLess({ classes: [{ ...camera, value, history_age_seconds: age }] }, kept);
  assert.deepEqual([less(3_600), less(7_200), less(86_400), less(86_400, 'door'), isLess({ classes: [] }, kept)], [true, false, false, true, false]);
});

test('an erasure is what a form says, and nothing is erased by an empty one', () => {
  const empty = { device: ' ', from: '', to: '', first: '', last: '' };
  assert.equal(typeof wishOf(empty), 'string');
  assert.deepEqual(wishOf({ ...empty, device: ' d ', first: '3', last: '9' }), { device_id: 'd', first: 3, last: 9 });
  assert.deepEqual(wishOf({ ...empty, from: '2026-11-27T10:00' }), { from: new Date('2026-11-27T10:00').toISOString() });
  for (const wrong of [{ first: '0' }, { first: '1.5' }, { first: '9', last: '3' }, { from: '2026-11-28T10:00', to: '2026-11-27T10:00' }]) assert.equal(typeof wishOf({ ...empty, ...wrong }), 'string', JSON.stringify(wrong));
  assert.equal(recordsOf({ device_id: 'd', first: 3, last: 9 }), 'of d, with offsets 3 to 9');
  assert.match(recordsOf({ to: '2026-11-27T10:00:00Z' }), /^of all devices, up to /);
});

test('a search names an account by its id or its whole name', async () => {
  const client = { ap: { accounts: () => Promise.resolve([{ id: 7, username: 'ada' }, { id: 8, username: 'ada-2' }]) }, session: null } as never;
  assert.deepEqual([await accountOf(client, ''), await accountOf(client, ' 12 '), await accountOf(client, 'ada')], [null, 12, 7]);
  await assert.rejects(accountOf(client, 'ad'), /No account is called ad/);
  const text: AuditText = { who: '', about: false, what: ' key ', outcome: 'refused', from: '', until: '2026-11-27T10:00', source: '::1' };
  assert.deepEqual(queryOf(text, 7), { actor: 7, act: 'key', outcome: 'refused', address: '::1', to: new Date('2026-11-27T10:00').toISOString() });
  assert.deepEqual(queryOf({ ...text, about: true, what: '', outcome: 'any', until: '', source: '' }, 7), { account: 7 });
  assert.equal(typeof queryOf({ ...text, from: '2026-11-27T11:00' }, null), 'string');
});

test('everything that matches is saved, a page after another', async () => {
  const asked: (number | undefined)[] = [];
  const sm = {
    audit(_as: unknown, { before, act }: { before?: number; act?: string }) {
      asked.push(before);
      assert.equal(act, 'key');
      return Promise.resolve(Array.from({ length: before === undefined ? 1000 : 2 }, (_, i) => ({ id: (before ?? 2000) - i - 1 })));
    },
  };
  const counts: number[] = [];
  const { parts, lines, cut } = await exported({ sm, session: null } as never, { act: 'key' }, new AbortController().signal, (n) => counts.push(n));
  assert.deepEqual([asked, counts, lines, cut], [[undefined, 1000], [1000, 1002], 1002, false]);
  assert.equal(parts.join('').trimEnd().split('\n').length, 1002);
  assert.equal(linesOf([{ a: '\n' }]), '{"a":"\\n"}\n');
  assert.equal(told({ code: 'x', none: null, of_two: [1, 2] }), 'code x, of two [1,2]');
});

test('a head is remembered while the chain holds', () => {
  const held = new Map<string, string>();
  const storage = { getItem: (key: string) => held.get(key) ?? null, setItem: (key: string, value: string) => void held.set(key, value) } as unknown as Storage;
  const heads = new Heads('http://sm', storage);
  const chain: AuditChain = { lines: 9, hash: 'a'.repeat(64), erased: 0, unchained: 0, bad: null };
  assert.equal(heads.last(), null);
  heads.keep(chain, 5);
  assert.deepEqual(heads.last(), { lines: 9, hash: chain.hash, at: 5 });
  heads.keep({ ...chain, lines: 3, bad: { line: 4, why: 'is missing' } }, 6);
  assert.equal(heads.last()?.lines, 9);
  assert.equal(new Heads('http://other', storage).last(), null);
  held.set('motience.audit http://sm', '{"lines":1,"hash":"no"}');
  assert.equal(heads.last(), null);
  assert.equal(new Heads('x', null).last(), null);
});
