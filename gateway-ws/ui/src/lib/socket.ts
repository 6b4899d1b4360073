// One WebSocket connection that the page keeps: opens with a fresh token, explains every end of it, and comes back
// with backoff where the person asked for that and where coming back can help.
import { ApiError, Observable, backoff, closing, messageOf, type Session, type Verdict } from '@motience/client';

/** An upgrade that takes longer than this is given up. */
const OPEN_LIMIT_MS = 15_000;
/** Above this many unsent bytes in the browser a message is held back instead of queued without bound. */
const SEND_BUFFER_LIMIT = 1 << 20;
/** A connection that lived this long was a good one: the backoff starts again. */
const SETTLED_MS = 5_000;

export type State = 'idle' | 'connecting' | 'open' | 'waiting';

export interface Status {
  state: State;
  /** `performance.now()`-like time of the opening. */
  openedAt: number | null;
  /** When the next attempt comes, while waiting. */
  retryAt: number | null;
  problem: Problem | null;
}

export interface Problem {
  title: string;
  advice: string;
}

export type Note = { kind: 'info' | 'error' | 'close'; text: string };

/** The surroundings of a connection; tests bring their own. */
export interface Surroundings {
  WebSocket: new (url: string) => WebSocket;
  now(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  random(): number;
}

export interface Options {
  url: string;
  role: string;
  session: Session;
  onMessage(text: string): void;
  onNote(note: Note): void;
  onOpen?(): void;
  surroundings?: Surroundings;
}

export class Link extends Observable<Status> {
  readonly url: string;
  /** Come back after a loss. May be changed at any time. */
  reconnect = true;
  readonly #options: Options;
  readonly #around: Surroundings;
  #socket: WebSocket | null = null;
  #timer: unknown = null;
  #attempt = 0;
  /** Grows with each connect and disconnect: answers for an older one are dropped. */
  #turn = 0;

  constructor(options: Options) {
    super({ state: 'idle', openedAt: null, retryAt: null, problem: null });
    this.url = options.url;
    this.#options = options;
    this.#around = options.surroundings ?? browser();
  }

  connect(): void {
    this.#attempt = 0;
    void this.#open();
  }

  disconnect(): void {
    this.#turn++;
    this.#stopTimer();
    const socket = this.#socket;
    this.#socket = null;
    const was = this.get().state;
    this.set({ state: 'idle', openedAt: null, retryAt: null, problem: null });
    if (socket) {
      forget(socket);
      socket.close(1000, 'left');
    }
    if (was !== 'idle') this.#options.onNote({ kind: 'close', text: '1000 closed normally: disconnected from this page' });
  }

  /** Sends one text frame. False where it could not be handed to the browser. */
  send(text: string): boolean {
    const socket = this.#socket;
    if (!socket || this.get().state !== 'open' || socket.bufferedAmount > SEND_BUFFER_LIMIT) return false;
    socket.send(text);
    return true;
  }

