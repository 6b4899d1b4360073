// Rates of counters that are looked at now and then.

interface Counted {
  id: string;
  records: number;
}

/** Remembers the last look at each counter. */
export class Paces {
  #seen = new Map<string, { records: number; at: number }>();

  /** The rate of each counter that was seen before, in records a second. Counters that are gone are forgotten. */
  look(counters: readonly Counted[], now: number): Map<string, number> {
    const rates = new Map<string, number>();
    for (const { id, records } of counters) {
      const before = this.#seen.get(id);
      if (before && now > before.at) rates.set(id, (Math.max(0, records - before.records) * 1000) / (now - before.at));
    }
    this.#seen = new Map(counters.map(({ id, records }) => [id, { records, at: now }]));
    return rates;
  }
}
