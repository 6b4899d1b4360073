// A consumer: follows producers over whatever transport works, comes back by itself, and gives the application every
// record exactly once, as long as the process lives. `cursors` is what to keep for the time after it.
import { backoff, pause } from '../backoff.ts';
import { closing } from '../closing.ts';
import { ApiError, messageOf } from '../errors.ts';
import { Observable } from '../observable.ts';
import type { Places } from '../places.ts';
import type { Session } from '../session.ts';
import type { Selection } from '../selection.ts';
import { TransportChoice } from '../transport-choice.ts';
import { recordIn, type ConsumerEvent, type Ended, type Gap, type Message, type Reset, type StreamRecord } from './events.ts';
import { Inbox } from './inbox.ts';
import { Progress } from './progress.ts';
import { stream } from './stream.ts';
import type { Connect, CloseReason, Link, TransportKind } from './transport.ts';
import { websocket, type WebSocketLike } from './websocket.ts';
import { webtransport } from './webtransport.ts';

/** The ways to receive that `auto` tries, best first. */
const TRANSPORTS = ['webtransport', 'websocket', 'ndjson'] as const;
/** Events that wait for the application before reading stops. */
const BUFFER = 4_096;
/** A connection that lived this long was a good one: the backoff starts again. */
const SETTLED_MS = 5_000;

export type State = 'idle' | 'connecting' | 'open' | 'waiting' | 'ended';

export interface ConsumerStatus {
  state: State;
  /** The transport in use, or being tried. */
  transport: TransportKind | null;
  /** Why it is not WebTransport, where `auto` has fallen back. */
  fallback: string | null;
  /** `Date.now()` of the opening, and of the next attempt. */
  openedAt: number | null;
  retryAt: number | null;
  problem: { title: string; advice: string; code: string } | null;
}

export interface ConsumerOptions extends Selection {
  /** `auto` is the first of WebTransport, WebSocket and HTTP streaming (`ndjson`) that works. */
  transport?: TransportKind | 'auto';
  /** The only producers wanted. Otherwise: all that the account is subscribed to, as they change. */
  producers?: Iterable<string | number>;
  /** Where to begin: `live`, `earliest`, an RFC 3339 time; or for each producer such a place or a cursor. */
  from?: string | Record<string, string>;
  /** Events that may wait for the application. */
  buffer?: number;
  /** The WebSocket to use; Node before 22 has none of its own, and `ws` will do. */
  WebSocket?: WebSocketLike;
}

interface Handlers {
  record: (record: StreamRecord) => unknown;
  gap: (gap: Gap) => unknown;
  reset: (reset: Reset) => unknown;
  ended: (ended: Ended) => unknown;
  status: (status: ConsumerStatus) => unknown;
}

/** The parts of the client that a consumer uses. */
export interface Surroundings {
  places: Places;
  session: Session;
  /** The producers the account is subscribed to. */
  subscriptions(): Promise<string[]>;
}

export class Consumer implements AsyncIterable<ConsumerEvent> {
  /** The consumer's state, which `on('status')` reports too. */
  readonly status = new Observable<ConsumerStatus>({ state: 'idle', transport: null, fallback: null, openedAt: null, retryAt: null, problem: null });
  readonly #around: Surroundings;
  readonly #options: ConsumerOptions;
  readonly #handlers: { [K in keyof Handlers]: Set<Handlers[K]> } = { record: new Set(), gap: new Set(), reset: new Set(), ended: new Set(), status: new Set() };
  readonly #stop = new AbortController();
  readonly #inbox: Inbox;
  readonly #progress: Progress;
  readonly #handled = new Map<string, string>();
  #wanted: Set<string> | null;
  #changed: (() => void)[] = [];
  #drop: (() => void) | null = null;
  #begun = false;

