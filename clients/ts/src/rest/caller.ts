// One HTTP call: the token, the time limit, one error type, and one renewal where a token was refused.
import { ApiError, failure } from '../errors.ts';

/** How long a call may take before it is given up. */
const TIME_LIMIT_MS = 10_000;

/** Who calls. `Session` is one; anything that gives a token will do. */
export interface Credentials {
  token(): Promise<string>;
  /** The token can be renewed when the service refuses it. */
  readonly renewable?: boolean;
  renew?(): Promise<void>;
}

export interface Request {
  /** A token, or that the credentials' one is to be used. */
  as?: string | Credentials | undefined;
  query?: Record<string, string | number | boolean | null | undefined>;
  body?: unknown;
  /** A body that is no JSON, and its media type. */
  lines?: { type: string; text: string };
  /** The media type wanted, where that is not JSON. */
  accept?: string;
  signal?: AbortSignal | undefined;
}

/** An answer with what its `Link` header leads to. */
export interface Answer<T> {
  value: T;
  /** The address of the next part, where there may be one. */
  next: string | null;
}

export class Caller {
  readonly #fetch: typeof fetch;

  constructor(fetcher?: typeof fetch) {
    this.#fetch = fetcher ?? ((...args) => fetch(...args));
  }

  async json<T>(method: string, url: string, request: Request = {}): Promise<T> {
    return (await this.answer<T>(method, url, request)).value;
  }

  async answer<T>(method: string, url: string, request: Request = {}): Promise<Answer<T>> {
    const response = await this.#withToken(method, url, request);
    const text = await response.text().catch((cause: unknown) => {
      request.signal?.throwIfAborted();
      throw unanswered(url, cause);
    });
    let value: unknown;
    try {
      value = text === '' ? null : JSON.parse(text);
    } catch {
      throw new ApiError(response.status, 'not_json', `${originOf(url)} did not answer with JSON. Is this the right service?`);
    }
    return { value: value as T, next: nextOf(response, url) };
  }

  /** An answer that is a file. Its head has to come in time; its body may take longer. */
  async blob(method: string, url: string, request: Request = {}): Promise<Blob> {
    return (await this.#withToken(method, url, request)).blob();
  }

  /** An answer of which only the head matters: its body is not read. */
  async head(method: string, url: string, request: Request = {}): Promise<void> {
    const response = await this.#withToken(method, url, request);
    await response.body?.cancel().catch(() => undefined);
  }

  async #withToken(method: string, url: string, request: Request): Promise<Response> {
    const who = request.as;
    if (who === undefined || typeof who === 'string') return this.#once(method, url, who, request);
    try {
      return await this.#once(method, url, await who.token(), request);
    } catch (cause) {
      // Clocks differ: a token that looks good here may be over there.
      if (!(cause instanceof ApiError && cause.status === 401 && who.renewable && who.renew)) throw cause;
      await who.renew();
      return this.#once(method, url, await who.token(), request);
    }
  }

  async #once(method: string, url: string, token: string | undefined, request: Request): Promise<Response> {
    const headers: Record<string, string> = { accept: request.accept ?? 'application/json' };
    if (token) headers.authorization = `Bearer ${token}`;
    if (request.body !== undefined) headers['content-type'] = 'application/json';
    if (request.lines) headers['content-type'] = request.lines.type;
    const limit = AbortSignal.timeout(TIME_LIMIT_MS);
    let response: Response;
    try {
      response = await this.#fetch(withQuery(url, request.query), {
        method,
        headers,
        ...(request.lines ? { body: request.lines.text } : request.body === undefined ? {} : { body: JSON.stringify(request.body) }),
        cache: 'no-store',
        credentials: 'omit',
        referrerPolicy: 'no-referrer',
        signal: request.signal ? AbortSignal.any([request.signal, limit]) : limit,
      });
    } catch (cause) {
      request.signal?.throwIfAborted();
      throw unanswered(url, cause);
    }
    if (!response.ok) throw failure(response, await response.text().catch(() => ''));
    return response;
  }
}

/** Why a request never got an answer. */
export function unanswered(url: string, cause: unknown): ApiError {
  const late = cause instanceof DOMException && cause.name === 'TimeoutError';
  const where = originOf(url);
  return new ApiError(
    0,
    late ? 'timeout' : 'unreachable',
    late
      ? `${where} did not answer within ${TIME_LIMIT_MS / 1000} seconds.`
      : `${where} cannot be reached. Is the service running, and does it allow this page's origin?`,
  );
}

export function withQuery(url: string, query: Request['query'] = {}): string {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== '');
  if (pairs.length === 0) return url;
  const search = new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]));
  return `${url}${url.includes('?') ? '&' : '?'}${search}`;
}

/** `Link: <?limit=…>; rel="next"`, as an address. */
function nextOf(response: Response, url: string): string | null {
  const found = /<([^>]*)>\s*;\s*rel="?next"?/.exec(response.headers.get('link') ?? '');
  return found?.[1] === undefined ? null : new URL(found[1], absolute(url)).href;
}

function absolute(url: string): string {
  return typeof location === 'undefined' ? url : new URL(url, location.href).href;
}

function originOf(url: string): string {
  try {
    return new URL(url).origin;
  } catch {
    return 'The gateway';
  }
}
