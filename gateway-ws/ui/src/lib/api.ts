// The REST calls of the pages: typed answers, and one error type that says what went wrong in plain words.
import type { Endpoints, Role } from './config.ts';

/** How long a call may take before the page gives up on it. */
const TIME_LIMIT_MS = 10_000;

export interface Pair {
  access_token: string;
  refresh_token: string;
  token_type: string;
  expires_in: number;
  user_id: number | string;
  role: string;
}

export interface User {
  id: number | string;
  username: string;
  role: string;
  device_id: string | null;
}

export interface Verified {
  valid: boolean;
  user_id: number | string;
  username: string;
  role: string;
  expires_at: string | number;
}

export interface Subscription {
  id: number;
  consumer_id: number | string;
  producer_id: number | string;
  status: string;
}

export interface GatewayStats {
  connections: number;
  records: number;
  bytes: number;
  uptime_seconds: number;
}

/** A call that did not work. `status` is 0 where no answer came at all. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.code = code;
  }

  /** The same call may work later. */
  get temporary(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export class Api {
  readonly #at: Endpoints;
  readonly #fetch: typeof fetch;

  constructor(at: Endpoints, fetcher: typeof fetch = (...args) => fetch(...args)) {
    this.#at = at;
    this.#fetch = fetcher;
  }

  login(username: string, password: string): Promise<Pair> {
    return this.#call('POST', `${this.#at.ap}/login`, { body: { username, password } });
  }

  register(username: string, password: string, role: Role, deviceId: string): Promise<User> {
    return this.#call('POST', `${this.#at.ap}/register`, {
      body: { username, password, role, ...(deviceId ? { device_id: deviceId } : {}) },
    });
  }

  refresh(refreshToken: string): Promise<Pair> {
    return this.#call('POST', `${this.#at.ap}/refresh`, { body: { refresh_token: refreshToken } });
  }

  async logout(token: string, refreshToken: string | null): Promise<void> {
    await this.#call('POST', `${this.#at.ap}/logout`, { token, body: refreshToken ? { refresh_token: refreshToken } : {} });
  }

  verify(token: string): Promise<Verified> {
    return this.#call('GET', `${this.#at.ap}/verify`, { token });
  }

  producers(token: string, limit: number, after: string | null): Promise<User[]> {
    const query = after === null ? `limit=${limit}` : `limit=${limit}&after=${encodeURIComponent(after)}`;
    return this.#call('GET', `${this.#at.ap}/producers?${query}`, { token });
  }

  subscriptions(token: string, consumerId: string): Promise<Subscription[]> {
    return this.#call('GET', `${this.#at.sm}/subscriptions/${encodeURIComponent(consumerId)}`, { token });
  }

  subscribe(token: string, producerId: string): Promise<Subscription> {
    return this.#call('POST', `${this.#at.sm}/subscribe`, { token, body: { producer_id: idForBody(producerId) } });
  }

  async unsubscribe(token: string, producerId: string): Promise<void> {
    await this.#call('DELETE', `${this.#at.sm}/unsubscribe?producer_id=${encodeURIComponent(producerId)}`, { token });
  }

  /** What the gateway that serves this page counts about itself. */
  gatewayStats(): Promise<GatewayStats> {
    return this.#call('GET', '/stats', {});
  }

  async #call<T>(method: string, url: string, extra: { token?: string; body?: unknown }): Promise<T> {
    const headers: Record<string, string> = { accept: 'application/json' };
    if (extra.token) headers.authorization = `Bearer ${extra.token}`;
    if (extra.body !== undefined) headers['content-type'] = 'application/json';
    let response: Response;
    try {
      response = await this.#fetch(url, {
        method,
        headers,
        ...(extra.body === undefined ? {} : { body: JSON.stringify(extra.body) }),
        cache: 'no-store',
        credentials: 'omit',
        referrerPolicy: 'no-referrer',
        signal: AbortSignal.timeout(TIME_LIMIT_MS),
      });
    } catch (cause) {
      const late = cause instanceof DOMException && cause.name === 'TimeoutError';
      const where = originOf(url);
      throw new ApiError(
        0,
        late ? 'timeout' : 'unreachable',
        late
          ? `${where} did not answer within ${TIME_LIMIT_MS / 1000} seconds.`
          : `${where} cannot be reached. Is the service running, and does it allow this page's origin?`,
      );
    }
    const text = await response.text().catch(() => '');
    const json = parsed(text);
    if (!response.ok) throw failure(response, json);
    return json as T;
  }
}

/** Ids go as numbers where they fit one, which is what every edition of the services accepts. */
function idForBody(id: string): number | string {
  const number = Number(id);
  return Number.isSafeInteger(number) ? number : id;
}

function failure(response: Response, json: unknown): ApiError {
  const body = (json ?? {}) as Record<string, unknown>;
  const said = [body.detail, body.error, body.message, body.title].find((v) => typeof v === 'string' && v !== '') as string | undefined;
  const code = typeof body.code === 'string' ? body.code : `http_${response.status}`;
  let message = said ?? `The service answered ${response.status}.`;
  if (!/[.!?]$/.test(message)) message += '.';
  message = message.charAt(0).toUpperCase() + message.slice(1);
  if (response.status === 429) {
    const wait = response.headers.get('retry-after');
    message += wait ? ` Try again in ${wait} s.` : ' Wait a little, then try again.';
  }
  return new ApiError(response.status, code, message);
}

function parsed(text: string): unknown {
  try {
    return text === '' ? null : JSON.parse(text);
  } catch {
    return null;
  }
}

function originOf(url: string): string {
  try {
    return new URL(url).origin;
  } catch {
    return 'The gateway';
  }
}
