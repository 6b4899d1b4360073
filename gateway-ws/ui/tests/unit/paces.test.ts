// Rates of counters between two looks.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { span } from '../../src/lib/format.ts';
import { Paces } from '../../src/lib/paces.ts';

test('a counter has a rate from its second look on, and none once it is gone', () => {
  const paces = new Paces();
  assert.deepEqual([...paces.look([{ id: 'a', records: 5 }], 1_000)], []);
  assert.deepEqual([...paces.look([{ id: 'a', records: 11 }, { id: 'b', records: 1 }], 3_000)], [['a', 3]]);
  assert.deepEqual([...paces.look([{ id: 'b', records: 1 }], 4_000)], [['b', 0]]);
  assert.deepEqual([...paces.look([{ id: 'a', records: 2 }], 5_000)], [], 'another of the same name');
});

test('a store that answers at once has not answered in no time', () => {
  assert.deepEqual([span(0), span(0.02), span(0.4), span(12)], ['0.0 ms', '< 0.1 ms', '0.4 ms', '12 ms']);
});