  async #open(): Promise<void> {
    const turn = ++this.#turn;
    this.#stopTimer();
    if (this.#socket) {
      forget(this.#socket);
      this.#socket.close(1000);
      this.#socket = null;
    }
    this.set({ ...this.get(), state: 'connecting', openedAt: null, retryAt: null });
    let token: string;
    try {
      token = await this.#options.session.token();
    } catch (cause) {
      if (turn === this.#turn) this.#notRenewed(cause);
      return;
    }
    if (turn !== this.#turn) return;
    let socket: WebSocket;
    try {
      socket = new this.#around.WebSocket(`${this.url}?token=${encodeURIComponent(token)}`);
    } catch (cause) {
      this.#stop({ title: 'The browser refused to open this address', advice: messageOf(cause) });
      return;
    }
    this.#socket = socket;
    this.#timer = this.#around.setTimeout(() => socket.close(), OPEN_LIMIT_MS);
    socket.onopen = () => {
      this.#stopTimer();
      this.set({ state: 'open', openedAt: this.#around.now(), retryAt: null, problem: null });
      this.#options.onNote({ kind: 'info', text: `connected to ${this.url}` });
      this.#options.onOpen?.();
    };
    socket.onmessage = (event) => {
      if (typeof event.data === 'string') this.#options.onMessage(event.data);
      else this.#options.onNote({ kind: 'error', text: 'a binary frame came; this endpoint speaks text' });
    };
    socket.onclose = (event) => void this.#closed(turn, event.code, event.reason);
  }

  async #closed(turn: number, code: number, reason: string): Promise<void> {
    if (turn !== this.#turn) return;
    this.#stopTimer();
    this.#socket = null;
    const { openedAt } = this.get();
    if (openedAt === null) return this.#refused(turn);

    const meaning = closing(code);
    this.#options.onNote({ kind: 'close', text: `${code} ${meaning.name}${reason ? `: ${reason}` : ''}` });
    if (this.#around.now() - openedAt >= SETTLED_MS) this.#attempt = 0;
    const problem = { title: `${capital(meaning.name)} (${code})`, advice: reason ? `${meaning.advice} The gateway said: “${reason}”.` : meaning.advice };
    if (code === 4401 && this.reconnect && this.#options.session.renewable) {
      this.set({ state: 'connecting', openedAt: null, retryAt: null, problem: null });
      try {
        await this.#options.session.renew();
        this.#options.onNote({ kind: 'info', text: 'the token was renewed' });
        if (turn === this.#turn) await this.#open();
      } catch (cause) {
        if (turn === this.#turn) this.#notRenewed(cause);
      }
      return;
    }
    if (meaning.retry) this.#again(problem);
    else this.#stop(problem);
  }

  /** A browser tells nothing about a refused upgrade, so AP is asked what is wrong with the token. */
  async #refused(turn: number): Promise<void> {
    const verdict = await this.#options.session.verify();
    if (turn !== this.#turn) return;
    const problem = refusal(verdict, this.#options.role, this.url);
    this.#options.onNote({ kind: 'close', text: `1006 refused: ${problem.title}` });
    // A token that is good but refused means the gateway is away. Never hammer a server that refused the token.
    if (verdict.kind === 'good' || verdict.kind === 'unknown') this.#again(problem);
    else this.#stop(problem);
  }

  #notRenewed(cause: unknown): void {
    const later = cause instanceof ApiError && cause.temporary;
    const problem = { title: 'The session could not be renewed', advice: later ? messageOf(cause) : `${messageOf(cause)} Log in again.` };
    this.#options.onNote({ kind: 'error', text: `the token was not renewed: ${messageOf(cause)}` });
    if (later) this.#again(problem);
    else this.#stop(problem);
  }

  #again(problem: Problem): void {
    if (!this.reconnect) return this.#stop(problem);
    const wait = backoff(this.#attempt++, this.#around.random);
    this.set({ state: 'waiting', openedAt: null, retryAt: this.#around.now() + wait, problem });
    this.#timer = this.#around.setTimeout(() => void this.#open(), wait);
  }

  #stop(problem: Problem): void {
    this.#turn++;
    this.set({ state: 'idle', openedAt: null, retryAt: null, problem });
  }

  #stopTimer(): void {
    if (this.#timer !== null) this.#around.clearTimeout(this.#timer);
    this.#timer = null;
  }
}

/** Explains an upgrade that never opened. */
export function refusal(verdict: Verdict, role: string, url: string): Problem {
  switch (verdict.kind) {
    case 'good':
      return {
        title: 'The gateway did not answer',
        advice: `The token is valid, so the gateway at ${url} cannot be reached, uses another port, or does not allow this page's origin.`,
      };
    case 'wrong_role':
      return {
        title: `This token belongs to a ${verdict.role}`,
        advice: `This page needs a ${role}'s account. Log in with one, or register one here.`,
      };
    case 'expired':
      return {
        title: 'The token has expired',
        advice: `It ended at ${new Date(verdict.at).toLocaleTimeString()}. Log in again, or paste a newer one.`,
      };
    case 'invalid':
      return {
        title: 'The token was refused',
        advice: `The authentication service says: “${verdict.message}” Log in again, or paste the whole access_token.`,
      };
    case 'unknown':
      return {
        title: 'Neither the gateway nor the authentication service could tell why',
        advice: `${verdict.message} The token may be missing, expired or of the wrong role, or the services may be down.`,
      };
  }
}

function forget(socket: WebSocket): void {
  socket.onopen = socket.onmessage = socket.onclose = null;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function browser(): Surroundings {
  return {
    WebSocket: globalThis.WebSocket,
    now: () => performance.now(),
    setTimeout: (run, ms) => setTimeout(run, ms),
    clearTimeout: (timer) => clearTimeout(timer as number),
    random: Math.random,
  };
}
