// Accounts: registering, logging in, and who there is.
import type { Account, AccountQuery, Invitation, LoggedIn, MadeInvitation, Page, Role, User, Verified, Visibility } from './types.ts';
import type { Caller, Credentials } from './caller.ts';

export class Ap {
  readonly #at: string;
  readonly #caller: Caller;

  constructor(at: string, caller: Caller) {
    this.#at = at;
    this.#caller = caller;
  }

  login(username: string, password: string): Promise<LoggedIn> {
    return this.#caller.json('POST', `${this.#at}/login`, { body: { username, password } });
  }

  register(username: string, password: string, role: Role, deviceId = '', invitation = ''): Promise<User> {
    return this.#caller.json('POST', `${this.#at}/register`, { body: { username, password, role, ...(deviceId ? { device_id: deviceId } : {}), ...(invitation ? { invitation } : {}) } });
  }

  /** Spends the refresh token: it works once. `Session` does this by itself. */
  refresh(refreshToken: string): Promise<LoggedIn> {
    return this.#caller.json('POST', `${this.#at}/refresh`, { body: { refresh_token: refreshToken } });
  }

  async logout(as: string | Credentials, refreshToken: string | null): Promise<void> {
    await this.#caller.json('POST', `${this.#at}/logout`, { as, body: refreshToken ? { refresh_token: refreshToken } : {} });
  }

  verify(as: string | Credentials): Promise<Verified> {
    return this.#caller.json('GET', `${this.#at}/verify`, { as });
  }

  producers(as: Credentials, page: Page = {}): Promise<User[]> {
    return this.#caller.json('GET', `${this.#at}/producers`, { as, query: { ...page } });
  }

  consumers(as: Credentials, page: Page = {}): Promise<User[]> {
    return this.#caller.json('GET', `${this.#at}/consumers`, { as, query: { ...page } });
  }

  /** Every account. Operators only. */
  accounts(as: Credentials, query: AccountQuery = {}, signal?: AbortSignal): Promise<Account[]> {
    return this.#caller.json('GET', `${this.#at}/accounts`, { as, query: { ...query }, signal });
  }

  /** Ends every token and connection of an account, within a second. Operators only. */
  revoke(as: Credentials, id: string | number): Promise<Account> {
    return this.#caller.json('POST', `${this.#at}/accounts/${encodeURIComponent(id)}/revoke`, { as });
  }

  /** Lets a revoked account log in again. Operators only. */
  restore(as: Credentials, id: string | number): Promise<Account> {
    return this.#caller.json('POST', `${this.#at}/accounts/${encodeURIComponent(id)}/restore`, { as });
  }

  /** Who may register: anybody, those with an invitation, nobody. */
  async registration(): Promise<'open' | 'invite' | 'closed'> {
    return (await this.#caller.json<{ mode: 'open' | 'invite' | 'closed' }>('GET', `${this.#at}/registration`)).mode;
  }

  /** Makes an invitation. The answer alone has the `invitation` itself. Operators only, as the two below. */
  createInvitation(as: Credentials, wish: { role?: Role | null; uses?: number; expires_in?: number; note?: string } = {}): Promise<MadeInvitation> {
    return this.#caller.json('POST', `${this.#at}/invitations`, { as, body: wish });
  }

  invitations(as: Credentials): Promise<Invitation[]> {
    return this.#caller.json('GET', `${this.#at}/invitations`, { as });
  }

  async endInvitation(as: Credentials, id: string): Promise<void> {
    await this.#caller.json('DELETE', `${this.#at}/invitations/${encodeURIComponent(id)}`, { as });
  }

  /** Who finds a producer and follows it without being asked: `own` says whether that was chosen, or is the operator's default. */
  visibility(as: Credentials, producerId: string | number): Promise<{ visibility: Visibility; own: boolean }> {
    return this.#caller.json('GET', `${this.#at}/producers/${encodeURIComponent(producerId)}/visibility`, { as });
  }

  /** null: the operator's default. */
  setVisibility(as: Credentials, producerId: string | number, visibility: Visibility | null): Promise<{ visibility: Visibility; own: boolean }> {
    return this.#caller.json('PUT', `${this.#at}/producers/${encodeURIComponent(producerId)}/visibility`, { as, body: { visibility } });
  }
}
