// The two pages in a real browser against a real server. The server is not started here: its addresses come from the environment.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { chromium } from 'playwright-core';

const NEEDED = ['MOTIENCE_PRODUCER_PAGE', 'MOTIENCE_CONSUMER_PAGE', 'MOTIENCE_AP', 'MOTIENCE_SM'];
const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const PASSWORD = 'tester-pages-1!';
const TIME_LIMIT_MS = 15_000;
const PHONE = { width: 390, height: 844 };
const DESK = { width: 1280, height: 900 };

const missing = NEEDED.filter((name) => !process.env[name]);
const [producerPage, consumerPage, ap, sm] = NEEDED.map((name) => (process.env[name] ?? '').replace(/\/+$/, ''));
const shots = process.env.MOTIENCE_SHOTS || mkdtempSync(join(tmpdir(), 'motience-pages-'));
const run = `${Date.now().toString(36)}${Math.floor(Math.random() * 1296).toString(36)}`;

test('the environment names a running server', () => {
  assert.deepEqual(missing, [], `The page tests need a running server. Set ${missing.join(', ')} to its base URLs.`);
});

describe('tester pages', { skip: missing.length > 0 && 'see the failure above' }, () => {
  /** @type {import('playwright-core').Browser} */
  let browser;
  /** Everything the pages complained about: CSP violations, exceptions, failed requests of their own. */
  const complaints = [];
  /** Shared by the tests, as a real server limits how many accounts and logins one address may ask for. */
  let producer;
  let consumer;

  before(async () => {
    mkdirSync(shots, { recursive: true });
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
    producer = await account('producer');
    consumer = await account('consumer');
  });
  after(async () => {
    await browser?.close();
    console.log(`screenshots: ${shots}`);
  });

  test('a producer logs in, sends and is acknowledged', async (t) => {
    const page = await open(t, producerPage);
    await state(page, 'idle');
    assert.match(await page.getByRole('textbox', { name: 'Record' }).inputValue(), /"device_id": "rpi_001"[\s\S]*"pressure": 1013\.25/);
    assert.ok(await page.getByRole('button', { name: 'Send', exact: true }).isDisabled(), 'nothing can be sent before connecting');

    await logIn(page, producer.username, PASSWORD);
    await state(page, 'open');
    assert.equal(await page.getByTestId('identity').textContent(), producer.username);

    await page.getByRole('button', { name: 'Send', exact: true }).click();
    await seen(page.getByTestId('log').getByText(/seq \d+, 0 subscribers/));
    await stat(page, 'Sent', '1');
    await stat(page, 'Acknowledged', '1');
    await stat(page, 'Errors', '0');
    assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage }).includes('eyJ')), false, 'no token in localStorage');

    await page.getByRole('button', { name: 'Disconnect' }).click();
    await state(page, 'idle');
    await seen(page.getByTestId('log').getByText(/^1000 closed normally/));
  });

  test('a new account is registered from the page', async (t) => {
    const page = await open(t, producerPage);
    await page.getByText('Register', { exact: true }).click();
    await page.getByLabel('Username').fill(`page-new-${run}`);
    await page.getByLabel('Password').fill(PASSWORD);
    await page.getByLabel('Device id').fill('rpi_077');
    await page.getByRole('button', { name: 'Register as producer and connect' }).click();
    await state(page, 'open');
  });

  test('broken JSON is pointed at, and the gateway answers it with an error', async (t) => {
    const page = await open(t, producerPage);
    await pasteToken(page, producer.token);
    await state(page, 'open');

    await page.getByRole('textbox', { name: 'Record' }).fill('{\n  "device_id": "rpi_001",\n  "data": {,}\n}');
    await seen(page.getByTestId('json-state').getByText('Line 3, column 12: a name in double quotes is expected.'));
    assert.ok(await page.getByRole('button', { name: 'Send', exact: true }).isDisabled());
    await shoot(page, 'producer-bad-json-dark');

    await page.getByRole('button', { name: 'Send anyway' }).click();
    await stat(page, 'Errors', '1');
    await seen(page.getByTestId('log').locator('li.error'));
    await state(page, 'open');
  });

  test('a wrong password is told', async (t) => {
    const page = await open(t, producerPage);
    await logIn(page, producer.username, 'not-the-password');
    await seen(page.getByRole('alert').getByText('Wrong username or password.', { exact: false }));
    await state(page, 'idle');
    await shoot(page, 'producer-wrong-password-dark');
  });

  test('a refused token is explained', async (t) => {
    const page = await open(t, producerPage);
    await pasteToken(page, 'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.AAAA');
    await seen(page.getByTestId('problem').getByText('The token was refused'));
    await state(page, 'idle');
    await shoot(page, 'producer-refused-dark');

    await page.getByRole('button', { name: 'Sign out' }).click();
    await pasteToken(page, consumer.token);
    await seen(page.getByTestId('problem').getByText('This token belongs to a consumer'));
    await state(page, 'idle');
  });

  test('a pasted token connects, and an empty one is asked for', async (t) => {
    const page = await open(t, producerPage);
    await pasteToken(page, '');
    await seen(page.getByRole('alert').getByText('Paste an access token first.', { exact: false }));
    await pasteToken(page, producer.token);
    await state(page, 'open');
    await seen(page.getByTestId('identity').getByText(producer.username));
    await page.reload();
    await seen(page.getByTestId('identity').getByText(producer.username));
  });

  test('a consumer subscribes by clicking and sees the record, its JSON and the chart', async (t) => {
    const sender = await open(t, producerPage);
    await logIn(sender, producer.username, PASSWORD);
    await state(sender, 'open');

    const page = await open(t, consumerPage);
    await logIn(page, consumer.username, PASSWORD);
    await state(page, 'open');
    await subscribe(page, producer.username);
    await seen(page.getByTestId('followed').getByText('1 active'));
    assert.deepEqual(await followed(consumer), [producer.id], 'the subscription manager knows it');

    // A subscription takes effect within a second: send until the first record arrives.
    const records = page.getByTestId('records').locator('li');
    await until('a record on the consumer page', async () => {
      await sender.getByRole('button', { name: 'Send', exact: true }).click();
      return (await records.count()) > 0;
    });
    await seen(sender.getByTestId('log').getByText(/seq \d+, 1 subscriber,/).first());
    await seen(records.first().getByText(producer.username));
    await seen(records.first().getByText(/temperature 24\.30\s+·\s+humidity 51\s+·\s+pressure 1013\.3/));
    await records.first().locator('summary').click();
    const json = JSON.parse(await records.first().locator('pre').textContent());
    assert.deepEqual(json, {
      producer_id: String(producer.id),
      device_id: 'rpi_001',
      timestamp: '2025-01-29T11:35:00Z',
      data: { temperature: 24.3, humidity: 51, pressure: 1013.25 },
    });
    await records.first().locator('summary').click();

    await sender.getByLabel('Milliseconds between records').fill('100');
    await sender.getByRole('button', { name: 'Start' }).click();
    await until('twenty records', async () => number(await page.locator('[data-stat="Records"]').textContent()) >= 20);
    await seen(page.getByTestId('chart').getByRole('figure', { name: /^temperature, latest/ }));
    await until('ink on each of the three strips', async () => {
      const canvases = await page.getByTestId('strip').locator('canvas').all();
      const inked = await Promise.all(canvases.map((canvas) => canvas.evaluate(coloured)));
      return inked.length === 3 && inked.every(Boolean);
    });
    await until('records per second', async () => number(await page.locator('[data-stat="Records/s"]').textContent()) >= 3);

    await page.getByRole('group', { name: 'Readings to draw' }).getByRole('button', { name: 'humidity' }).click();
    await until('two strips', async () => (await page.getByTestId('strip').count()) === 2);
    await page.getByRole('group', { name: 'Readings to draw' }).getByRole('button', { name: 'humidity' }).click();

    await until('a well filled chart', async () => number(await page.locator('[data-stat="Records"]').textContent()) >= 90);
    await gallery(sender, 'producer');
    await page.getByLabel('Time window').selectOption({ label: 'Last 1 min' });
    await gallery(page, 'consumer');

    await page.getByRole('button', { name: `Unsubscribe from ${producer.username}` }).click();
    await seen(page.getByTestId('followed').getByText('0 active'));
    assert.deepEqual(await followed(consumer), []);
    // The stream ends within a second: the count must come to rest while the producer goes on.
    await until('silence after unsubscribing', async () => {
      const sent = number(await sender.locator('[data-stat="Acknowledged"]').textContent());
      const heard = await page.locator('[data-stat="Records"]').textContent();
      await until('five more records sent', async () => number(await sender.locator('[data-stat="Acknowledged"]').textContent()) >= sent + 5);
      return (await page.locator('[data-stat="Records"]').textContent()) === heard;
    });
    await sender.getByRole('button', { name: 'Stop' }).click();
  });

  test('records can be filtered and paused', async (t) => {
    const page = await open(t, consumerPage);
    await pasteToken(page, consumer.token);
    await state(page, 'open');
    const sender = await open(t, producerPage);
    await pasteToken(sender, producer.token);
    await state(sender, 'open');
    await subscribe(page, producer.username);
    const records = page.getByTestId('records').locator('li');
    for (const device of ['north', 'south']) {
      await sender.getByRole('textbox', { name: 'Record' }).fill(`{"device_id":"${device}","timestamp":"2026-01-01T00:00:00Z","data":{"deep":{"level":[1,2]}}}`);
      await until(`a record of ${device}`, async () => {
        await sender.getByRole('button', { name: 'Send', exact: true }).click();
        return (await records.getByText(device, { exact: true }).count()) > 0;
      });
    }
    await page.getByLabel('Show device').selectOption('south');
    await until('only south', async () => (await records.getByText('north', { exact: true }).count()) === 0 && (await records.count()) > 0);
    await seen(page.getByRole('group', { name: 'Readings to draw' }).getByRole('button', { name: 'deep.level.1' }));

    const section = page.locator('section', { has: page.getByRole('heading', { name: 'Records', exact: true }) });
    await section.getByRole('button', { name: 'Pause' }).click();
    const before = await records.count();
    await sender.getByRole('button', { name: 'Send', exact: true }).click();
    await seen(section.getByText(/[1-9]\d* new while paused/));
    assert.equal(await records.count(), before);
  });

  test('both pages fit a phone, follow the theme and work by keyboard', async (t) => {
    for (const [url, name] of [[producerPage, 'producer'], [consumerPage, 'consumer']]) {
      const page = await open(t, url, { viewport: PHONE, colorScheme: 'light' });
      await state(page, 'idle');
      await fits(page);
      await shoot(page, `${name}-start-phone-light`);
      const light = await background(page);
      await page.getByRole('button', { name: 'Switch to the dark theme' }).click();
      assert.notEqual(await background(page), light);
      await page.reload();
      await state(page, 'idle');
      await page.getByRole('button', { name: 'Switch to the light theme' }).waitFor();
      await shoot(page, `${name}-start-phone-dark`);
      await page.getByLabel('Username').focus();
      const focused = await page.getByLabel('Username').evaluate((e) => getComputedStyle(e).outlineStyle);
      assert.equal(focused, 'solid', 'the focus can be seen');
      await page.keyboard.type('nobody');
      await page.keyboard.press('Tab');
      await page.keyboard.type('nothing-1');
      await page.keyboard.press('Enter');
      await seen(page.getByRole('alert').getByText('Wrong username or password.', { exact: false }));
      const unlabelled = await page.locator('input, select, textarea, button').evaluateAll((all) =>
        all.filter((e) => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim())).map((e) => e.outerHTML),
      );
      assert.deepEqual(unlabelled, [], 'every control has a name');
    }
  });

  test('the services of the pages answer', async () => {
    for (const [url, role] of [[producerPage, 'producer'], [consumerPage, 'consumer']]) {
      assert.equal((await fetch(`${url}/health`)).status, 200);
      const stats = await (await fetch(`${url}/stats`)).json();
      for (const key of ['connections', 'records', 'bytes', 'uptime_seconds']) assert.equal(typeof stats[key], 'number', `${key} of /stats`);
      assert.equal((await (await fetch(`${url}/config.json`)).json()).role, role);
      const page = await fetch(`${url}/`);
      assert.match(page.headers.get('content-security-policy') ?? '', /default-src 'self'/);
      assert.match(page.headers.get('content-type') ?? '', /^text\/html/);
    }
  });

  test('the pages threw nothing and broke no rule of the CSP', () => {
    assert.deepEqual(complaints, []);
  });

  // ---- helpers

  async function open(t, url, options = {}) {
    const context = await browser.newContext({ viewport: DESK, colorScheme: 'dark', reducedMotion: 'reduce', ...options });
    t.after(() => context.close());
    const page = await context.newPage();
    page.setDefaultTimeout(TIME_LIMIT_MS);
    page.on('pageerror', (error) => complaints.push(`${url}: ${error.message}`));
    page.on('console', (message) => {
      // A refused login or upgrade is written by the browser itself, and is what some tests are about.
      if (message.type() === 'error' && !/Failed to load resource|WebSocket connection to/.test(message.text())) complaints.push(`${url}: ${message.text()}`);
    });
    await page.goto(url);
    return page;
  }

  async function shoot(page, name) {
    await page.screenshot({ path: join(shots, `${name}.png`), fullPage: page.viewportSize().width === PHONE.width });
  }

  async function gallery(page, name) {
    for (const scheme of ['dark', 'light']) {
      await page.emulateMedia({ colorScheme: scheme });
      await page.setViewportSize(DESK);
      await page.evaluate(() => scrollTo(0, 0));
      await shoot(page, `${name}-${scheme}`);
      await page.setViewportSize(PHONE);
      await fits(page);
      await shoot(page, `${name}-phone-${scheme}`);
    }
    await page.setViewportSize(DESK);
  }
});

