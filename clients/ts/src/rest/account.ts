// The caller's own account: its keys, sessions and password, and its end. A key cannot do any of this: log in.
import type { ApiKey, LoginSession, MadeApiKey } from './types.ts';
import type { Caller, Credentials } from './caller.ts';

export class OwnAccount {
  readonly #at: string;
  readonly #caller: Caller;

  constructor(at: string, caller: Caller) {
    this.#at = at;
    this.#caller = caller;
  }

  keys(as: Credentials): Promise<ApiKey[]> {
    return this.#caller.json('GET', `${this.#at}/keys`, { as });
  }

  /** Makes a key for a program. The answer alone has the `key` itself. */
  createKey(as: Credentials, name: string, scopes: string[], expiresAt: string | null = null): Promise<MadeApiKey> {
    return this.#caller.json('POST', `${this.#at}/keys`, { as, body: { name, scopes, expires_at: expiresAt } });
  }

  /** Ends a key within a second. */
  async revokeKey(as: Credentials, id: string): Promise<void> {
    await this.#caller.json('DELETE', `${this.#at}/keys/${encodeURIComponent(id)}`, { as });
  }

  sessions(as: Credentials): Promise<LoginSession[]> {
    return this.#caller.json('GET', `${this.#at}/account/sessions`, { as });
  }

  async endSession(as: Credentials, id: string): Promise<void> {
    await this.#caller.json('DELETE', `${this.#at}/account/sessions/${encodeURIComponent(id)}`, { as });
  }

  /** Ends all sessions, or all but the caller's; says how many. Keys stay. */
  async logOutEverywhere(as: Credentials, keepCurrent = false): Promise<number> {
    return (await this.#caller.json<{ ended: number }>('POST', `${this.#at}/account/logout-everywhere`, { as, body: { keep_current: keepCurrent } })).ended;
  }

  /** Changes the password, which ends all other sessions. */
  async changePassword(as: Credentials, old: string, next: string): Promise<void> {
    await this.#caller.json('POST', `${this.#at}/account/password`, { as, body: { old_password: old, new_password: next } });
  }

  /** Everything that is kept about the account, as a ZIP. */
  export(as: Credentials, signal?: AbortSignal): Promise<Blob> {
    return this.#caller.blob('GET', `${this.#at}/account/export`, { as, accept: 'application/zip', signal });
  }

  /** Deletes the account and erases what is kept about it. */
  async delete(as: Credentials, password: string): Promise<void> {
    await this.#caller.json('DELETE', `${this.#at}/account`, { as, body: { password } });
  }
}
