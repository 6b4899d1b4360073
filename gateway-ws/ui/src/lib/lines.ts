// The lines of a chart: runs of points put together, cut, and asked for the value at a time.
import type { Points } from './series.ts';

/** One line of a strip. */
export interface Line {
  label: string;
  /** A CSS colour, such as `var(--c1)`. */
  colour: string;
  points: Points;
  /** Smallest and largest values at the times of the points, where a point stands for many records. */
  range?: [low: (number | null)[], high: (number | null)[]] | undefined;
  latest: number | null;
}

/** Two runs of points as one: the early run wins, the late one goes on behind its end. */
export function continued(early: Points, late: Points): Points {
  const end = early[0].at(-1);
  if (end === undefined) return late;
  const first = late[0].findIndex((t) => t > end);
  return first < 0 ? early : [early[0].concat(late[0].slice(first)), early[1].concat(late[1].slice(first))];
}

/** The points up to a time. */
export function until([times, values]: Points, end: number): Points {
  const last = times.findIndex((t) => t > end);
  return last < 0 ? [times, values] : [times.slice(0, last), values.slice(0, last)];
}

/** The value nearest to a time, if it is no further away than `reach` seconds. */
export function nearest([times, values]: Points, at: number, reach: number): number | null {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((times[middle] as number) < at) low = middle + 1;
    else high = middle;
  }
  const there = (i: number) => typeof values[i] === 'number' && Math.abs((times[i] as number) - at) <= reach;
  let [before, after] = [low - 1, low];
  while (before >= 0 && !there(before) && at - (times[before] as number) <= reach) before--;
  while (after < times.length && !there(after) && (times[after] as number) - at <= reach) after++;
  const found = [before, after].filter(there).sort((a, b) => Math.abs((times[a] as number) - at) - Math.abs((times[b] as number) - at));
  return found[0] === undefined ? null : (values[found[0]] as number);
}

/** The last value that there is. */
export function lastOf(values: readonly (number | null)[]): number | null {
  for (let i = values.length - 1; i >= 0; i--) if (typeof values[i] === 'number') return values[i] as number;
  return null;
}

/** Lengths of buckets, in seconds, with their names in the API. */
const STEPS: [number, string][] = [[1, '1s'], [5, '5s'], [10, '10s'], [30, '30s'], [60, '1m'], [120, '2m'], [300, '5m'], [600, '10m'], [1800, '30m'], [3600, '1h'], [7200, '2h'], [21_600, '6h'], [43_200, '12h'], [86_400, '24h']];
/** Windows up to this are drawn of records, longer ones of buckets. */
export const RAW_S = 1_200;
/** Buckets of one window, at most. */
const BUCKETS = 600;

/** The length of a bucket for a window of `span` seconds; 0: its records themselves are drawn. */
export function stepOf(span: number, manyRecords = false): number {
  if (span <= RAW_S && !manyRecords) return 0;
  return STEPS.find(([length]) => span / length <= BUCKETS)?.[0] ?? 86_400;
}

/** A length of a bucket as the API names it. */
export function stepName(step: number): string {
  return STEPS.find(([length]) => length === step)?.[1] ?? `${step}s`;
}

/** A reading's name, from its JSON pointer in the record: `/data/at/lat` is `at.lat`. */
export function nameOfPointer(pointer: string): string {
  const tokens = pointer.split('/').slice(2).map((token) => token.replaceAll('~1', '/').replaceAll('~0', '~'));
  return tokens.join('.') || 'value';
}
