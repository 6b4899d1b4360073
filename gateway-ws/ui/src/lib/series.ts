// Numeric readings over time, in bounded memory: nested numbers become named series, and each device keeps its newest points.
import { isObject } from './json.ts';

/** Points kept for each device. */
export const POINTS = 6_000;
/** Series kept for each device; more names are counted and left out. */
export const SERIES = 24;
/** Devices kept; the one that was silent longest makes room. */
export const DEVICES = 32;
/** The longest window that can be drawn. */
const LONGEST_S = 3_600;
/** Readings closer than this share a point. */
const FIRST_SPACING_S = 0.02;
const DEEPEST = 6;

/** `{a: {b: 1}, c: [2]}` becomes `[["a.b", 1], ["c.0", 2]]`, at most `limit` pairs. */
export function flatten(data: unknown, limit = SERIES): [string, number][] {
  const out: [string, number][] = [];
  const visit = (value: unknown, path: string, depth: number): void => {
    if (out.length >= limit || depth > DEEPEST) return;
    if (typeof value === 'number' && Number.isFinite(value)) out.push([path || 'value', value]);
    else if (typeof value === 'boolean') out.push([path || 'value', value ? 1 : 0]);
    else if (Array.isArray(value)) value.forEach((item, i) => visit(item, path ? `${path}.${i}` : String(i), depth + 1));
    else if (isObject(value)) for (const key in value) visit(value[key], path ? `${path}.${key}` : key, depth + 1);
  };
  visit(data, '', 0);
  return out;
}

/** The line of one chart strip: seconds and values, null where the device left the reading out. */
export type Points = [times: number[], values: (number | null)[]];

/**
 * The readings of one device. Readings closer together than the spacing share a point, the newest value of each wins.
 * When the arrays are full, points older than an hour go; where that is not enough, neighbours are joined and the spacing
 * doubles. So a fast device keeps its hour too, drawn coarser.
 */
export class Track {
  readonly key: string;
  readonly producer: string;
  readonly device: string;
  #times = new Float64Array(256);
  readonly #series = new Map<string, Float64Array>();
  #newest = new Map<string, number>();
  #count = 0;
  #spacing = FIRST_SPACING_S;
  /** The time of the newest record; its point may have begun a little earlier. */
  #lastSeen = 0;

  constructor(key: string, producer: string, device: string) {
    this.key = key;
    this.producer = producer;
    this.device = device;
  }

  get names(): string[] {
    return [...this.#series.keys()];
  }

  get lastSeen(): number {
    return this.#lastSeen;
  }

  /** The time of the oldest point that is held. */
  get since(): number {
    return this.#times[0] ?? 0;
  }

  add(seconds: number, readings: [string, number][]): void {
    // Time never runs backwards in a chart, even when the clock does.
    const now = Math.max(seconds, this.#lastSeen);
    this.#lastSeen = now;
    const slot = this.#slotFor(now);
    this.#newest = new Map(readings);
    for (const [name, value] of readings) {
      let values = this.#series.get(name);
      if (!values) {
        if (this.#series.size >= SERIES) continue;
        values = new Float64Array(this.#times.length).fill(Number.NaN);
        this.#series.set(name, values);
      }
      values[slot] = value;
    }
  }

  /** The value in the newest record, null where it left the reading out. */
  latest(name: string): number | null {
    return this.#newest.get(name) ?? null;
  }

  /** The points of one series since `from` (seconds). */
  points(name: string, from: number): Points {
    const values = this.#series.get(name);
    let first = 0;
    let end = this.#count;
    // Times are sorted, so the first point of the window is found by halving.
    while (first < end) {
      const middle = (first + end) >> 1;
      if ((this.#times[middle] ?? 0) < from) first = middle + 1;
      else end = middle;
    }
    const out: Points = [[], []];
    for (let i = first; i < this.#count; i++) {
      const value = values?.[i];
      out[0].push(this.#times[i] ?? 0);
      out[1].push(value === undefined || Number.isNaN(value) ? null : value);
    }
    return out;
  }

  #slotFor(now: number): number {
    const last = this.#count - 1;
    if (last >= 0 && now - (this.#times[last] ?? 0) < this.#spacing) return last;
    if (this.#count === this.#times.length) {
      if (this.#times.length < POINTS) this.#grow();
      else this.#makeRoom(now);
    }
    const slot = this.#count++;
    this.#times[slot] = now;
    for (const values of this.#series.values()) values[slot] = Number.NaN;
    return slot;
  }

  #makeRoom(now: number): void {
    let old = 0;
    while (old < this.#count && (this.#times[old] ?? 0) < now - LONGEST_S) old++;
    if (old >= this.#count / 4) {
      this.#times.copyWithin(0, old, this.#count);
      for (const values of this.#series.values()) values.copyWithin(0, old, this.#count);
      this.#count -= old;
      return;
    }
    this.#count = Math.floor(this.#count / 2);
    this.#spacing *= 2;
    for (let i = 0; i < this.#count; i++) {
      this.#times[i] = this.#times[2 * i] ?? 0;
      for (const values of this.#series.values()) {
        const later = values[2 * i + 1] ?? Number.NaN;
        values[i] = Number.isNaN(later) ? (values[2 * i] ?? Number.NaN) : later;
      }
    }
  }

  #grow(): void {
    const size = Math.min(POINTS, this.#times.length * 2);
    const bigger = (old: Float64Array) => {
      const array = new Float64Array(size).fill(Number.NaN);
      array.set(old);
      return array;
    };
    this.#times = bigger(this.#times);
    for (const [name, values] of this.#series) this.#series.set(name, bigger(values));
  }
}

/** All devices that were heard. */
export class Tracks {
  readonly #tracks = new Map<string, Track>();

  add(producer: string, device: string, seconds: number, data: unknown): void {
    const readings = flatten(data);
    if (readings.length === 0) return;
    const key = `${producer}\n${device}`;
    let track = this.#tracks.get(key);
    if (!track) {
      if (this.#tracks.size >= DEVICES) this.#forgetSilent();
      track = new Track(key, producer, device);
      this.#tracks.set(key, track);
    }
    track.add(seconds, readings);
  }

  get(key: string): Track | undefined {
    return this.#tracks.get(key);
  }

  list(): Track[] {
    return [...this.#tracks.values()];
  }

  clear(): void {
    this.#tracks.clear();
  }

  #forgetSilent(): void {
    let silent: Track | undefined;
    for (const track of this.#tracks.values()) if (!silent || track.lastSeen < silent.lastSeen) silent = track;
    if (silent) this.#tracks.delete(silent.key);
  }
}