async function account(role) {
  const username = `page-${role}-${run}-${Math.random().toString(36).slice(2, 8)}`;
  const made = await call(`${ap}/register`, { username, password: PASSWORD, role, ...(role === 'producer' ? { device_id: 'rpi_001' } : {}) });
  const pair = await call(`${ap}/login`, { username, password: PASSWORD });
  return { username, id: Number(made.id), token: pair.access_token };
}

/** POSTs JSON, and waits as told where the server limits the rate. */
async function call(url, body) {
  for (let left = 5; ; left--) {
    const response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
    if (response.status === 429 && left > 0) {
      await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get('retry-after') ?? 1)));
      continue;
    }
    assert.ok(response.ok, `${url} answered ${response.status}: ${await response.clone().text()}`);
    return response.json();
  }
}

async function followed(consumer) {
  const response = await fetch(`${sm}/subscriptions/${consumer.id}`, { headers: { authorization: `Bearer ${consumer.token}` } });
  assert.equal(response.status, 200);
  return (await response.json()).filter((s) => s.status === 'active').map((s) => Number(s.producer_id));
}

async function logIn(page, username, password) {
  await page.getByLabel('Username').fill(username);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Log in and connect' }).click();
}

async function pasteToken(page, token) {
  await page.getByText('Paste token', { exact: true }).click();
  await page.getByLabel(/^Access token of a/).fill(token);
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
}

