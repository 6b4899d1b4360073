// Signing in, what is kept where, renewing once, and what AP's verdict means.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Ap, ApiError, Caller, Session, claimsOf } from '../src/index.ts';

type Answer = { status: number; body: unknown; headers?: Record<string, string> };

function services(answer: (method: string, url: string, body: unknown) => Answer) {
  const calls: string[] = [];
  const fetcher = (async (url: string, init: RequestInit) => {
    calls.push(`${init.method} ${url}`);
    const { status, body, headers } = answer(init.method ?? '', url, init.body ? JSON.parse(String(init.body)) : null);
    return new Response(JSON.stringify(body), { status, headers: headers ?? {} });
  }) as unknown as typeof fetch;
  return { ap: new Ap('http://ap', new Caller(fetcher)), calls };
}

function tabStorage(): Storage & { text: () => string } {
  const map = new Map<string, string>();
  return {
    getItem: (k: string) => map.get(k) ?? null,
    setItem: (k: string, v: string) => void map.set(k, v),
    removeItem: (k: string) => void map.delete(k),
    clear: () => map.clear(),
    key: () => null,
    length: 0,
    text: () => [...map.values()].join(),
  };
}

const pair = (n: number) => ({ access_token: `access-${n}`, refresh_token: `refresh-${n}`, token_type: 'Bearer', expires_in: 3600, user_id: 12, role: 'producer' });
const jwt = (claims: object) => `h.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.s`;

test('logging in keeps the access token in the tab and the refresh token in memory', async () => {
  const storage = tabStorage();
  const { ap } = services(() => ({ status: 200, body: pair(1) }));
  const session = new Session(ap, { role: 'producer', storage, now: () => 0 });
  await session.logIn('alice', 'pass123');
  assert.deepEqual(session.get(), { token: 'access-1', userId: '12', username: 'alice', role: 'producer', expiresAt: 3_600_000 });
  assert.match(storage.text(), /access-1/);
  assert.doesNotMatch(storage.text(), /refresh-1|pass123/);
  assert.equal(new Session(ap, { role: 'producer', storage }).get()?.token, 'access-1');
  session.signOut();
  assert.equal(storage.text(), '');
});

test('a token near its end is renewed once, however many ask', async () => {
  let now = 0;
  const { ap, calls } = services((_, url) => ({ status: 200, body: pair(url.endsWith('/refresh') ? 2 : 1) }));
  const session = new Session(ap, { role: 'producer', now: () => now });
  await session.logIn('alice', 'x');
  assert.equal(await session.token(), 'access-1');
  now = 3_590_000;
  assert.deepEqual(await Promise.all([session.token(), session.token(), session.token()]), ['access-2', 'access-2', 'access-2']);
  assert.equal(calls.filter((c) => c.endsWith('/refresh')).length, 1);
  assert.equal(session.get()?.username, 'alice');
});

test('a refused renewal spends the refresh token, an overloaded service does not', async () => {
  let status = 503;
  const { ap } = services((_, url) => (url.endsWith('/refresh') ? { status, body: { code: 'no', error: 'no' } } : { status: 200, body: pair(1) }));
  const session = new Session(ap, { role: 'producer' });
  await session.logIn('alice', 'x');
  await assert.rejects(session.renew(), ApiError);
  assert.equal(session.renewable, true);
  status = 401;
  await assert.rejects(session.renew(), ApiError);
  assert.equal(session.renewable, false);
});

test('a pasted token shows its claims and takes a Bearer prefix', () => {
  const session = new Session(services(() => ({ status: 200, body: {} })).ap, { role: 'producer' });
  session.useToken(` Bearer ${jwt({ sub: '7', username: 'zoë', role: 'producer', exp: 100 })}\n`);
  assert.deepEqual({ ...session.get(), token: '' }, { token: '', userId: '7', username: 'zoë', role: 'producer', expiresAt: 100_000 });
  assert.deepEqual(claimsOf('nonsense'), {});
  assert.equal(session.renewable, false);
});

test('the verdict tells a wrong role, an expired, an invalid and an unreachable case apart', async () => {
  let answer: Answer = { status: 200, body: { valid: true, user_id: 7, username: 'bob', role: 'consumer', expires_at: '2030-01-01T00:00:00Z' } };
  const session = new Session(services(() => answer).ap, { role: 'producer', now: () => 200_000 });
  session.useToken('a.b.c');
  assert.deepEqual(await session.verify(), { kind: 'wrong_role', role: 'consumer' });
  assert.equal(session.get()?.username, 'bob');
  answer = { status: 401, body: { code: 'invalid_token', error: 'the token is not valid' } };
  session.useToken('a.b.c');
  assert.deepEqual(await session.verify(), { kind: 'invalid', message: 'The token is not valid.' });
  session.useToken(jwt({ exp: 100 }));
  assert.deepEqual(await session.verify(), { kind: 'expired', at: 100_000 });
  answer = { status: 503, body: { code: 'unavailable', error: 'the database is unreachable' } };
  assert.equal((await session.verify()).kind, 'unknown');
  answer = { status: 200, body: { valid: true, user_id: 7, username: 'bob', role: 'producer', expires_at: 1_900_000_000 } };
  assert.deepEqual(await session.verify(), { kind: 'good' });
  assert.equal(session.get()?.expiresAt, 1_900_000_000_000);
});

test('errors say what to do', async () => {
  const limited = services(() => ({ status: 429, body: { code: 'rate_limited', error: 'too many attempts' }, headers: { 'retry-after': '7' } }));
  await assert.rejects(limited.ap.login('a', 'b'), { code: 'rate_limited', status: 429, message: 'Too many attempts. Try again in 7 s.' });
  const away = new Ap('http://ap', new Caller((async () => {
    throw new TypeError('fetch failed');
  }) as unknown as typeof fetch));
  await assert.rejects(away.login('a', 'b'), { status: 0, code: 'unreachable' });
});

test('a session of another issuer ends where the account was logged out everywhere, though the issuer gives tokens', async () => {
  let code: string | null = null;
  const { ap } = services((_, url) => {
    if (!url.endsWith('/verify')) return { status: 200, body: {} };
    return code === null ? { status: 200, body: { valid: true, user_id: 7, username: 'ada@corp', role: 'consumer' } } : { status: 401, body: { code, error: code } };
  });
  const session = new Session(ap, {});
  let given = 0;
  const renew = async () => ({ token: `foreign-${++given}`, expiresAt: null, renew });
  await session.useForeign(await renew());
  await session.renew();
  // One that is merely too old is renewed as ever.
  code = 'token_expired';
  await session.renew();
  assert.equal(session.get()?.token, 'foreign-3');
  code = 'token_revoked';
  await assert.rejects(session.renew(), { status: 401, code: 'token_revoked' });
  assert.deepEqual([session.get(), session.renewable, given], [null, false, 3]);
});
