// Who is signed in. A token near its end is renewed once, however many ask. With a storage the access token survives a
// reload; the refresh token lives in memory only, because a duplicated tab would copy it, and a refresh token that is
// spent twice ends the whole session.
import { ApiError } from './errors.ts';
import { Observable } from './observable.ts';
import type { Ap } from './rest/ap.ts';
import type { Credentials } from './rest/caller.ts';
import type { LoggedIn, Role } from './rest/types.ts';

const KEY = 'motience.session';
/** A token with less life than this is renewed before it is used. */
const RENEW_BEFORE_MS = 30_000;

export interface Identity {
  token: string;
  userId: string | null;
  username: string | null;
  role: string | null;
  /** Milliseconds since 1970, where it is known. */
  expiresAt: number | null;
}

/** AP's verdict on a token that was refused, or that is about to be used. */
export type Verdict =
  | { kind: 'good' }
  | { kind: 'wrong_role'; role: string }
  | { kind: 'expired'; at: number }
  | { kind: 'invalid'; message: string }
  | { kind: 'unknown'; message: string };

export interface SessionOptions {
  /** The only role that is of use here; another one is told by `verify`. */
  role?: Role | null;
  /** Where the access token survives a reload: `sessionStorage`. */
  storage?: Storage | null;
  now?: () => number;
}

/** A token of another issuer, and how to get the next one where there is a way. */
export interface ForeignToken {
  token: string;
  /** Milliseconds since 1970, where it is known. */
  expiresAt: number | null;
  renew: (() => Promise<ForeignToken>) | null;
}

export class Session extends Observable<Identity | null> implements Credentials {
  readonly #ap: Ap;
  readonly #role: Role | null;
  readonly #storage: Storage | null;
  readonly #now: () => number;
  #refreshToken: string | null = null;
  #foreign: ForeignToken['renew'] = null;
  #renewing: Promise<void> | null = null;

  constructor(ap: Ap, options: SessionOptions = {}) {
    super(restored(options.storage ?? null));
    this.#ap = ap;
    this.#role = options.role ?? null;
    this.#storage = options.storage ?? null;
    this.#now = options.now ?? Date.now;
  }

  get renewable(): boolean {
    return this.#refreshToken !== null || this.#foreign !== null || this.#renewing !== null;
  }

  async logIn(username: string, password: string): Promise<void> {
    this.#adopt(await this.#ap.login(username, password), username);
  }

  async register(username: string, password: string, role: Role, deviceId = '', invitation = ''): Promise<void> {
    await this.#ap.register(username, password, role, deviceId, invitation);
    await this.logIn(username, password);
  }

