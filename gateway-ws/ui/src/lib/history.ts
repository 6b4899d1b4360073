// The records of one producer in a window of the devices' time: pages of the history, loaded once and kept as tracks.
import type { HistoryRecord, Motience } from '@motience/client';
import { Tracks } from './series.ts';

/** Pages read for one window; a window with more is drawn from these. */
const PAGES = 20;
const PAGE = 1_000;
/** Records kept for the table beside the chart. */
const ROWS = 200;

export interface Loaded {
  tracks: Tracks;
  /** The newest of the window, newest first. */
  rows: HistoryRecord[];
  count: number;
  /** There was more than is worth reading at once. */
  cut: boolean;
}

/** Loads a window, telling after each page what there is so far. */
export async function loadWindow(client: Motience, producer: string, from: number, to: number, progress: (loaded: Loaded) => void, signal: AbortSignal): Promise<Loaded> {
  const loaded: Loaded = { tracks: new Tracks(), rows: [], count: 0, cut: false };
  const range = { from: new Date(from * 1000).toISOString(), to: new Date(to * 1000).toISOString(), by: 'device', limit: PAGE } as const;
  let pages = 0;
  for await (const page of client.dsm.history(client.session, producer, range, signal)) {
    for (const record of page) {
      const seconds = Date.parse(record.timestamp) / 1000;
      if (!Number.isNaN(seconds)) loaded.tracks.add(producer, record.device_id, seconds, record.data);
    }
    loaded.count += page.length;
    loaded.rows = [...page.slice(-ROWS).reverse(), ...loaded.rows].slice(0, ROWS);
    progress(loaded);
    if (++pages === PAGES && page.length === PAGE) {
      loaded.cut = true;
      break;
    }
  }
  return loaded;
}
