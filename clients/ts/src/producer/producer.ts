// A producer: every record it is given is in the log once, or its promise says why not. Each goes out under a name; after
// a break those without an answer go again under the same names, and the log takes none of them twice.
import { backoff, pause } from '../backoff.ts';
import { closing } from '../closing.ts';
import { messageIn } from '../consumer/events.ts';
import type { WebSocketLike } from '../consumer/websocket.ts';
import { ApiError, RecordError, messageOf } from '../errors.ts';
import { Observable } from '../observable.ts';
import type { Places } from '../places.ts';
import type { RecordToSend } from '../rest/types.ts';
import type { Session } from '../session.ts';
import { TransportChoice } from '../transport-choice.ts';
import type { ProducerEnding, ProducerLink, Send } from './transport.ts';
import { httpProducer } from './http.ts';
import { websocketProducer } from './websocket.ts';
import { webtransportProducer } from './webtransport.ts';

/** Records that may be on their way at once. */
const IN_FLIGHT = 1_024;
const SETTLED_MS = 5_000;

/** The ways to send, best first. */
const TRANSPORTS = ['webtransport', 'websocket', 'http'] as const;

export type ProducerTransport = (typeof TRANSPORTS)[number];

export interface ProducerStatus {
  state: 'idle' | 'connecting' | 'open' | 'waiting' | 'ended';
  transport: ProducerTransport | null;
  fallback: string | null;
  problem: string | null;
}

export interface ProducerOptions {
  /** `auto` is the first of WebTransport, WebSocket and plain requests that works. */
  transport?: 'auto' | ProducerTransport;
  /** Records that may wait for their acknowledgement; `send` waits beyond that. */
  inFlight?: number;
  WebSocket?: WebSocketLike;
}

/** That a record is in the log. */
export interface Acknowledged {
  /** The record's name. */
  id: string;
  subscriberCount: number;
}

interface Pending {
  id: string;
  frame: string;
  done(answer: Acknowledged): void;
  failed(error: Error): void;
}

export class Producer {
  readonly status = new Observable<ProducerStatus>({ state: 'idle', transport: null, fallback: null, problem: null });
  readonly #around: { places: Places; session: Session };
  readonly #options: ProducerOptions;
  readonly #stop = new AbortController();
  readonly #limit: number;
  readonly #prefix = crypto.randomUUID();
  /** In the order they go out; the first `#sent` of them are on their way. */
  #pending: Pending[] = [];
  #sent = 0;
  #count = 0;
  #begun = false;
  #send: Send | null = null;
  #sending = false;
  #room: (() => void)[] = [];
  #drop: (() => void) | null = null;

  constructor(around: { places: Places; session: Session }, options: ProducerOptions = {}) {
    this.#around = around;
    this.#options = options;
    this.#limit = options.inFlight ?? IN_FLIGHT;
  }

  /** Records without an answer. */
  get waiting(): number {
    return this.#pending.length;
  }

