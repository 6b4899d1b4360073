// A connection over WebTransport (HTTP/3): a control stream, and a stream for each producer. Each is read only as fast as
// the application takes its records, so that QUIC's flow control slows the server, and one producer does not delay another.
import { lines } from '../lines.ts';
import { messageOf } from '../errors.ts';
import { onLeaving } from '../leaving.ts';
import { Caller } from '../rest/caller.ts';
import { Dsm } from '../rest/dsm.ts';
import { selectionMembers } from '../selection.ts';
import { messageIn } from './events.ts';
import type { CloseReason, Link } from './transport.ts';

/** How long the session and its welcome may take: where UDP is blocked nothing ever answers. */
const OPEN_LIMIT_MS = 5_000;
/** The producers are looked up anew this often, where the application does not say when they change. */
const LOOK_EVERY_MS = 10_000;
/** A token is renewed this long before it ends. */
const RENEW_BEFORE_MS = 30_000;
const PING_EVERY_MS = 15_000;

/** Why this place has no WebTransport; null where it may work. */
export function whyNoWebTransport(): string | null {
  if (typeof WebTransport !== 'undefined') return null;
  if (typeof isSecureContext !== 'undefined' && !isSecureContext) return 'this page came over plain HTTP, where browsers have no WebTransport';
  return 'this browser has no WebTransport';
}

export async function webtransport(link: Link): Promise<CloseReason> {
  const missing = whyNoWebTransport();
  if (missing) return { code: 0, reason: missing, opened: false };
  // A token that cannot be had says nothing about WebTransport.
  await link.token();
  let session: WebTransport;
  try {
    session = await open(link);
  } catch (cause) {
    return { code: 0, reason: messageOf(cause), opened: false };
  }
  return new Connection(link, session).run();
}

/** Opens a session, with the hashes of a development certificate where there are any. */
export async function open(link: Pick<Link, 'places' | 'signal'>): Promise<WebTransport> {
  const asked = await new Dsm(link.places.dsm, new Caller()).certHash(link.signal).catch(() => null);
  const at = asked?.webtransport_url ?? link.places.webtransport;
  if (!at) throw new Error('this platform has no WebTransport');
  const hashes = (asked?.hashes ?? []).map((hash) => ({ algorithm: 'sha-256', value: Uint8Array.from(atob(hash), (c) => c.charCodeAt(0)) }));
  let failed: unknown;
  for (const url of addresses(at, hashes.length > 0)) {
    const session = new WebTransport(url, hashes.length > 0 ? { serverCertificateHashes: hashes } : {});
    // Its end is told by `closed`; a rejection of that nobody asks about yet is no error.
    session.closed.catch(() => undefined);
    try {
      await within(OPEN_LIMIT_MS, session.ready, `${new URL(at).host} did not answer over UDP`);
      return session;
    } catch (cause) {
      session.close();
      if (link.signal.aborted) throw cause;
      failed = cause;
    }
  }
  throw failed;
}

/** Browsers try one address of a name only, and for `localhost` that is often the one where nobody listens. A certificate that
 * is known by its hash is good for any name. */
function addresses(at: string, hashed: boolean): string[] {
  const url = new URL(at);
  if (!hashed || url.hostname !== 'localhost') return [at];
  url.hostname = '127.0.0.1';
  return [url.href, at];
}

class Connection {
  readonly #link: Link;
  readonly #session: WebTransport;
  readonly #asked = new Set<string>();
  readonly #utf8 = new TextEncoder();
  #writer!: WritableStreamDefaultWriter<Uint8Array>;
  #opened = false;
  #over = false;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();

  constructor(link: Link, session: WebTransport) {
    this.#link = link;
    this.#session = session;
  }

