// Events that were received and not handled yet: bounded, with one reader. Writers see when it is full and stop reading.
import type { ConsumerEvent } from './events.ts';

export class Inbox {
  readonly #limit: number;
  #events: ConsumerEvent[] = [];
  #head = 0;
  #closed = false;
  #wakeReader: (() => void) | null = null;
  #wakeWriters: (() => void)[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  get length(): number {
    return this.#events.length - this.#head;
  }

  get full(): boolean {
    return this.length >= this.#limit;
  }

  /** Adds an event, also to a full inbox: whoever adds asks for room before reading on. */
  push(event: ConsumerEvent): void {
    this.#events.push(event);
    this.#wakeReader?.();
  }

  shift(): ConsumerEvent | undefined {
    const event = this.#events[this.#head];
    if (event === undefined) return undefined;
    this.#head++;
    // Cut in steps, so that a long queue is not moved for every event.
    if (this.#head > 1024 && this.#head * 2 > this.#events.length) {
      this.#events = this.#events.slice(this.#head);
      this.#head = 0;
    }
    if (this.#wakeWriters.length > 0 && this.length * 2 <= this.#limit) this.#wakeAll();
    return event;
  }

  /** Resolves once there is something to read: true, or nothing ever will be: false. */
  async ready(): Promise<boolean> {
    while (this.length === 0 && !this.#closed) await new Promise<void>((wake) => (this.#wakeReader = wake));
    this.#wakeReader = null;
    return this.length > 0;
  }

  /** Resolves once the inbox is half empty again. */
  async room(): Promise<void> {
    while (this.full && !this.#closed) await new Promise<void>((wake) => this.#wakeWriters.push(wake));
  }

  /** No more events will come; those in the inbox can still be read. */
  close(): void {
    this.#closed = true;
    this.#wakeReader?.();
    this.#wakeAll();
  }

  #wakeAll(): void {
    const writers = this.#wakeWriters;
    this.#wakeWriters = [];
    for (const wake of writers) wake();
  }
}
