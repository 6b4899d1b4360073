// The two tester pages in a real browser against a real server. The server is not started here: its addresses come from the environment.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { PASSWORD, PHONE, Pages, account, background, coloured, consumerPort, fits, gallery, missing, number, producerPage, run, seen, shoot, sm, until } from './platform.mjs';

const consumerPage = `${consumerPort}/tester`;

test('the environment names a running server', () => {
  assert.deepEqual(missing, [], `The page tests need a running server. Set ${missing.join(', ')} to its base URLs.`);
});

describe('tester pages', { skip: missing.length > 0 && 'see the failure above' }, () => {
  const pages = new Pages();
  const open = (t, url, options) => pages.open(t, url, options);
  /** Shared by the tests, as a real server limits how many accounts and logins one address may ask for. */
  let producer;
  let consumer;

  before(async () => {
    await pages.start();
    producer = await account('producer');
    consumer = await account('consumer');
  });
  after(() => pages.stop());

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
    // The first that came: another may come on top of it at any moment.
    const record = records.last();
    await seen(record.getByText(producer.username));
    await seen(record.getByText(/temperature 24\.30\s+·\s+humidity 51\s+·\s+pressure 1013\.3/));
    await record.locator('summary').click();
    const json = JSON.parse(await record.locator('pre').textContent());
    assert.deepEqual(json, {
      producer_id: String(producer.id),
      device_id: 'rpi_001',
      timestamp: '2025-01-29T11:35:00Z',
      data: { temperature: 24.3, humidity: 51, pressure: 1013.25 },
    });
    await record.locator('summary').click();

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
    for (const [url, role] of [[producerPage, 'producer'], [consumerPort, 'consumer']]) {
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
    assert.deepEqual(pages.complaints, []);
  });
});

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

async function state(page, wanted) {
  await seen(page.locator(`[data-testid="state"][data-state="${wanted}"]`));
}

async function stat(page, name, wanted) {
  await until(`${name} to be ${wanted}`, async () => (await page.locator(`[data-stat="${name}"]`).textContent()) === wanted);
}
