// Usage as columns and sums, the limits of a plan, and tokens by which a member acts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Usage } from '@motience/client';
import { kept, keep, linked, linkOf, may, type Acting } from '../../src/lib/acting.ts';
import { isName, limitsOf } from '../../src/lib/organisations.ts';
import { PERIODS, beginOf, busiest, columnsOf, groupsOf, totalOf, usageOf } from '../../src/lib/usage.ts';

const [DAY, WEEK, MONTH] = PERIODS as [(typeof PERIODS)[number], (typeof PERIODS)[number], (typeof PERIODS)[number]];
const NOW = new Date(2026, 10, 27, 14, 20).getTime();
const HOUR = 3_600_000;
const hour = (ago: number) => new Date(new Date(2026, 10, 27, 14).getTime() - ago * HOUR).toISOString();
const entry = (part: Partial<Usage>): Usage => ({ account_id: 1, hour: hour(0), direction: 'in', producer_id: '1', device_id: 'a', records: 1, bytes: 10, ...part });

test('a period has a column for every hour or day, the running one among them', () => {
  for (const [period, columns] of [[DAY, 24], [WEEK, 168], [MONTH, 30]] as const) {
    const empty = columnsOf([], period, NOW);
    assert.equal(empty.length, columns);
    assert.equal(empty[0]?.start, beginOf(period, NOW).getTime());
    assert.ok((empty.at(-1)?.start ?? 0) <= NOW);
  }
  assert.equal(beginOf(MONTH, NOW).getHours(), 0);
});

test('entries go into the column of their hour, or of their day', () => {
  const usage = [entry({ records: 5 }), entry({ device_id: 'b', records: 2 }), entry({ hour: hour(3), direction: 'out', records: 7, bytes: 70 }), entry({ hour: hour(30) })];
  const day = columnsOf(usage, DAY, NOW);
  assert.deepEqual(day.at(-1)?.in, { records: 7, bytes: 20 });
  assert.deepEqual(day.at(-4)?.out, { records: 7, bytes: 70 });
  assert.equal(day.reduce((sum, c) => sum + c.in.records, 0), 7, 'an hour before the period is in no column');
  assert.equal(busiest(day, 'out'), day.at(-4));
  assert.equal(busiest(columnsOf([], DAY, NOW), 'in'), null);
  const month = columnsOf(usage, MONTH, NOW);
  assert.equal(month.at(-1)?.in.records, 7);
  assert.equal(month.at(-2)?.in.records, 1);
});

test('sums are by device, producer or consumer, the largest first', () => {
  const out = { direction: 'out', device_id: undefined } as unknown as Partial<Usage>;
  const usage = [entry({ bytes: 1 }), entry({ device_id: 'b', bytes: 5 }), entry({ producer_id: '2', account_id: 2, bytes: 3 }), entry({ ...out, account_id: 9, bytes: 8 })];
  assert.deepEqual(groupsOf(usage, 'device').map((g) => `${g.producer} ${g.key}`), ['1 b', '2 a', '1 a']);
  assert.deepEqual(groupsOf(usage, 'producer').map((g) => [g.key, g.in.bytes, g.out.bytes]), [['1', 6, 8], ['2', 3, 0]]);
  assert.deepEqual(groupsOf(usage, 'consumer').map((g) => [g.key, g.out.bytes]), [['9', 8]]);
  assert.deepEqual(totalOf(usage, 'in'), { records: 3, bytes: 9 });
});

test('where there is too much for the columns, they end at a whole hour and the sums are complete', async () => {
  const page = (at: number) => Array.from({ length: 1000 }, () => entry({ hour: hour(at) }));
  let pages = 0;
  const dsm = {
    async *usage(_as: unknown, { sum }: { sum?: boolean }) {
      if (sum) yield [entry({ records: 99 })];
      for (let ago = 23; ago >= 0 && !sum; ago--) {
        pages++;
        yield page(ago);
      }
    },
  };
  const found = await usageOf({ dsm, session: null } as never, {}, DAY, new AbortController().signal, NOW);
  assert.equal(pages, 20, 'no more is asked for');
  assert.equal(found.until, Date.parse(hour(4)));
  assert.equal(found.columns.at(-5)?.in.records, 0);
  assert.equal(found.columns.at(-6)?.in.records, 1000);
  assert.equal(totalOf(found.summed, 'in').records, 99);
});

test('limits have words, and the part that is used where it is known', () => {
  assert.deepEqual(limitsOf({ records_per_second: 100, devices: 4, new_one: 3, none: 0 }, { records_per_second: 25, devices: 9, none: 1 }).map(({ label, used, part }) => [label, used, part]), [
    ['Records in, a second', 25, 0.25],
    ['Devices connected', 9, 1],
    ['New one', null, null],
    ['None', 1, 1],
  ]);
  assert.deepEqual(limitsOf({ log_bytes: 5, bytes_per_second: 1000 }, { bytes_per_second: 250.5 }).map(({ label, part }) => [label, part]), [['Log of each producer', null], ['Bytes in, a second', 0.2505]]);
  assert.deepEqual(['acme', 'a.b-c_9', '', 'a b', 'x'.repeat(65)].map(isName), [true, true, false, false, false]);
});

test('an address names the account that is acted for, and nothing else does', () => {
  assert.deepEqual(linked(linkOf('3f9c', 12)), { organisation: '3f9c', account: '12' });
  for (const text of [null, '', '3f9c', '3f9c:', ':12', '3f9c:012', '3f9c:1:2', '../x:1']) assert.equal(linked(text), null, String(text));
});

test('a token is kept for the tab until it ends', () => {
  const held = new Map<string, string>();
  const storage = { getItem: (key: string) => held.get(key) ?? null, setItem: (key: string, value: string) => void held.set(key, value), removeItem: (key: string) => void held.delete(key) } as unknown as Storage;
  const acting: Acting = { organisation: '3f9c', name: 'acme', account: { user_id: 1, username: 'p', role: 'producer' }, token: 'motk_x', scopes: ['consume:1'], until: 1_000 };
  keep(storage, acting);
  assert.deepEqual(kept(storage, 999), acting);
  assert.equal(kept(storage, 1_000), null);
  keep(storage, null);
  assert.equal(kept(storage, 0), null);
  held.set('motience.acting', '{"token":1}');
  assert.equal(kept(storage, 0), null);
  assert.equal(kept(null), null);
  assert.deepEqual([may(null, 'decide'), may(['consume:1'], 'decide'), may(['decide'], 'decide')], [true, false, true]);
});
