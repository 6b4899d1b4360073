// A range as a file: every page followed, columns that appear later, quoting, cancelling.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { HistoryRecord, Motience } from '@motience/client';
import { download, type Format } from '../../src/lib/download.ts';
import { unitOf } from '../../src/lib/units.ts';

const at = (second: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString();
const record = (second: number, data: unknown, device = 'd'): HistoryRecord => ({ id: second, producer_id: '1', device_id: device, timestamp: at(second), data, received_at: at(second) });

function client(pages: HistoryRecord[][], asked: unknown[] = []): Motience {
  async function* history(_as: unknown, _producer: unknown, query: unknown, signal: AbortSignal) {
    asked.push(query);
    for (const page of pages) {
      signal.throwIfAborted();
      yield page;
    }
  }
  return { session: {}, dsm: { history } } as unknown as Motience;
}

const wanted = (format: Format) => ({ producer: '1', name: 'weather north/1', from: new Date(at(0)), to: new Date(at(20)), format });

test('a CSV has a column for each reading of any page', async () => {
  const pages = [[record(0, { t: 1 }), record(5, { t: 2 }, '=a,"b"')], [record(10, { t: 3, deep: { h: [4] } })]];
  const parts: number[] = [];
  const saved = await download(client(pages), wanted('csv'), (so) => parts.push(so.part), new AbortController().signal);
  assert.equal(await saved.blob.text(), `timestamp,device_id,t,deep.h.0\r\n${at(0)},d,1,\r\n${at(5)},"'=a,""b""",2,\r\n${at(10)},d,3,4\r\n`);
  assert.equal(saved.name, 'weather_north_1_20260101T000000_20260101T000020.csv');
  assert.deepEqual(parts, [0.25, 0.5]);
  assert.deepEqual({ records: saved.records, cut: saved.cut, left: saved.left }, { records: 3, cut: false, left: 0 });
});

test('NDJSON is what consumers receive', async () => {
  const asked: unknown[] = [];
  const more = { ...record(2, 1), battery: 81, sent_id: 'own' };
  const saved = await download(client([[record(1, { a: 'x' }), more]], asked), wanted('ndjson'), () => undefined, new AbortController().signal);
  assert.equal(await saved.blob.text(), `{"producer_id":"1","device_id":"d","timestamp":"${at(1)}","data":{"a":"x"}}\n{"producer_id":"1","device_id":"d","timestamp":"${at(2)}","data":1,"battery":81,"id":"own"}\n`);
  assert.deepEqual(asked, [{ from: at(0), to: at(20), by: 'device', limit: 1000 }]);
});

test('it can be cancelled', async () => {
  const stop = new AbortController();
  const pages = [[record(0, { t: 1 })], [record(1, { t: 1 })]];
  await assert.rejects(download(client(pages), wanted('csv'), () => stop.abort(), stop.signal), { name: 'AbortError' });
});

test('units are guessed only where the name leaves little doubt', () => {
  assert.deepEqual(['temperature', 'cpu_percent', 'memory.used_bytes', 'roundTripMs', 'humidity', 'pressure', 'state'].map(unitOf), ['°C', '%', 'B', 'ms', '%', '', '']);
});