  /** Takes a token from elsewhere. Its claims are shown, and trusted for nothing. */
  useToken(pasted: string): void {
    const token = pasted.trim().replace(/^Bearer\s+/i, '');
    const claims = claimsOf(token);
    this.#refreshToken = this.#foreign = null;
    this.#keep({
      token,
      userId: text(claims.sub ?? claims.user_id ?? claims.userId ?? claims.id),
      username: text(claims.username ?? claims.name),
      role: text(claims.role),
      expiresAt: typeof claims.exp === 'number' ? claims.exp * 1000 : null,
    });
  }

  /** Takes a token of another issuer. Only the service knows the account, so it is asked. */
  async useForeign(foreign: ForeignToken): Promise<Verdict> {
    this.#refreshToken = null;
    this.#foreign = foreign.renew;
    this.#keep({ token: foreign.token, userId: null, username: null, role: null, expiresAt: foreign.expiresAt });
    return this.verify();
  }

  signOut(): void {
    const identity = this.get();
    const refreshToken = this.#refreshToken;
    this.#refreshToken = this.#foreign = null;
    this.#keep(null);
    // Only a session that was made here is ended at the service; a pasted token belongs to somebody else.
    if (identity && refreshToken) this.#ap.logout(identity.token, refreshToken).catch(() => undefined);
  }

  /** The token to use now, renewed first where it is about to expire and can be. */
  async token(): Promise<string> {
    const identity = this.get();
    if (!identity) throw new ApiError(401, 'signed_out', 'Log in or paste a token first.');
    const ending = identity.expiresAt !== null && identity.expiresAt - this.#now() < RENEW_BEFORE_MS;
    if (ending && this.renewable) await this.renew();
    return this.get()?.token ?? identity.token;
  }

  /** Spends the refresh token. Callers at the same moment share one call, as a second use would revoke the session. */
  renew(): Promise<void> {
    this.#renewing ??= this.#renew().finally(() => (this.#renewing = null));
    return this.#renewing;
  }

  /** Asks AP about the token, and fills in what it tells about the account. */
  async verify(): Promise<Verdict> {
    const identity = this.get();
    if (!identity) return { kind: 'invalid', message: 'There is no token.' };
    try {
      const said = await this.#ap.verify(identity.token);
      if (this.get()?.token === identity.token) {
        this.#keep({
          ...identity,
          userId: text(said.user_id) ?? identity.userId,
          username: text(said.username) ?? identity.username,
          role: text(said.role) ?? identity.role,
          expiresAt: instant(said.expires_at) ?? identity.expiresAt,
        });
      }
      if (this.#role && said.role && said.role !== this.#role) return { kind: 'wrong_role', role: said.role };
      return { kind: 'good' };
    } catch (cause) {
      const error = cause instanceof ApiError ? cause : new ApiError(0, 'unknown', String(cause));
      if (error.status === 401 || error.status === 403) {
        if (identity.expiresAt !== null && identity.expiresAt <= this.#now()) return { kind: 'expired', at: identity.expiresAt };
        return { kind: 'invalid', message: error.message };
      }
      return { kind: 'unknown', message: error.message };
    }
  }

  async #renew(): Promise<void> {
    if (this.#foreign) return this.#renewForeign(this.#foreign);
    const spent = this.#refreshToken;
    if (!spent) throw new ApiError(401, 'not_renewable', 'This session cannot be renewed: log in again.');
    this.#refreshToken = null;
    try {
      const pair = await this.#ap.refresh(spent);
      // Signed out while the call was on its way: the answer is nobody's any more.
      if (this.get()) this.#adopt(pair, this.get()?.username ?? null);
    } catch (cause) {
      // Without an answer the token is perhaps unspent, and worth another try; after a refusal it is worth nothing.
      if (cause instanceof ApiError && cause.temporary && this.get()) this.#refreshToken = spent;
      throw cause;
    }
  }

  async #renewForeign(renew: () => Promise<ForeignToken>): Promise<void> {
    await this.#refuseEnded();
    const next = await renew();
    const identity = this.get();
    if (!identity || this.#foreign !== renew) return;
    this.#foreign = next.renew;
    this.#keep({ ...identity, token: next.token, expiresAt: next.expiresAt });
  }

  /** Ends the session where the account was logged out everywhere: its issuer, which does not know, would go on to give tokens. */
  async #refuseEnded(): Promise<void> {
    const identity = this.get();
    if (!identity) return;
    try {
      await this.#ap.verify(identity.token);
    } catch (cause) {
      if (!(cause instanceof ApiError && cause.code === 'token_revoked')) return;
      if (this.get()?.token === identity.token) this.signOut();
      throw cause;
    }
  }

  #adopt(pair: LoggedIn, username: string | null): void {
    this.#refreshToken = pair.refresh_token ?? null;
    this.#foreign = null;
    this.#keep({
      token: pair.access_token,
      userId: text(pair.user_id),
      username,
      role: text(pair.role),
      expiresAt: typeof pair.expires_in === 'number' ? this.#now() + pair.expires_in * 1000 : null,
    });
  }

  #keep(identity: Identity | null): void {
    this.set(identity);
    try {
      if (identity) this.#storage?.setItem(KEY, JSON.stringify(identity));
      else this.#storage?.removeItem(KEY);
    } catch {
      // Without storage the session is only forgotten at the next reload.
    }
  }
}

/** The claims of a JWT, unverified; an empty object for anything else. */
export function claimsOf(token: string): Record<string, unknown> {
  try {
    const part = (token.split('.')[1] ?? '').replace(/-/g, '+').replace(/_/g, '/');
    const bytes = Uint8Array.from(atob(part), (c) => c.charCodeAt(0));
    const value: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return value !== null && typeof value === 'object' ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function restored(storage: Storage | null): Identity | null {
  try {
    const value: unknown = JSON.parse(storage?.getItem(KEY) ?? 'null');
    return value !== null && typeof value === 'object' && typeof (value as Identity).token === 'string' ? (value as Identity) : null;
  } catch {
    return null;
  }
}

function text(value: unknown): string | null {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : null;
}

function instant(value: string | number | undefined): number | null {
  if (typeof value === 'number') return value < 1e11 ? value * 1000 : value;
  const at = Date.parse(value ?? '');
  return Number.isNaN(at) ? null : at;
}
