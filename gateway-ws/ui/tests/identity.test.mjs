// A person of another issuer logs in to the console: a real OpenID provider, a real server, a real browser.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { after, before, describe, test } from 'node:test';
import { accessible } from './axe.mjs';
import { Pages, fits, gallery, seen, until } from './platform.mjs';
import { Server, program } from './server.mjs';

const PROVIDER = fileURLToPath(new URL('../../../server/tests/clients/provider.mjs', import.meta.url));
/** Seconds for which the provider's tokens for people are good: the console renews one 30 seconds before its end. */
const LIFE = '33';

describe('identity', { skip: !program && 'set MOTIENCE_SERVER' }, () => {
  const pages = new Pages();
  const folder = mkdtempSync(join(tmpdir(), 'motience-identity-'));
  const server = new Server();
  let provider, issuer, at;

  before(async () => {
    provider = spawn('node', [PROVIDER, 'ES256', LIFE], { stdio: ['ignore', 'pipe', 'ignore'] });
    for await (const line of createInterface({ input: provider.stdout })) {
      if (!line.startsWith('READY ')) continue;
      issuer = JSON.parse(line.slice(6)).issuer;
      break;
    }
    const file = join(folder, 'issuers.json');
    const role = { claim: 'roles', map: { app: 'consumer', ops: 'admin' } };
    const client = { client_id: 'console', label: 'Example Corp', scope: 'openid profile offline_access motience:all', parameters: { prompt: 'consent', resource: 'urn:motience' } };
    writeFileSync(file, JSON.stringify([{ name: 'corp', issuer, audience: 'motience', role, scopes: { prefix: 'motience:' }, console: client }]));
    ({ at } = await server.start(folder, { OIDC_ISSUERS: file, OIDC_KEYS_PAUSE: '1s' }));
    await told(`redirect?to=${encodeURIComponent(at.consumer_page)}`);
    await pages.start();
  });
  after(async () => {
    await pages.stop();
    await server.stop();
    if (provider && provider.exitCode === null) {
      provider.kill('SIGTERM');
      await once(provider, 'exit');
    }
    rmSync(folder, { recursive: true, force: true });
  });

  /** Has the provider do something that only tests ask of it. */
  const told = async (what) => assert.equal((await fetch(`${issuer}/test/${what}`, { method: 'POST' })).status, 200);

  /** From the console's first page through the provider's own pages, and back. */
  async function logIn(page, who) {
    await page.getByRole('button', { name: 'Log in with Example Corp' }).click();
    await page.locator('input[name=login]').fill(who);
    await page.locator('input[name=password]').fill('any');
    await page.locator('button[type=submit]').click();
    await page.getByRole('button', { name: 'Continue' }).click();
    await seen(page.getByText(`${who}@corp`));
  }

  test('a person logs in, is renewed silently while the issuer changes its keys, and leaves', async (t) => {
    const page = await pages.open(t, at.consumer_page);
    await seen(page.getByRole('button', { name: 'Log in with Example Corp' }));
    await accessible(page, 'welcome with an issuer');
    await fits(page);
    await gallery(page, 'console-issuer');
    const spent = [];
    page.on('request', (request) => request.url() === `${issuer}/token` && spent.push(new URLSearchParams(request.postData() ?? '').get('grant_type')));
    await logIn(page, 'ada');
    assert.deepEqual([new URL(page.url()).search, spent], ['', ['authorization_code']], 'neither code nor state stays in the address');
    assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage })), '{}', 'no token outlives the tab');
    await seen(page.getByLabel('Search producers'));
    const token = () => page.evaluate(() => JSON.parse(sessionStorage.getItem('motience.session')).token);
    const first = await token();
    await told('rotate');
    const key = (jwt) => JSON.parse(Buffer.from(jwt.split('.')[0], 'base64url').toString()).kid;
    await until('a silent renewal, by the new key', async () => key(await token()) !== key(first));
    assert.ok(spent.includes('refresh_token'));
    const verified = async (jwt) => (await fetch(`${at.ap}/verify`, { headers: { authorization: `Bearer ${jwt}` } })).json();
    await until('the new key to be known', async () => (await verified(await token())).username === 'ada@corp');
    assert.equal((await verified(await token())).role, 'consumer');
    await seen(page.getByText('ada@corp'));
    await page.reload();
    await seen(page.getByText('ada@corp'));
    await page.getByRole('button', { name: 'Sign out' }).click();
    await seen(page.getByRole('button', { name: 'Log in with Example Corp' }));
  });

  test('who was logged out everywhere is out, though the issuer would go on to give tokens', async (t) => {
    const page = await pages.open(t, at.consumer_page);
    await logIn(page, 'ada');
    const token = await page.evaluate(() => JSON.parse(sessionStorage.getItem('motience.session')).token);
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
    assert.equal((await fetch(`${at.ap}/account/logout-everywhere`, { method: 'POST', headers, body: '{}' })).status, 200);
    await seen(page.getByRole('button', { name: 'Log in with Example Corp' }));
  });

  test('an operator of the issuer operates', async (t) => {
    const page = await pages.open(t, at.consumer_page);
    await logIn(page, 'grace');
    await seen(page.getByRole('tab', { name: 'Accounts' }));
  });

  test('who has no role here, and an answer that was not asked for, are refused in words', async (t) => {
    const page = await pages.open(t, at.consumer_page);
    await page.getByRole('button', { name: 'Log in with Example Corp' }).click();
    await page.locator('input[name=login]').fill('mallory');
    await page.locator('input[name=password]').fill('any');
    await page.locator('button[type=submit]').click();
    await page.getByRole('button', { name: 'Continue' }).click();
    await seen(page.getByRole('alert').getByText('no role here'));
    await accessible(page, 'a refused login');
    const forged = await pages.open(t, `${at.consumer_page}?code=stolen&state=theirs&iss=${encodeURIComponent(issuer)}`);
    await seen(forged.getByRole('alert').getByText('not begun in this tab'));
    assert.equal(new URL(forged.url()).search, '');
    assert.deepEqual(pages.complaints, []);
  });
});
