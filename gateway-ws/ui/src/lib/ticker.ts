// Draws at most once per animation frame, and not more often than asked: work is noted, then done in one go.

export class Painter {
  readonly #paint: () => void;
  readonly #gapMs: number;
  #asked = false;
  #last = 0;
  #stopped = false;

  constructor(paint: () => void, gapMs = 0) {
    this.#paint = paint;
    this.#gapMs = gapMs;
  }

  /** Something changed. Cheap: call it for every message. */
  ask(): void {
    if (this.#asked || this.#stopped) return;
    this.#asked = true;
    const wait = this.#last + this.#gapMs - performance.now();
    if (wait > 0) setTimeout(() => this.#frame(), wait);
    else this.#frame();
  }

  stop(): void {
    this.#stopped = true;
  }

  #frame(): void {
    requestAnimationFrame((now) => {
      this.#asked = false;
      this.#last = now;
      if (!this.#stopped) this.#paint();
    });
  }
}