/** Subscribes by clicking; on a server with many accounts the producer may be pages away. */
async function subscribe(page, username) {
  const button = page.getByRole('button', { name: `Subscribe to ${username}`, exact: true });
  await seen(page.getByTestId('producers'));
  await until(`the producer ${username} in the list`, async () => {
    if (await button.isVisible()) return true;
    const more = page.getByRole('button', { name: 'Show more' });
    if ((await more.isVisible()) && (await more.isEnabled())) await more.click();
    return false;
  });
  await button.click();
}

const seen = (locator) => locator.waitFor({ state: 'visible', timeout: TIME_LIMIT_MS });
const number = (text) => Number((text ?? '').replace(/[^\d.-]/g, ''));
const background = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);

async function state(page, wanted) {
  await seen(page.locator(`[data-testid="state"][data-state="${wanted}"]`));
}

async function stat(page, name, wanted) {
  await until(`${name} to be ${wanted}`, async () => (await page.locator(`[data-stat="${name}"]`).textContent()) === wanted);
}

async function until(what, holds) {
  const deadline = Date.now() + TIME_LIMIT_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `waited in vain for ${what}`);
    await new Promise((done) => setTimeout(done, 60));
  }
}

async function fits(page) {
  const { scroll, client } = await page.evaluate(() => ({ scroll: document.documentElement.scrollWidth, client: document.documentElement.clientWidth }));
  assert.ok(scroll <= client, `the page is ${scroll} px wide on a screen of ${client}`);
}

/** Runs in the page: does this canvas hold strongly coloured pixels, as only a drawn line has? */
function coloured(canvas) {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;
  for (let i = 0; i < data.length; i += 4) {
    const [r, g, b, a] = data.slice(i, i + 4);
    if (a > 120 && Math.max(r, g, b) - Math.min(r, g, b) > 60) found++;
  }
  return found > 20;
}