  constructor(around: Surroundings, options: ConsumerOptions = {}) {
    this.#around = around;
    this.#options = options;
    this.#inbox = new Inbox(options.buffer ?? BUFFER);
    this.#progress = new Progress(!options.every && options.order !== 'device');
    this.#wanted = options.producers ? new Set([...options.producers].map(String)) : null;
    if (typeof options.from === 'object') for (const [producer, start] of Object.entries(options.from)) this.#progress.begin(producer, start);
    this.status.subscribe((status) => this.#handlers.status.forEach((handler) => handler(status)));
  }

  /** Where the application has come to, for each producer: what it has handled, not what was received. */
  get cursors(): Record<string, string> {
    return Object.fromEntries(this.#handled);
  }

  /** Events that wait for the application. */
  get waiting(): number {
    return this.#inbox.length;
  }

  /** Calls for every event of a kind; an answer that is a promise is waited for, and slows the server down where the
   * transport can. Returns what ends it. */
  on<K extends keyof Handlers>(kind: K, handler: Handlers[K]): () => void {
    this.#handlers[kind].add(handler);
    return () => this.#handlers[kind].delete(handler);
  }

  /** Connects, and tells the handlers. An `for await` over the consumer starts it too. */
  start(): this {
    if (!this.#begun) void this.#pump();
    this.#begin();
    return this;
  }

  /** Ends the consumer and drops events that were not handled. */
  close(): void {
    this.#stop.abort();
    this.#inbox.close();
    this.status.set({ ...this.status.get(), state: 'ended', openedAt: null, retryAt: null, problem: null });
  }

  /** Follows one more producer of those named at first. */
  follow(producer: string | number, from?: string): void {
    if (from !== undefined) {
      this.#progress.forget(String(producer));
      this.#progress.begin(String(producer), from);
    }
    this.#wanted?.add(String(producer));
    this.refresh();
  }

  unfollow(producer: string | number): void {
    this.#wanted?.delete(String(producer));
    this.#progress.forget(String(producer));
    this.refresh();
  }

  /** Subscriptions have changed: look at once instead of in a while. */
  refresh(): void {
    for (const changed of this.#changed) changed();
  }

  /** Cuts the connection; it comes back by itself. For networks that have changed, and for tests. */
  reconnect(): void {
    this.#drop?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ConsumerEvent, void, void> {
    this.#begin();
    try {
      while (await this.#inbox.ready()) {
        for (let event = this.#inbox.shift(); event; event = this.#inbox.shift()) {
          if (this.#stop.signal.aborted) return;
          yield event;
          this.#done(event);
        }
      }
    } finally {
      this.close();
    }
  }

  #begin(): void {
    if (this.#begun) return;
    this.#begun = true;
    void this.#run().catch((cause: unknown) => this.#end('failed', messageOf(cause), 'Something in this client went wrong.'));
  }

  async #pump(): Promise<void> {
    while (await this.#inbox.ready()) {
      for (let event = this.#inbox.shift(); event; event = this.#inbox.shift()) {
        if (this.#stop.signal.aborted) return;
        const slow = this.#tell(event);
        if (slow.length > 0) await Promise.allSettled(slow);
        this.#done(event);
      }
    }
  }

  #tell(event: ConsumerEvent): Promise<unknown>[] {
    const slow: Promise<unknown>[] = [];
    const call = <T>(handlers: Set<(value: T) => unknown>, value: T) => {
      for (const handler of handlers) {
        const answer = handler(value);
        if (answer instanceof Promise) slow.push(answer);
      }
    };
    if (event.type === 'record') call(this.#handlers.record, event.record);
    else if (event.type === 'gap') call(this.#handlers.gap, event);
    else if (event.type === 'reset') call(this.#handlers.reset, event);
    else call(this.#handlers.ended, event);
    return slow;
  }

  #done(event: ConsumerEvent): void {
    if (event.type === 'record') this.#handled.set(event.record.producer_id, event.record.cursor);
    else if (event.type === 'reset') this.#handled.set(event.producer_id, event.cursor);
  }

  // ---- connecting

  async #run(): Promise<void> {
    const forced = this.#options.transport ?? 'auto';
    const choice = new TransportChoice<TransportKind>(forced === 'auto' ? TRANSPORTS : [forced]);
    let attempt = 0;
    while (!this.#stop.signal.aborted) {
      const { kind, fallback } = choice;
      this.status.set({ ...this.status.get(), state: 'connecting', transport: kind, fallback, openedAt: null, retryAt: null });
      const ending = await this.#connect(kind);
      if (this.#stop.signal.aborted) return;
      const { openedAt } = this.status.get();
      if (!ending.opened && !ending.error && ending.code !== 4401 && !ending.changed && choice.next(ending.reason || closing(ending.code).name)) continue;
      if (openedAt !== null && Date.now() - openedAt >= SETTLED_MS) attempt = 0;
      if (ending.overrun) {
        this.status.set({ ...this.status.get(), state: 'waiting', openedAt: null });
        await this.#inbox.room();
        continue;
      }
      if (this.#wanted?.size === 0) return this.#end('unsubscribed', 'Nothing is followed any more', 'The subscriptions to all the producers that were named have ended.');
      if (ending.changed) continue;
      if (ending.code === 4401 && this.#around.session.renewable) {
        try {
          await this.#around.session.renew();
          continue;
        } catch (cause) {
          ending.error = cause instanceof ApiError ? cause : new ApiError(0, 'unknown', messageOf(cause));
        }
      }
      const problem = await this.#problem(ending);
      if (this.#stop.signal.aborted) return;
      if (!problem.retry) return this.#end(problem.code, problem.title, problem.advice);
      const wait = backoff(attempt++);
      this.status.set({ ...this.status.get(), state: 'waiting', openedAt: null, retryAt: Date.now() + wait, problem });
      await pause(wait, this.#stop.signal);
    }
  }

  async #connect(kind: TransportKind): Promise<CloseReason> {
    const stop = new AbortController();
    const leave = () => stop.abort();
    let dropped = false;
    this.#stop.signal.addEventListener('abort', leave);
    this.#drop = () => {
      dropped = true;
      stop.abort();
    };
    try {
      const ending = await this.#transport(kind)(this.#link(stop.signal));
      return dropped ? { ...ending, changed: true } : ending;
    } catch (cause) {
      const error = cause instanceof ApiError ? cause : new ApiError(0, 'unknown', messageOf(cause));
      return { code: 0, reason: error.message, opened: false, error };
    } finally {
      stop.abort();
      this.#drop = null;
      this.#changed = [];
      this.#stop.signal.removeEventListener('abort', leave);
    }
  }

  #transport(kind: TransportKind): Connect {
    if (kind === 'webtransport') return webtransport;
    return kind === 'websocket' ? websocket(this.#options.WebSocket) : stream(kind);
  }

  #link(signal: AbortSignal): Link {
    const consumer = this;
    return {
      places: this.#around.places,
      selection: this.#options,
      signal,
      from: typeof this.#options.from === 'string' ? this.#options.from : 'live',
      progress: this.#progress,
      token: () => this.#around.session.token(),
      wanted: () => this.#wanted,
      followed: async () => this.#wanted ?? new Set(await this.#around.subscriptions()),
      opened: () => this.status.set({ ...this.status.get(), state: 'open', openedAt: Date.now(), retryAt: null, problem: null }),
      take: (message) => signal.aborted || this.#take(message),
      get full() {
        return consumer.#inbox.full;
      },
      room: () => this.#inbox.room(),
      onChange: (changed) => this.#changed.push(changed),
    };
  }

  #take(message: Message): void {
    const producer = String(message.producer_id);
    if (message.type !== 'cursors' && this.#wanted && message.producer_id !== undefined && !this.#wanted.has(producer)) return;
    const record = recordIn(message);
    if (record) {
      if (this.#progress.take(record)) this.#inbox.push({ type: 'record', record });
    } else if (message.type === 'gap') {
      const gap: Gap = { producer_id: producer, from: Number(message.from), to: Number(message.to) };
      if (message.cause === 'retention' || message.cause === 'damaged' || message.cause === 'erased') gap.cause = message.cause;
      if (this.#progress.gap(gap)) this.#inbox.push({ type: 'gap', ...gap });
    } else if (message.type === 'reset') {
      const reset = { producer_id: producer, cursor: String(message.cursor) };
      this.#progress.reset(reset);
      this.#inbox.push({ type: 'reset', ...reset });
    } else if (message.type === 'refused' || message.type === 'ended') {
      // Asking for it again would only be refused again. `follow` takes it up anew.
      this.#wanted?.delete(producer);
      this.#inbox.push({ type: 'ended', producer_id: producer, code: String(message.code), message: String(message.message ?? '') });
    } else if (message.type === 'cursors') {
      for (const [id, cursor] of cursorsIn(message.cursors)) this.#progress.advance(id, cursor);
    }
  }

  // ---- ends

  async #problem(ending: CloseReason): Promise<{ title: string; advice: string; code: string; retry: boolean }> {
    if (ending.error) {
      const { status, code, message, temporary } = ending.error;
      const title = status === 0 ? 'The service cannot be reached' : status === 401 ? 'The session has ended' : 'The service refused';
      return { title, advice: status === 401 ? `${message} Log in again.` : message, code, retry: temporary };
    }
    const verdict = ending.opened || ending.code === 4401 ? null : await this.#around.session.verify();
    if (verdict?.kind === 'invalid' || verdict?.kind === 'expired') {
      return { title: 'The token was refused', advice: 'It has expired or was revoked. Log in again.', code: 'invalid_token', retry: false };
    }
    const meaning = closing(ending.code);
    const title = ending.opened ? capital(meaning.name) : 'The gateway did not answer';
    const advice = ending.reason && ending.reason !== meaning.name ? `${meaning.advice} It said: “${ending.reason}”.` : meaning.advice;
    return { title, advice, code: `close_${ending.code}`, retry: meaning.retry };
  }

  #end(code: string, title: string, advice: string): void {
    this.status.set({ ...this.status.get(), state: 'ended', openedAt: null, retryAt: null, problem: { title, advice, code } });
    this.#inbox.push({ type: 'ended', producer_id: null, code, message: `${title}. ${advice}` });
    this.#inbox.close();
  }
}

/** `{"1": "7-456"}`, or `1:7-456,2:7-9`. */
function cursorsIn(value: unknown): [string, string][] {
  if (typeof value === 'string') {
    return value.split(',').flatMap((pair): [string, string][] => {
      const at = pair.indexOf(':');
      return at > 0 ? [[pair.slice(0, at), pair.slice(at + 1)]] : [];
    });
  }
  return value !== null && typeof value === 'object' ? Object.entries(value).map(([id, cursor]) => [id, String(cursor)]) : [];
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
