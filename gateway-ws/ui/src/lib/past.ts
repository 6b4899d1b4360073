// All that a chart has loaded of the past: one window for each producer in it.
import { messageOf, type HistoryRecord, type Motience } from '@motience/client';
import { loadBuckets, loadRecords, newestBefore, ROWS, type Loaded, type Window } from './history.ts';
import { stepOf } from './lines.ts';

/** Buckets of the present are asked for again after this many seconds, or after their own length. */
const AGAIN_S = 10;

interface Part {
  from: number;
  to: number;
  step: number;
  loaded: Loaded | null;
  busy: boolean;
  /** After a failure: not asked for before this. */
  again: number;
  stop: AbortController;
}

export class Past {
  readonly #client: Motience;
  readonly #changed: (problem: string | null) => void;
  readonly #parts = new Map<string, Part>();
  /** Conditions that records have to meet. */
  where: string[] = [];

  /** `changed` is called when there is more to draw, with what went wrong. */
  constructor(client: Motience, changed: (problem: string | null) => void) {
    this.#client = client;
    this.#changed = changed;
  }

  get loading(): boolean {
    return [...this.#parts.values()].some((part) => part.busy);
  }

  of(producer: string): Loaded | null {
    return this.#parts.get(producer)?.loaded ?? null;
  }

  forget(): void {
    for (const part of this.#parts.values()) part.stop.abort();
    this.#parts.clear();
  }

  /** Sees to a window of a producer; `room` seconds on both sides are loaded with it, so that a little scrolling finds them. */
  cover(producer: string, from: number, to: number, room = 0): void {
    const step = stepOf(to - from);
    const now = Date.now() / 1000;
    const end = Math.min(to, now);
    const part = this.#parts.get(producer);
    const fits = part !== undefined && (part.step === step || (part.loaded?.cut ?? false)) && from >= part.from;
    if (fits && end <= part.to + (part.step > 0 ? Math.max(part.step, AGAIN_S) : 0)) return;
    if (fits && part.step > 0 && part.loaded) return part.busy || now < part.again ? undefined : void this.#extend(producer, part, end);
    void this.#load(producer, from - room, Math.min(to + room, now), step);
  }

  /** Sees to the records of the present, up to now. */
  refresh(producer: string, span: number): void {
    const now = Date.now() / 1000;
    const part = this.#parts.get(producer);
    // Buckets go on by themselves; records come with the stream.
    if (part === undefined || part.step > 0 || stepOf(span) > 0) this.cover(producer, now - span, now);
    else if (!part.busy && now - span < part.from) void this.#load(producer, now - span, now, 0);
  }

  /** The newest records before a time, for the table beside the chart. */
  async rows(producer: string, from: number, to: number, signal: AbortSignal): Promise<HistoryRecord[]> {
    const part = this.#parts.get(producer);
    const loaded = part?.loaded;
    // While it loads there are rows of the window before; and of more rows than are kept only the newest are there.
    if (part && loaded && !part.busy && loaded.range === null && !loaded.cut) {
      const within = loaded.rows.filter((row) => Date.parse(row.timestamp) / 1000 <= to);
      if (within.length > 0 && (within.length === ROWS || loaded.rows.length < ROWS)) return within;
    }
    return newestBefore(this.#client, { producer, from, to, where: this.where }, signal);
  }

  async #load(producer: string, from: number, to: number, step: number): Promise<void> {
    this.#parts.get(producer)?.stop.abort();
    // Until the first of the new comes, the old is better than nothing.
    const part: Part = { from, to, step, loaded: this.of(producer), busy: true, again: 0, stop: new AbortController() };
    this.#parts.set(producer, part);
    const window: Window = { producer, from, to, where: this.where };
    const { signal } = part.stop;
    const progress = (loaded: Loaded) => {
      if (signal.aborted) return;
      part.loaded = loaded;
      this.#changed(null);
    };
    await this.#try(part, async () => {
      if (step > 0) return void (await loadBuckets(this.#client, window, step, progress, signal).then(progress));
      const loaded = await loadRecords(this.#client, window, progress, signal);
      progress(loaded);
      if (!loaded.cut || signal.aborted) return;
      // More records than can be drawn one by one.
      part.step = stepOf(to - from, true);
      progress({ ...(await loadBuckets(this.#client, window, part.step, () => undefined, signal)), rows: [], cut: true });
    });
  }

  /** Buckets up to `to`; the last one that is there may have grown. */
  async #extend(producer: string, part: Part, to: number): Promise<void> {
    const before = part.to;
    const from = Math.floor(before / part.step) * part.step;
    part.busy = true;
    part.to = to;
    const loaded = await this.#try(part, async () => {
      await loadBuckets(this.#client, { producer, from, to, where: this.where }, part.step, () => undefined, part.stop.signal, part.loaded ?? undefined);
    });
    if (!loaded) [part.to, part.again] = [before, Date.now() / 1000 + AGAIN_S];
  }

  async #try(part: Part, work: () => Promise<void>): Promise<boolean> {
    let problem: string | null = null;
    try {
      await work();
    } catch (cause) {
      problem = messageOf(cause);
    }
    if (part.stop.signal.aborted) return false;
    part.busy = false;
    this.#changed(problem);
    return problem === null;
  }
}
