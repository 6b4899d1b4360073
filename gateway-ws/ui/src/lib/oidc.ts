// Logging in at another issuer: OpenID Connect by authorisation code with PKCE (RFC 7636, RFC 9700), as a public client. The page asks the issuer
// itself; the node only checks the access token that comes of it.
import { claimsOf, type ForeignToken } from '@motience/client';

/** An issuer, as `config.json` names it. */
export interface Issuer {
  name: string;
  label: string;
  issuer: string;
  client_id: string;
  scope: string;
  parameters: Record<string, string>;
}

/** The part of an issuer's own document that matters here. */
interface Metadata {
  issuer: string;
  authorization_endpoint: string;
  token_endpoint: string;
  authorization_response_iss_parameter_supported?: boolean;
}

/** A login that is on its way: kept by the tab while the issuer has it. */
interface Pending {
  name: string;
  state: string;
  nonce: string;
  verifier: string;
  redirect: string;
  /** The view to come back to. */
  hash: string;
}

interface Tokens {
  access_token?: string;
  expires_in?: number;
  refresh_token?: string;
  id_token?: string;
  token_type?: string;
}

const KEY = 'motience.login';
/** Bytes of state, nonce and verifier: nobody guesses them. */
const RANDOM_BYTES = 32;
const TIME_LIMIT_MS = 10_000;
/** How far the issuer's clock may be behind, in seconds. */
const LEEWAY_S = 60;

/** Leaves for the issuer. */
export async function leave(issuer: Issuer, storage: Storage): Promise<void> {
  const { authorization_endpoint } = await metadata(issuer);
  const pending: Pending = {
    name: issuer.name, state: random(), nonce: random(), verifier: random(), redirect: location.origin + location.pathname, hash: location.hash,
  };
  const challenge = base64url(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(pending.verifier))));
  storage.setItem(KEY, JSON.stringify(pending));
  const url = new URL(authorization_endpoint);
  const asked = {
    ...issuer.parameters, response_type: 'code', client_id: issuer.client_id, redirect_uri: pending.redirect, scope: issuer.scope,
    state: pending.state, nonce: pending.nonce, code_challenge: challenge, code_challenge_method: 'S256',
  };
  for (const [name, value] of Object.entries(asked)) url.searchParams.set(name, value);
  location.assign(url);
}

/** Whether the page was opened by an issuer's answer. */
export function isAnswer(search: string): boolean {
  const answer = new URLSearchParams(search);
  return answer.has('state') && (answer.has('code') || answer.has('error'));
}

/** Takes an issuer's answer from the address, and the tokens that its code stands for. `null`: there is no answer. */
export async function arrive(issuers: Issuer[], storage: Storage): Promise<ForeignToken | null> {
  if (!isAnswer(location.search)) return null;
  const answer = new URLSearchParams(location.search);
  const pending = JSON.parse(storage.getItem(KEY) ?? 'null') as Pending | null;
  // Good once, and nobody's to see in the address or in the browser's history.
  storage.removeItem(KEY);
  history.replaceState(null, '', location.pathname + (pending?.hash ?? ''));
  const issuer = issuers.find(({ name }) => name === pending?.name);
  if (!pending || !issuer || answer.get('state') !== pending.state) throw new Error('This login was not begun in this tab. Begin again.');
  const known = await metadata(issuer);
  // Of another issuer (RFC 9207).
  const by = answer.get('iss');
  if (by === null ? known.authorization_response_iss_parameter_supported : by !== issuer.issuer) throw new Error('The answer is of another issuer.');
  const code = answer.get('code');
  if (code === null) throw new Error(answer.get('error_description') ?? `${issuer.label} answers ${answer.get('error') ?? 'nothing'}.`);
  const tokens = await exchange(issuer, known, { grant_type: 'authorization_code', code, redirect_uri: pending.redirect, code_verifier: pending.verifier });
  check(tokens.id_token, issuer, pending.nonce);
  return foreign(issuer, known, tokens);
}

function foreign(issuer: Issuer, known: Metadata, tokens: Tokens): ForeignToken {
  const { access_token, expires_in, refresh_token } = tokens;
  if (!access_token || tokens.token_type?.toLowerCase() !== 'bearer') throw new Error(`${issuer.label} gives no bearer token.`);
  return {
    token: access_token,
    expiresAt: typeof expires_in === 'number' ? Date.now() + expires_in * 1000 : null,
    renew: refresh_token
      ? async () => {
          const next = await exchange(issuer, known, { grant_type: 'refresh_token', refresh_token });
          // An issuer that does not rotate them sends none.
          return foreign(issuer, known, { refresh_token, ...next });
        }
      : null,
  };
}

/** The ID token comes from the issuer itself, over TLS, so that its signature need not be checked (OpenID Connect Core 1.0, section 3.1.3.7). */
function check(token: string | undefined, issuer: Issuer, nonce: string): void {
  const claims = claimsOf(token ?? '');
  const audience = Array.isArray(claims.aud) ? claims.aud : [claims.aud];
  const alive = typeof claims.exp === 'number' && claims.exp + LEEWAY_S > Date.now() / 1000;
  if (claims.iss !== issuer.issuer || !audience.includes(issuer.client_id) || claims.nonce !== nonce || !alive) {
    throw new Error(`The ID token of ${issuer.label} is not for this login.`);
  }
}

async function exchange(issuer: Issuer, { token_endpoint }: Metadata, asked: Record<string, string>): Promise<Tokens> {
  const { resource } = issuer.parameters;
  const body = new URLSearchParams({ client_id: issuer.client_id, ...asked, ...(resource ? { resource } : {}) });
  const response = await fetch(token_endpoint, { method: 'POST', body, credentials: 'omit', signal: AbortSignal.timeout(TIME_LIMIT_MS) });
  const said = (await response.json().catch(() => ({}))) as Tokens & { error?: string; error_description?: string };
  if (!response.ok) throw new Error(`${issuer.label} refuses the login: ${said.error_description ?? said.error ?? response.status}`);
  return said;
}

async function metadata(issuer: Issuer): Promise<Metadata> {
  const url = `${issuer.issuer.replace(/\/+$/, '')}/.well-known/openid-configuration`;
  const response = await fetch(url, { credentials: 'omit', signal: AbortSignal.timeout(TIME_LIMIT_MS) });
  if (!response.ok) throw new Error(`${issuer.label} answers ${response.status}.`);
  const known = (await response.json()) as Metadata;
  if (known.issuer !== issuer.issuer) throw new Error(`${url} is the document of another issuer.`);
  return known;
}

function random(): string {
  return base64url(crypto.getRandomValues(new Uint8Array(RANDOM_BYTES)));
}

function base64url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
}
