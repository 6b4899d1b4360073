// A device that is not there: each numeric reading walks at random around the value that was typed.
import { isObject } from './json.ts';

/** How far one step may go, as a part of the typed value. */
const STEP = 0.005;
/** How strongly a reading is drawn back to the typed value. */
const PULL = 0.05;

export class Simulation {
  readonly #now = new Map<string, number>();
  readonly #random: () => number;

  constructor(random: () => number = Math.random) {
    this.#random = random;
  }

  /** A copy of the record with its readings moved by one step. */
  next(record: unknown): unknown {
    if (!isObject(record)) return record;
    if (isObject(record.data)) return { ...record, data: this.#walk(record.data, '') };
    if (isObject(record.payload)) {
      const payload = isObject(record.payload.data)
        ? { ...record.payload, data: this.#walk(record.payload.data, '') }
        : this.#walk(record.payload, '');
      return { ...record, payload };
    }
    return record;
  }

  #walk(value: unknown, path: string): unknown {
    if (typeof value === 'number') return this.#step(value, path);
    if (Array.isArray(value)) return value.map((item, i) => this.#walk(item, `${path}.${i}`));
    if (isObject(value)) return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, this.#walk(item, `${path}.${key}`)]));
    return value;
  }

  #step(typed: number, path: string): number {
    const key = `${path}=${typed}`;
    const from = this.#now.get(key) ?? typed;
    const spread = Math.max(Math.abs(typed), 1) * STEP;
    const to = from + (typed - from) * PULL + (this.#random() * 2 - 1) * spread;
    this.#now.set(key, to);
    return Number(to.toFixed(Math.max(2, decimals(typed))));
  }
}

/** The record with its timestamp set to now, in either form that the gateway takes. */
export function stamped(record: unknown, now: Date): unknown {
  if (!isObject(record)) return record;
  if (record.type === 'data' && isObject(record.payload)) {
    return 'data' in record.payload ? { ...record, payload: { ...record.payload, timestamp: now.toISOString() } } : record;
  }
  return record.type === undefined ? { ...record, timestamp: now.toISOString() } : record;
}

function decimals(value: number): number {
  return Math.min(6, (String(value).split('.')[1] ?? '').length);
}
