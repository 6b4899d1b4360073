// A member of an organisation acts for one of its accounts: by a token of that account, good for an hour, which the tab keeps and nobody renews.
import { Motience, type MemberToken, type OwnedAccount, type Places } from '@motience/client';

const KEY = 'motience.acting';

export interface Acting {
  organisation: string;
  /** The organisation's name. */
  name: string;
  account: OwnedAccount;
  token: string;
  scopes: string[];
  /** Milliseconds since 1970. */
  until: number;
}

/** As a member of the address: who opens it acts, or is asked whether to. */
export const linkOf = (organisation: string, account: string | number): string => `${organisation}:${account}`;

/** The organisation and the account that an address names. */
export function linked(text: string | null): { organisation: string; account: string } | null {
  const found = /^([0-9A-Za-z]{1,32}):([1-9]\d*)$/.exec(text ?? '');
  return found ? { organisation: found[1] ?? '', account: found[2] ?? '' } : null;
}

export function actingBy(made: MemberToken, organisation: { id: string; name: string }, account: OwnedAccount): Acting {
  return { organisation: organisation.id, name: organisation.name, account, token: made.access_token, scopes: made.scopes, until: Date.parse(made.expires_at) };
}

/** A client that is the account. */
export function clientOf({ account, token, until }: Acting, places: Places): Motience {
  const client = new Motience(places);
  client.session.set({ token, userId: String(account.user_id), username: account.username, role: account.role, expiresAt: until });
  return client;
}

/** Whether somebody may do this: with its own login everything, by a token what its scopes say. */
export const may = (scopes: string[] | null, scope: string): boolean => scopes === null || scopes.includes(scope);

/** The one that a tab keeps over a reload, unless it is over. */
export function kept(storage: Storage | null, now = Date.now()): Acting | null {
  try {
    const found: unknown = JSON.parse(storage?.getItem(KEY) ?? 'null');
    if (found === null || typeof found !== 'object') return null;
    const acting = found as Acting;
    return typeof acting.token === 'string' && acting.until > now ? acting : null;
  } catch {
    return null;
  }
}

export function keep(storage: Storage | null, acting: Acting | null): void {
  try {
    if (acting) storage?.setItem(KEY, JSON.stringify(acting));
    else storage?.removeItem(KEY);
  } catch {
    // Without storage it is over at the next reload.
  }
}
