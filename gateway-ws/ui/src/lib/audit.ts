// The audit log as it is searched and saved, and the head of its chain that this browser remembers.
import type { AuditChain, AuditEntry, AuditQuery, Motience } from '@motience/client';

/** The fields of a search, as the address has them too. */
export interface AuditText {
  who: string;
  /** Acts about the account too, and not only its own. */
  about: boolean;
  what: string;
  outcome: string;
  from: string;
  until: string;
  source: string;
}

/** Lines of one page, and of a file at most. */
export const PAGE = 100;
const MOST = 200_000;
const PART = 1_000;

/** The account that a search names, by its id or its whole name; null: none is named. */
export async function accountOf({ ap, session }: Motience, who: string): Promise<number | null> {
  const text = who.trim();
  if (text === '') return null;
  if (/^[1-9]\d*$/.test(text)) return Number(text);
  const found = (await ap.accounts(session, { query: text, limit: 1000 })).find((a) => a.username === text);
  if (!found) throw new Error(`No account is called ${text}.`);
  return found.id;
}

/** The query; a sentence: why there is none. */
export function queryOf(text: AuditText, account: number | null): AuditQuery | string {
  const query: AuditQuery = {};
  if (account !== null) query[text.about ? 'account' : 'actor'] = account;
  if (text.what.trim()) query.act = text.what.trim();
  if (text.outcome === 'done' || text.outcome === 'refused' || text.outcome === 'failed') query.outcome = text.outcome;
  if (text.source.trim()) query.address = text.source.trim();
  for (const [name, local] of [['from', text.from], ['to', text.until]] as const) {
    if (local === '') continue;
    const at = new Date(local);
    if (Number.isNaN(at.getTime())) return 'A time is not complete.';
    query[name] = at.toISOString();
  }
  return query.from && query.to && query.from >= query.to ? 'The end must lie after the beginning.' : query;
}

/** Every line that matches, the newest first, as NDJSON; `cut`: there are more than a file has room for. */
export async function exported({ sm, session }: Motience, query: AuditQuery, signal: AbortSignal, progress: (lines: number) => void): Promise<{ parts: string[]; lines: number; cut: boolean }> {
  const parts: string[] = [];
  let lines = 0;
  for (let before: number | undefined; ; ) {
    const page: AuditEntry[] = await sm.audit(session, { ...query, limit: PART, ...(before === undefined ? {} : { before }) }, signal);
    parts.push(linesOf(page));
    lines += page.length;
    progress(lines);
    before = page.at(-1)?.id;
    if (page.length < PART) return { parts, lines, cut: false };
    if (lines >= MOST) return { parts, lines, cut: true };
  }
}

/** Objects as lines of JSON. */
export const linesOf = (objects: readonly unknown[]): string => objects.map((one) => `${JSON.stringify(one)}\n`).join('');

/** More about an act, in words. */
export function told(detail: unknown): string {
  if (detail === null || detail === undefined) return '';
  if (typeof detail !== 'object') return String(detail);
  return Object.entries(detail).filter(([, value]) => value !== null).map(([name, value]) => `${name.replaceAll('_', ' ')} ${typeof value === 'object' ? JSON.stringify(value) : String(value)}`).join(', ');
}

/** A head of the chain that was told earlier. */
export interface Head {
  lines: number;
  hash: string;
  /** When, in milliseconds since 1970. */
  at: number;
}

/** The last head of a service that this browser was told, by which it notices that lines were taken off the end. */
export class Heads {
  readonly #key: string;
  readonly #storage: Storage | null;

  constructor(service: string, storage: Storage | null) {
    this.#key = `motience.audit ${service}`;
    this.#storage = storage;
  }

  last(): Head | null {
    try {
      const found = JSON.parse(this.#storage?.getItem(this.#key) ?? 'null') as Partial<Head> | null;
      return found && Number.isSafeInteger(found.lines) && (found.lines ?? 0) > 0 && /^[0-9a-f]{64}$/.test(found.hash ?? '') ? { lines: found.lines ?? 0, hash: found.hash ?? '', at: found.at ?? 0 } : null;
    } catch {
      return null;
    }
  }

  /** Only a chain that holds is worth being remembered. */
  keep({ lines, hash, bad }: AuditChain, at: number): void {
    if (bad || lines < 1) return;
    try {
      this.#storage?.setItem(this.#key, JSON.stringify({ lines, hash, at }));
    } catch {
      // Without storage the next look trusts the service alone.
    }
  }
}
