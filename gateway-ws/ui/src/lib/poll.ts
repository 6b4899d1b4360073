// Asks for something again and again while somebody looks at the page, and says what came of it.
import { ApiError, Observable, messageOf } from '@motience/client';
import { untrack } from 'svelte';

export interface Polled<T> {
  value: T | null;
  /** The node does not know this path: it is older than the page. */
  missing: boolean;
  problem: string | null;
}

/** Whether the node does not know what it was asked for: it is older than the page. */
export const isMissing = (cause: unknown): boolean => cause instanceof ApiError && (cause.status === 404 || cause.status === 405 || cause.code === 'not_json');

export class Poll<T> extends Observable<Polled<T>> {
  readonly #ask: (signal: AbortSignal) => Promise<T>;
  readonly #everyMs: number;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #stop = new AbortController();

  constructor(ask: (signal: AbortSignal) => Promise<T>, everyMs: number) {
    super({ value: null, missing: false, problem: null });
    this.#ask = ask;
    this.#everyMs = everyMs;
  }

  /** An effect that subscribes does not depend on what the listener reads: else each answer would begin it again, and it would ask again at once. */
  override subscribe(listener: (polled: Polled<T>) => void): () => void {
    return untrack(() => super.subscribe(listener));
  }

  /** Asks now, and then for as long as nobody stops it. Returns what stops it. */
  start(): () => void {
    void this.now();
    return () => this.stop();
  }

  stop(): void {
    this.#stop.abort();
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** Asks at once; what an older question still brings is dropped. */
  async now(): Promise<void> {
    this.stop();
    const { signal } = (this.#stop = new AbortController());
    if (!globalThis.document?.hidden) {
      try {
        const value = await this.#ask(signal);
        if (signal.aborted) return;
        this.set({ value, missing: false, problem: null });
      } catch (cause) {
        if (signal.aborted) return;
        const missing = isMissing(cause);
        this.set({ ...this.get(), missing, problem: missing ? null : messageOf(cause) });
      }
    }
    if (!signal.aborted) this.#timer = setTimeout(() => void this.now(), this.#everyMs);
  }
}
