// A list that keeps the newest items only.

export class Bounded<T> {
  readonly limit: number;
  #items: T[] = [];

  constructor(limit: number) {
    this.limit = limit;
  }

  push(item: T): void {
    this.#items.push(item);
    // Cut in steps, so that a full list is not moved for every item.
    if (this.#items.length >= this.limit * 2) this.#items = this.#items.slice(-this.limit);
  }

  clear(): void {
    this.#items = [];
  }

  get length(): number {
    return Math.min(this.#items.length, this.limit);
  }

  /** The items that match, newest first, at most `count`. */
  newest(count = this.limit, matches: (item: T) => boolean = () => true): T[] {
    const found: T[] = [];
    const oldest = Math.max(0, this.#items.length - this.limit);
    for (let i = this.#items.length - 1; i >= oldest && found.length < count; i--) {
      const item = this.#items[i] as T;
      if (matches(item)) found.push(item);
    }
    return found;
  }
}
