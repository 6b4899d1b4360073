// A range of the history as a file: every page followed, one row or line a record, within memory that is bounded.
import type { HistoryRecord, Motience } from '@motience/client';
import { flatten } from './series.ts';

export type Format = 'csv' | 'ndjson';

/** Columns of readings in a CSV; readings beyond are left out and counted. */
const COLUMNS = 200;
/** The text that a download may grow to before it ends with a reason. */
const MOST_BYTES = 512 << 20;

export interface Progress {
  records: number;
  bytes: number;
  /** How far through the range, 0 to 1, by the records' own time. */
  part: number;
}

export interface Saved extends Progress {
  blob: Blob;
  name: string;
  /** Ended early, as the file would have become too large. */
  cut: boolean;
  /** Readings that found no column. */
  left: number;
}

export interface Wanted {
  producer: string;
  name: string;
  from: Date;
  to: Date;
  format: Format;
}

export async function download(client: Motience, wanted: Wanted, progress: (so: Progress) => void, signal: AbortSignal): Promise<Saved> {
  const { from, to, format, producer } = wanted;
  const writer = format === 'csv' ? new Csv() : new Ndjson();
  const so: Progress = { records: 0, bytes: 0, part: 0 };
  const span = Math.max(1, to.getTime() - from.getTime());
  let cut = false;
  const range = { from: from.toISOString(), to: to.toISOString(), by: 'device', limit: 1000 } as const;
  for await (const page of client.dsm.history(client.session, producer, range, signal)) {
    writer.add(page);
    so.records += page.length;
    so.bytes = writer.bytes;
    const last = page.at(-1);
    if (last) so.part = Math.min(1, Math.max(so.part, (Date.parse(last.timestamp) - from.getTime()) / span));
    progress({ ...so });
    if (so.bytes > MOST_BYTES) {
      cut = true;
      break;
    }
  }
  const blob = writer.blob();
  return { ...so, part: 1, bytes: blob.size, blob, cut, left: writer.left, name: `${fileName(wanted.name)}_${stamp(from)}_${stamp(to)}.${format}` };
}

/** One JSON object a line, as consumers receive it. */
class Ndjson {
  readonly #parts: string[] = [];
  bytes = 0;
  left = 0;

  add(page: HistoryRecord[]): void {
    if (page.length === 0) return;
    const text = page.map((record) => `${JSON.stringify(received(record))}\n`).join('');
    this.#parts.push(text);
    this.bytes += text.length;
  }

  blob(): Blob {
    return new Blob(this.#parts, { type: 'application/x-ndjson' });
  }
}

/** A record of the history as consumers receive it: an `id` is then the device's own. */
function received(record: HistoryRecord): object {
  const { id: _id, received_at: _at, sent_id, ...rest } = record as HistoryRecord & { sent_id?: unknown };
  return sent_id === undefined ? rest : { ...rest, id: sent_id };
}

/** A row a record, a column a reading. The columns are known only at the end, so each part keeps those it had. */
class Csv {
  readonly #columns: string[] = [];
  readonly #known = new Map<string, number>();
  readonly #parts: { text: string; columns: number; rows: number }[] = [];
  bytes = 0;
  left = 0;

  add(page: HistoryRecord[]): void {
    if (page.length === 0) return;
    const rows = page.map((record) => {
      const cells: string[] = [];
      for (const [name, value] of flatten(record.data, COLUMNS)) {
        const column = this.#column(name);
        if (column === undefined) this.left++;
        else cells[column] = String(value);
      }
      return [cell(record.timestamp), cell(record.device_id), ...Array.from(cells, (c) => c ?? '')];
    });
    // Every row of a part is as wide as the part; what later parts add is filled up when the file is made.
    const width = this.#columns.length + 2;
    const text = rows.map((row) => row.concat(Array<string>(width - row.length).fill('')).join(',')).join('\r\n');
    this.#parts.push({ text, columns: width, rows: rows.length });
    this.bytes += text.length;
  }

  blob(): Blob {
    const width = this.#columns.length + 2;
    const head = ['timestamp', 'device_id', ...this.#columns.map(cell)].join(',');
    const parts = this.#parts.map(({ text, columns }) => {
      const missing = ','.repeat(width - columns);
      return `${missing === '' ? text : text.replaceAll('\r\n', `${missing}\r\n`) + missing}\r\n`;
    });
    return new Blob([`${head}\r\n`, ...parts], { type: 'text/csv' });
  }

  #column(name: string): number | undefined {
    const known = this.#known.get(name);
    if (known !== undefined || this.#columns.length >= COLUMNS) return known;
    this.#known.set(name, this.#columns.length);
    this.#columns.push(name);
    return this.#columns.length - 1;
  }
}

/** A cell, quoted where it must be. A text that a spreadsheet would take for a formula gets an apostrophe in front. */
function cell(text: string): string {
  // No line breaks inside: rows are told apart by them.
  const line = text.replace(/[\r\n]+/g, ' ');
  const safe = /^[=+\-@\t]/.test(line) ? `'${line}` : line;
  return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function fileName(text: string): string {
  return text.replace(/[^\w.-]+/g, '_').slice(0, 60) || 'records';
}

function stamp(date: Date): string {
  return date.toISOString().slice(0, 19).replace(/[-:]/g, '');
}
