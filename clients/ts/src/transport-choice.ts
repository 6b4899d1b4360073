// Which of several transports is tried: the best first, the next one where it never opened, and after the last of them the
// first again, as what stood in the way may have gone.

export class TransportChoice<Kind extends string> {
  readonly #kinds: readonly Kind[];
  #at = 0;
  #fallback: string | null = null;

  constructor(kinds: readonly Kind[]) {
    this.#kinds = kinds;
  }

  /** The one to try. */
  get kind(): Kind {
    return this.#kinds[this.#at] as Kind;
  }

  /** Why it is not the best one. */
  get fallback(): string | null {
    return this.#at === 0 ? null : this.#fallback;
  }

  /** Takes a transport that never opened. True where there is another to try at once; false where all were tried. */
  next(reason: string): boolean {
    if (this.#at === 0) this.#fallback = reason;
    this.#at = (this.#at + 1) % this.#kinds.length;
    return this.#at !== 0;
  }
}
