// The records of one producer in a window of the devices' time, loaded once and kept as tracks: themselves, or what the server made of many.
import type { Bucket, HistoryRecord, Motience } from '@motience/client';
import { nameOfPointer, stepName } from './lines.ts';
import { Tracks } from './series.ts';

/** Pages read for one window; a window with more is drawn of buckets. */
const PAGES = 20;
const PAGE = 1_000;
/** Records kept for the table beside the chart. */
export const ROWS = 200;

export interface Loaded {
  tracks: Tracks;
  /** The smallest and the largest values, where points stand for many records. */
  range: { low: Tracks; high: Tracks } | null;
  /** The newest of the window, newest first. */
  rows: HistoryRecord[];
  /** There was more than is worth reading at once. */
  cut: boolean;
}

export interface Window {
  producer: string;
  /** Seconds. */
  from: number;
  to: number;
  where: string[];
}

const iso = (seconds: number) => new Date(seconds * 1000).toISOString();

/** Loads records, telling after each page what there is so far. */
export async function loadRecords(client: Motience, { producer, from, to, where }: Window, progress: (loaded: Loaded) => void, signal: AbortSignal): Promise<Loaded> {
  const loaded: Loaded = { tracks: new Tracks(), range: null, rows: [], cut: false };
  let pages = 0;
  for await (const page of client.dsm.history(client.session, producer, { from: iso(from), to: iso(to), by: 'device', limit: PAGE, where }, signal)) {
    for (const record of page) {
      const seconds = Date.parse(record.timestamp) / 1000;
      if (!Number.isNaN(seconds)) loaded.tracks.add(producer, record.device_id, seconds, record.data);
    }
    loaded.rows = [...page.slice(-ROWS).reverse(), ...loaded.rows].slice(0, ROWS);
    progress(loaded);
    if (++pages === PAGES && page.length === PAGE) {
      loaded.cut = true;
      break;
    }
  }
  return loaded;
}

/** Loads buckets of `step` seconds; behind those of `begun`, where there are some. */
export async function loadBuckets(client: Motience, { producer, from, to, where }: Window, step: number, progress: (loaded: Loaded) => void, signal: AbortSignal, begun?: Loaded): Promise<Loaded> {
  const loaded = begun ?? emptied();
  const query = { from: iso(from), to: iso(to), by: 'device', bucket: stepName(step), where } as const;
  const buckets = await client.dsm.buckets(client.session, producer, query, signal, (some) => {
    if (begun) return;
    const part = emptied();
    for (const bucket of some) add(part, producer, bucket, step);
    progress(part);
  });
  for (const bucket of buckets) add(loaded, producer, bucket, step);
  return loaded;
}

function emptied(): Loaded {
  return { tracks: new Tracks(), range: { low: new Tracks(), high: new Tracks() }, rows: [], cut: false };
}

function add(loaded: Loaded, producer: string, bucket: Bucket, step: number): void {
  // A point in the middle of what it stands for.
  const seconds = Date.parse(bucket.start) / 1000 + step / 2;
  const values = Object.entries(bucket.values).map(([pointer, numbers]) => [nameOfPointer(pointer), numbers] as const);
  const of = (which: 'avg' | 'min' | 'max') => Object.fromEntries(values.map(([name, numbers]) => [name, numbers[which]]));
  loaded.tracks.add(producer, bucket.device_id, seconds, of('avg'));
  loaded.range?.low.add(producer, bucket.device_id, seconds, of('min'));
  loaded.range?.high.add(producer, bucket.device_id, seconds, of('max'));
}

/** Finds the newest records up to a time, newest first: some steps back, and further where that brings few. */
export async function newestBefore(client: Motience, { producer, from, to, where }: Window, signal: AbortSignal): Promise<HistoryRecord[]> {
  for (let back = 30; ; back *= 8) {
    const begin = Math.max(from, to - back);
    const found: HistoryRecord[] = [];
    let pages = 0;
    for await (const page of client.dsm.history(client.session, producer, { from: iso(begin), to: iso(to), by: 'device', limit: PAGE, where }, signal)) {
      found.push(...page);
      if (++pages === PAGES) break;
    }
    if (found.length >= ROWS || begin === from) return found.slice(-ROWS).reverse();
  }
}