  /** Connects. `send` does it too. */
  start(): this {
    if (!this.#begun) void this.#run();
    this.#begun = true;
    return this;
  }

  /**
   * Sends a record. Resolves once it is in the log, rejects with a `RecordError` where it was refused. `id` names the
   * record: given again, also by another process, it is acknowledged without a second record.
   */
  async send(record: RecordToSend | Record<string, unknown>, id = `${this.#prefix}-${++this.#count}`): Promise<Acknowledged> {
    this.start();
    while (this.#pending.length >= this.#limit && !this.#stop.signal.aborted) await new Promise<void>((wake) => this.#room.push(wake));
    if (this.#stop.signal.aborted) throw new RecordError('closed', 'This producer was closed.');
    return new Promise((done, failed) => {
      this.#pending.push({ id, frame: JSON.stringify({ type: 'data', id, payload: record }), done, failed });
      void this.#flush();
    });
  }

  /** Waits until everything has its answer, then leaves; with a limit, whatever has none by then is given up. */
  async close(limitMs = 10_000): Promise<void> {
    const until = Date.now() + limitMs;
    while (this.#pending.length > 0 && Date.now() < until && this.status.get().state !== 'ended') await pause(20, this.#stop.signal);
    this.#end(new RecordError('closed', 'This producer was closed.'), null);
  }

  /** Cuts the connection; it comes back by itself. For networks that have changed, and for tests. */
  reconnect(): void {
    this.#drop?.();
  }

  /** Sends what was not sent on this connection, in order. */
  async #flush(): Promise<void> {
    if (this.#sending) return;
    this.#sending = true;
    for (let send = this.#send; send && this.#sent < this.#pending.length; send = this.#send) {
      const next = this.#pending[this.#sent++] as Pending;
      try {
        await send(next.frame);
      } catch {
        // This connection has ended, and says so itself; perhaps there is another already.
        if (this.#send === send) this.#send = null;
      }
    }
    this.#sending = false;
  }

  /** Answers come in the order of the records. */
  #answered(text: string): void {
    const message = messageIn(text);
    if (!message || (message.type !== 'ack' && message.type !== 'error') || this.#sent === 0) return;
    const answered = this.#pending.shift() as Pending;
    this.#sent--;
    if (message.type === 'ack') answered.done({ id: answered.id, subscriberCount: Number(message.subscriberCount ?? 0) });
    else answered.failed(new RecordError(String(message.code), String(message.message)));
    this.#wake();
  }

  async #run(): Promise<void> {
    const forced = this.#options.transport ?? 'auto';
    const choice = new TransportChoice(forced === 'auto' ? TRANSPORTS : [forced]);
    let attempt = 0;
    while (!this.#stop.signal.aborted) {
      const { kind, fallback } = choice;
      this.status.set({ state: 'connecting', transport: kind, fallback, problem: this.status.get().problem });
      const began = Date.now();
      let error: unknown = null;
      const stop = new AbortController();
      const leave = () => stop.abort();
      let dropped = false;
      this.#drop = () => ((dropped = true), stop.abort());
      this.#stop.signal.addEventListener('abort', leave);
      const link: ProducerLink = {
        places: this.#around.places,
        signal: stop.signal,
        token: () => this.#around.session.token(),
        answered: (text) => this.#answered(text),
        opened: (send) => {
          this.#send = send;
          this.#sent = 0;
          this.status.set({ state: 'open', transport: kind, fallback, problem: null });
          void this.#flush();
        },
      };
      const ending: ProducerEnding = await this.#transport(kind)(link).catch((cause: unknown): ProducerEnding => {
        error = cause;
        return { code: 0, reason: messageOf(cause), opened: false };
      });
      this.#stop.signal.removeEventListener('abort', leave);
      this.#send = null;
      this.#sent = 0;
      if (this.#stop.signal.aborted) return;
      if (dropped) continue;
      if (!ending.opened && !error && ending.code !== 4401 && choice.next(ending.reason || closing(ending.code).name)) continue;
      if (Date.now() - began >= SETTLED_MS) attempt = 0;
      if (ending.code === 4401 && this.#around.session.renewable) {
        const renewed = await this.#around.session.renew().then(() => true, (cause: unknown) => ((error = cause), false));
        if (renewed) continue;
      }
      const lasting = await this.#lasting(ending, error);
      if (this.#stop.signal.aborted) return;
      const problem = ending.reason || closing(ending.code).advice;
      if (lasting) return this.#end(lasting, lasting.message);
      this.status.set({ state: 'waiting', transport: kind, fallback, problem });
      await pause(backoff(attempt++), this.#stop.signal);
    }
  }

  #transport(kind: ProducerTransport): (link: ProducerLink) => Promise<ProducerEnding> {
    if (kind === 'webtransport') return webtransportProducer;
    return kind === 'websocket' ? websocketProducer(this.#options.WebSocket) : httpProducer;
  }

  /** Why another attempt would only be refused again. */
  async #lasting(ending: ProducerEnding, error: unknown): Promise<Error | null> {
    if (error instanceof ApiError) return error.temporary ? null : error;
    if (ending.unusable) return new RecordError('unusable', ending.reason);
    if (!ending.opened) {
      const verdict = await this.#around.session.verify();
      return verdict.kind === 'good' || verdict.kind === 'unknown' ? null : new ApiError(401, 'invalid_token', 'The token was refused. Log in again.');
    }
    const meaning = closing(ending.code);
    return meaning.retry ? null : new RecordError(`close_${ending.code}`, ending.reason || meaning.advice);
  }

  #end(cause: Error, problem: string | null): void {
    this.#stop.abort();
    this.status.set({ ...this.status.get(), state: 'ended', problem });
    const pending = this.#pending;
    this.#pending = [];
    this.#sent = 0;
    for (const { failed } of pending) failed(cause);
    this.#wake();
  }

  #wake(): void {
    const room = this.#room;
    this.#room = [];
    for (const wake of room) wake();
  }
}