  async run(): Promise<CloseReason> {
    const session = this.#session;
    const unlisten = onLeaving(this.#link.signal, () => session.close({ closeCode: 1000, reason: 'left' }));
    const closed = session.closed.then(
      ({ closeCode, reason }) => ({ code: closeCode ?? 0, reason: reason ?? '' }),
      (cause: unknown) => ({ code: 1006, reason: messageOf(cause) }),
    );
    const failed = this.#speak().then(
      () => closed,
      async (cause: unknown) => {
        // A session that was closed for a reason says it better than the stream that broke with it.
        const told = await Promise.race([closed, new Promise<null>((late) => setTimeout(late, 250, null))]);
        session.close();
        return told ?? { code: 1006, reason: messageOf(cause) };
      },
    );
    const ending = await Promise.race([closed, failed]);
    this.#over = true;
    this.#timers.forEach(clearTimeout);
    unlisten();
    return { ...ending, opened: this.#opened };
  }

  async #speak(): Promise<void> {
    const control = await this.#session.createBidirectionalStream();
    this.#writer = control.writable.getWriter();
    const said = lines(control.readable);
    await this.#say({ type: 'hello', token: await this.#link.token() });
    const welcome = await within(OPEN_LIMIT_MS, said.next(), 'the server did not welcome this client');
    const message = welcome.value ? messageIn(welcome.value) : null;
    if (message?.type !== 'welcome') throw new Error(welcome.done ? 'the server ended the session' : 'the server did not speak this protocol');
    this.#opened = true;
    this.#link.opened();
    this.#renewLater(Number(message.expires_in));
    this.#link.onChange(() => void this.#follow());
    this.#every(LOOK_EVERY_MS, () => this.#follow());
    this.#every(PING_EVERY_MS, () => this.#say({ type: 'ping' }));
    await Promise.all([this.#follow(), this.#deliveries(), this.#answers(said)]);
  }

  async #answers(said: AsyncGenerator<string, void, void>): Promise<void> {
    for await (const line of said) {
      const message = messageIn(line);
      if (!message) continue;
      if (message.type === 'token_accepted') this.#renewLater(Number(message.expires_in));
      if (message.type !== 'refused' && message.type !== 'ended') continue;
      const producer = String(message.producer_id);
      // The end of a subscription that this client ended is no news.
      if (this.#asked.delete(producer) || message.type === 'refused') this.#link.take(message);
    }
  }

  async #deliveries(): Promise<void> {
    const reader = (this.#session.incomingUnidirectionalStreams as ReadableStream<ReadableStream<Uint8Array>>).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      // A stream that breaks does so with its session, or because its subscription has ended; both are told elsewhere.
      void this.#delivery(value).catch(() => undefined);
    }
  }

  async #delivery(stream: ReadableStream<Uint8Array>): Promise<void> {
    for await (const line of lines(stream)) {
      if (this.#over) return;
      const message = messageIn(line);
      if (!message) continue;
      // Earlier servers say `feed`.
      if (message.type === 'cursor' || message.type === 'feed') this.#link.progress.began(String(message.producer_id), String(message.cursor));
      else this.#link.take(message);
      if (this.#link.full) await this.#link.room();
    }
  }

  /** Asks for what is wanted and not asked for yet, and no longer for what is not wanted. */
  async #follow(): Promise<void> {
    const wanted = await this.#link.followed().catch(() => null);
    if (!wanted || this.#over) return;
    for (const producer of wanted) {
      if (this.#asked.has(producer)) continue;
      this.#asked.add(producer);
      const from = this.#link.progress.position(producer) ?? this.#link.from;
      await this.#say({ type: 'subscribe', producer_id: producer, from, ...selectionMembers(this.#link.selection), lane: 'records' });
    }
    for (const producer of [...this.#asked]) {
      if (wanted.has(producer)) continue;
      this.#asked.delete(producer);
      await this.#say({ type: 'unsubscribe', producer_id: producer });
    }
  }

  #renewLater(expiresIn: number): void {
    if (!(expiresIn > 0)) return;
    const wait = Math.min(Math.max(expiresIn * 1000 - RENEW_BEFORE_MS, 500), 2 ** 31 - 1);
    this.#later(wait, () => this.#renew());
  }

  async #renew(): Promise<void> {
    const token = await this.#link.token().catch(() => null);
    if (token !== null) await this.#say({ type: 'token', token });
  }

  #every(ms: number, run: () => Promise<void>): void {
    this.#later(ms, async () => {
      await run();
      this.#every(ms, run);
    });
  }

  #later(ms: number, run: () => Promise<void>): void {
    if (this.#over) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      // A message that cannot be sent any more belongs to a session that is ending.
      void run().catch(() => undefined);
    }, ms);
    this.#timers.add(timer);
  }

  async #say(message: object): Promise<void> {
    if (!this.#over) await this.#writer.write(this.#utf8.encode(`${JSON.stringify(message)}\n`));
  }
}

function within<T>(ms: number, promise: Promise<T>, late: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const limit = new Promise<never>((_, fail) => (timer = setTimeout(() => fail(new Error(late)), ms)));
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}
