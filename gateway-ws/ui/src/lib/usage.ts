// Usage as it is drawn: by hour or by day, and summed up by device, producer or consumer.
import type { Motience, Usage, UsageQuery } from '@motience/client';

export interface Amount {
  records: number;
  bytes: number;
}

/** A length of time that is drawn, and the columns it is drawn in. */
export interface Period {
  id: string;
  label: string;
  days: number;
  column: 'hour' | 'day';
}
export const PERIODS: Period[] = [
  { id: '1d', label: '24 hours', days: 1, column: 'hour' },
  { id: '7d', label: '7 days', days: 7, column: 'hour' },
  { id: '30d', label: '30 days', days: 30, column: 'day' },
];

export interface Column {
  /** When it begins, in milliseconds since 1970. */
  start: number;
  in: Amount;
  out: Amount;
}

/** In whose name amounts are summed up. */
export type Kind = 'device' | 'producer' | 'consumer';

export interface Group {
  key: string;
  producer: string;
  in: Amount;
  out: Amount;
}

export interface Found {
  period: Period;
  columns: Column[];
  /** All of the time, whatever the columns have room for. */
  summed: Usage[];
  /** The columns are of the time before this one only: there is more than is asked for. */
  until: number | null;
}

const HOUR_MS = 3_600_000;
/** Entries by the hour that are asked for at most. */
const MOST = 20_000;

/** The beginning of a period that ends now: the hour's, or the day's. */
export function beginOf(period: Period, now: number): Date {
  const begin = new Date(now);
  begin.setMinutes(0, 0, 0);
  if (period.column === 'hour') return new Date(begin.getTime() - (period.days * 24 - 1) * HOUR_MS);
  begin.setHours(0);
  begin.setDate(begin.getDate() - period.days + 1);
  return begin;
}

/** Everything about a period; hours first, then the sums, which may know a record more. */
export async function usageOf(client: Motience, of: Pick<UsageQuery, 'account' | 'organisation'>, period: Period, signal: AbortSignal, now = Date.now()): Promise<Found> {
  const query = { ...of, from: beginOf(period, now).toISOString() };
  const hours: Usage[] = [];
  let until: number | null = null;
  for await (const page of client.dsm.usage(client.session, query, signal)) {
    hours.push(...page);
    if (hours.length < MOST) continue;
    // The hour at which it stops may be incomplete.
    until = Date.parse(hours.at(-1)?.hour ?? '');
    break;
  }
  const summed: Usage[] = [];
  for await (const page of client.dsm.usage(client.session, { ...query, sum: true }, signal)) summed.push(...page);
  return { period, columns: columnsOf(hours.filter((u) => until === null || Date.parse(u.hour) < until), period, now), summed, until };
}

/** A column for every hour or day of the period, also where nothing was. */
export function columnsOf(usage: Usage[], period: Period, now: number): Column[] {
  const columns: Column[] = [];
  for (let at = beginOf(period, now); at.getTime() <= now; at = after(at, period)) columns.push({ start: at.getTime(), in: nothing(), out: nothing() });
  for (const entry of usage) {
    const at = Date.parse(entry.hour);
    // The last one that has begun by then.
    let index = columns.length - 1;
    while (index >= 0 && (columns[index]?.start ?? 0) > at) index--;
    const column = columns[index];
    if (column) add(column[entry.direction as 'in' | 'out'], entry);
  }
  return columns;
}

/** Sums by device, producer or consumer: those with the most bytes first. */
export function groupsOf(summed: Usage[], kind: Kind): Group[] {
  const groups = new Map<string, Group>();
  for (const entry of summed) {
    const goesOut = entry.direction === 'out';
    if (kind === 'device' ? goesOut : kind === 'consumer' && !goesOut) continue;
    const key = kind === 'device' ? `${entry.producer_id}\n${entry.device_id ?? ''}` : kind === 'producer' ? entry.producer_id : String(entry.account_id);
    const group = groups.get(key) ?? { key: kind === 'device' ? (entry.device_id ?? '') : key, producer: entry.producer_id, in: nothing(), out: nothing() };
    add(goesOut ? group.out : group.in, entry);
    groups.set(key, group);
  }
  const weight = (g: Group) => g.in.bytes + g.out.bytes;
  return [...groups.values()].sort((a, b) => weight(b) - weight(a) || a.key.localeCompare(b.key));
}

/** Everything that went in one direction. */
export function totalOf(summed: Usage[], direction: 'in' | 'out'): Amount {
  const total = nothing();
  for (const entry of summed) if (entry.direction === direction) add(total, entry);
  return total;
}

/** The column with the most of it. */
export function busiest(columns: Column[], direction: 'in' | 'out'): Column | null {
  let most: Column | null = null;
  for (const column of columns) if (column[direction].records > (most?.[direction].records ?? 0)) most = column;
  return most;
}

function after(at: Date, { column }: Period): Date {
  if (column === 'hour') return new Date(at.getTime() + HOUR_MS);
  const next = new Date(at);
  next.setDate(next.getDate() + 1);
  return next;
}

const nothing = (): Amount => ({ records: 0, bytes: 0 });

function add(to: Amount, { records, bytes }: Amount): void {
  to.records += records;
  to.bytes += bytes;
}
