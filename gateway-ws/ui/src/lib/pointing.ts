// A pointer over a chart: dragging with a mouse marks a stretch of time to zoom into; with a finger, or with Shift, it scrolls.

/** A drag shorter than this many pixels is none. */
const LEAST_PX = 6;

export interface Ground {
  /** The left edge of the time axis within the element, in pixels. */
  left: number;
  /** The time at the axis' ends, in seconds. */
  shown: () => [number, number];
  /** Marks a stretch, in pixels from the element's left; null: no longer. */
  mark: (stretch: [number, number] | null) => void;
  zoom: (from: number, to: number) => void;
  /** Scrolls so that the right edge lies at a time. */
  scroll: (edge: number) => void;
}

/** Handlers for an element. */
export class Pointing {
  readonly #ground: Ground;
  #grip: { x: number; at: number; shown: [number, number]; scrolls: boolean; moved: boolean } | null = null;

  constructor(ground: Ground) {
    this.#ground = ground;
  }

  down(event: PointerEvent & { currentTarget: HTMLElement }): void {
    if (event.button !== 0) return;
    const at = event.clientX - event.currentTarget.getBoundingClientRect().left;
    const scrolls = event.pointerType !== 'mouse' || event.shiftKey;
    if (!scrolls && at < this.#ground.left) return;
    this.#grip = { x: event.clientX, at, shown: this.#ground.shown(), scrolls, moved: false };
  }

  move(event: PointerEvent & { currentTarget: HTMLElement }): void {
    const grip = this.#grip;
    if (!grip) return;
    const by = event.clientX - grip.x;
    if (!grip.moved && Math.abs(by) < LEAST_PX) return;
    grip.moved = true;
    const element = event.currentTarget;
    if (!element.hasPointerCapture(event.pointerId)) element.setPointerCapture(event.pointerId);
    const [from, to] = grip.shown;
    if (grip.scrolls) return this.#ground.scroll(to - (by / this.#width(element)) * (to - from));
    this.#ground.mark(this.#stretch(element, grip.at, grip.at + by));
  }

  up(event: PointerEvent & { currentTarget: HTMLElement }): void {
    const grip = this.#grip;
    this.cancel();
    if (!grip?.moved || grip.scrolls) return;
    const element = event.currentTarget;
    const [begin, end] = this.#stretch(element, grip.at, grip.at + event.clientX - grip.x);
    const [from, to] = grip.shown;
    const time = (x: number) => from + ((x - this.#ground.left) / this.#width(element)) * (to - from);
    if (end - begin >= LEAST_PX) this.#ground.zoom(time(begin), time(end));
  }

  cancel(): void {
    this.#grip = null;
    this.#ground.mark(null);
  }

  #width(element: HTMLElement): number {
    return Math.max(50, element.clientWidth - this.#ground.left - RIGHT_PX);
  }

  #stretch(element: HTMLElement, a: number, b: number): [number, number] {
    const within = (x: number) => Math.min(Math.max(x, this.#ground.left), this.#ground.left + this.#width(element));
    return [within(Math.min(a, b)), within(Math.max(a, b))];
  }
}

/** The room right of the time axis. */
export const RIGHT_PX = 10;
