// Where a line should end: a device that was silent for much longer than it usually is has not moved in a straight line.
import type { Points } from './series.ts';

/** A silence is as many usual intervals long, and at least so many seconds. */
const TIMES = 12;
const SHORTEST_S = 5;

/** The points with a null in every silence. Values that a record left out become undefined, which a line goes over. */
export function withBreaks([times, values]: Points): Points {
  if (times.length < 3) return [times, values];
  const limit = Math.max(SHORTEST_S, TIMES * usual(times));
  const out: [number[], (number | null | undefined)[]] = [[], []];
  for (let i = 0; i < times.length; i++) {
    const now = times[i] as number;
    const before = times[i - 1];
    if (before !== undefined && now - before > limit) {
      out[0].push((before + now) / 2);
      out[1].push(null);
    }
    out[0].push(now);
    out[1].push(values[i] ?? undefined);
  }
  return out as Points;
}

/** Two runs of points as one: the later run wins where they overlap. */
export function joined(early: Points, late: Points): Points {
  const first = late[0][0];
  if (first === undefined) return early;
  let end = early[0].length;
  while (end > 0 && (early[0][end - 1] as number) >= first) end--;
  return [early[0].slice(0, end).concat(late[0]), early[1].slice(0, end).concat(late[1])];
}

/** The median interval, from a sample. */
function usual(times: number[]): number {
  const step = Math.max(1, Math.floor(times.length / 200));
  const gaps: number[] = [];
  for (let i = 1; i < times.length; i += step) gaps.push((times[i] as number) - (times[i - 1] as number));
  gaps.sort((a, b) => a - b);
  return gaps[gaps.length >> 1] ?? 0;
}
