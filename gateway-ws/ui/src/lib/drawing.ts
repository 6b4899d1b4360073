// A device's reading as a line of a chart: the past that is loaded, and behind it all that has come since.
import { joined, withBreaks } from './breaks.ts';
import type { Loaded } from './history.ts';
import { continued, lastOf, until, type Line } from './lines.ts';
import type { Points, Track } from './series.ts';

/** The window that is drawn, in seconds. */
export interface Shown {
  from: number;
  to: number;
  /** Whether the window ends in the past: points behind it are left out. */
  ended: boolean;
}

/** The line of a reading, without its label and colour; broken in every silence. `track` has what came live, and is undefined where that is not drawn. */
export function drawn(key: string, name: string, loaded: Loaded | null, track: Track | undefined, { from, to, ended }: Shown): Pick<Line, 'points' | 'range'> & { last: number | null } {
  const old = loaded?.tracks.get(key)?.points(name, from);
  const live = track?.points(name, from);
  const buckets = loaded?.range ?? null;
  let points: Points = old && live ? (buckets ? continued(old, live) : joined(old, live)) : (old ?? live ?? [[], []]);
  if (ended) points = until(points, to);
  const last = lastOf(points[1]);
  if (!buckets || !old) return { points: withBreaks(points), range: undefined, last };
  // Behind the buckets come records, each its own smallest and largest.
  const edge = (values: (number | null)[] | undefined) => points[0].map((_, i) => (i < old[0].length ? (values?.[i] ?? null) : (points[1][i] ?? null)));
  const [low, high] = [buckets.low, buckets.high].map((tracks) => withBreaks([points[0], edge(tracks.get(key)?.points(name, from)[1])])[1]);
  return { points: withBreaks(points), range: low && high ? [low, high] : undefined, last };
}
