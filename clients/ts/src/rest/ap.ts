// Accounts: registering, logging in, and who there is.
import type { Account, AccountQuery, LoggedIn, Page, Role, User, Verified } from './types.ts';
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

  register(username: string, password: string, role: Role, deviceId = ''): Promise<User> {
    return this.#caller.json('POST', `${this.#at}/register`, { body: { username, password, role, ...(deviceId ? { device_id: deviceId } : {}) } });
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
}
