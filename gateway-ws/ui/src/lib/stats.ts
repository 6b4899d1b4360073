// Counting without growing: rates over a short window, and percentiles of the newest samples.

/** Events per second over the last seconds, in slots of one second. */
export class Rate {
  readonly #slots: Float64Array;
  #second = Number.NaN;
  #started = Number.NaN;

  constructor(seconds = 5) {
    // One more slot than the window: the running second is counted apart from the finished ones.
    this.#slots = new Float64Array(seconds + 1);
  }

  add(nowMs: number, amount = 1): void {
    this.#roll(nowMs);
    const slot = this.#second % this.#slots.length;
    this.#slots[slot] = (this.#slots[slot] ?? 0) + amount;
  }

  perSecond(nowMs: number): number {
    this.#roll(nowMs);
    if (Number.isNaN(this.#started)) return 0;
    const running = this.#slots[this.#second % this.#slots.length] ?? 0;
    const window = this.#slots.length - 1;
    const finished = Math.min(window, this.#second - this.#started);
    // In the very first second there is nothing finished to divide by.
    if (finished === 0) return running;
    let sum = 0;
    for (const slot of this.#slots) sum += slot;
    return (sum - running) / finished;
  }

  #roll(nowMs: number): void {
    const second = Math.floor(nowMs / 1000);
    if (Number.isNaN(this.#started)) {
      this.#started = this.#second = second;
      return;
    }
    const ahead = Math.min(second - this.#second, this.#slots.length);
    for (let i = 1; i <= ahead; i++) this.#slots[(second - ahead + i) % this.#slots.length] = 0;
    if (second > this.#second) this.#second = second;
  }
}

/** The newest samples of a quantity, for its median and its last value. */
export class Samples {
  readonly #ring: Float64Array;
  #count = 0;

  constructor(size = 512) {
    this.#ring = new Float64Array(size);
  }

  add(value: number): void {
    this.#ring[this.#count++ % this.#ring.length] = value;
  }

  get last(): number | null {
    return this.#count === 0 ? null : (this.#ring[(this.#count - 1) % this.#ring.length] ?? null);
  }

  /** The nearest-rank percentile, or null without samples. */
  percentile(p: number): number | null {
    const filled = Math.min(this.#count, this.#ring.length);
    if (filled === 0) return null;
    const sorted = this.#ring.slice(0, filled).sort();
    return sorted[Math.max(0, Math.ceil((p / 100) * filled) - 1)] ?? null;
  }
}

/** Times of messages that wait for their answer, first in, first out. */
export class Pending {
  readonly #limit: number;
  #times: number[] = [];
  #head = 0;

  constructor(limit = 10_000) {
    this.#limit = limit;
  }

  sent(at: number): void {
    if (this.#times.length - this.#head >= this.#limit) this.#head++;
    this.#times.push(at);
    this.#shrink();
  }

  /** The time the oldest unanswered message was sent. */
  answered(): number | null {
    if (this.#head >= this.#times.length) return null;
    const at = this.#times[this.#head++] ?? null;
    this.#shrink();
    return at;
  }

  get length(): number {
    return this.#times.length - this.#head;
  }

  clear(): void {
    this.#times = [];
    this.#head = 0;
  }

  #shrink(): void {
    if (this.#head > 1024 && this.#head * 2 > this.#times.length) {
      this.#times = this.#times.slice(this.#head);
      this.#head = 0;
    }
  }
}
