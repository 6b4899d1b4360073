// Buckets that come in parts: one that stands at the end of a part may come again in the next, with the rest of its records.
import type { Bucket } from './types.ts';

type Numbers = Bucket['values'][string];

export class Buckets {
  readonly #all = new Map<string, Bucket>();

  /** Takes the next part in. */
  add(part: Bucket[]): void {
    for (const bucket of part) {
      const key = `${bucket.start}\n${bucket.device_id}`;
      const begun = this.#all.get(key);
      this.#all.set(key, begun ? together(begun, bucket) : bucket);
    }
  }

  /** All of them, by time. */
  list(): Bucket[] {
    return [...this.#all.values()].sort((a, b) => Date.parse(a.start) - Date.parse(b.start));
  }
}

function together(a: Bucket, b: Bucket): Bucket {
  const values = { ...a.values };
  for (const [pointer, numbers] of Object.entries(b.values)) values[pointer] = joined(values[pointer], numbers);
  return { ...a, records: a.records + b.records, values };
}

function joined(a: Numbers | undefined, b: Numbers): Numbers {
  if (!a) return b;
  const count = a.count + b.count;
  const sum: Numbers = { count };
  const both = (name: 'avg' | 'min' | 'max', of: (x: number, y: number) => number) => {
    const [x, y] = [a[name], b[name]];
    if (typeof x === 'number' && typeof y === 'number') sum[name] = of(x, y);
  };
  both('avg', (x, y) => x * (a.count / count) + y * (b.count / count));
  both('min', Math.min);
  both('max', Math.max);
  if (typeof b.last === 'number') sum.last = b.last;
  return sum;
}
