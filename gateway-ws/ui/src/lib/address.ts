// The view as members of the address's fragment, so that a link leads to it and the browser's buttons walk through what was looked at.
import { Observable } from '@motience/client';

type Value = string | number | readonly string[] | null;

/** The members of the address. Its subscribers are told when the browser went back or on, and not of its own writing. */
export class Address extends Observable<URLSearchParams> {
  constructor() {
    super(new URLSearchParams(location.hash.slice(1)));
  }

  /** Listens to the browser's buttons. Returns what stops it. */
  start(): () => void {
    const walked = () => this.set(new URLSearchParams(location.hash.slice(1)));
    addEventListener('popstate', walked);
    return () => removeEventListener('popstate', walked);
  }

  text(name: string): string | null {
    return this.params.get(name);
  }

  all(name: string): string[] {
    return this.params.getAll(name);
  }

  number(name: string, least: number, most: number): number | null {
    const text = this.params.get(name);
    const value = Number(text);
    return text === null || text === '' || !Number.isFinite(value) || value < least || value > most ? null : value;
  }

  /** Changes members; null takes one out. A step of the user's is a new entry of the browser's history, all else takes the place of the present one. */
  write(changes: Record<string, Value>, step = false): void {
    const next = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of Object.entries(changes)) {
      next.delete(name);
      if (Array.isArray(value)) for (const one of value as readonly string[]) next.append(name, one);
      else if (value !== null && value !== '') next.set(name, String(value));
    }
    const hash = next.size > 0 ? `#${next}` : '';
    if (hash === location.hash) return;
    history[step ? 'pushState' : 'replaceState'](null, '', hash === '' ? location.pathname + location.search : hash);
  }

  /** Begins another view: the address has these members and no others. */
  begin(members: Record<string, Value>): void {
    const others = Object.fromEntries([...this.params.keys()].map((name) => [name, null]));
    this.write({ ...others, ...members }, true);
  }

  /** As it stands now: `get` tells only what the browser's buttons led to. */
  private get params(): URLSearchParams {
    return new URLSearchParams(location.hash.slice(1));
  }
}
