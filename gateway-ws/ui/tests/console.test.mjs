// The console's main journeys in a real browser against a real server, for a consumer, a producer and an operator; that it
// says which transport is in use; and axe's rules in both themes.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { accessible } from './axe.mjs';
import { PASSWORD, PHONE, Pages, WIDE, account, coloured, consumerPort, dsm, fits, gallery, missing, run, seen, shoot, until } from './platform.mjs';

/** The accounts of `motience-server demo`, whose device sends all the time. */
const DEMO = { consumer: 'demo-consumer', producer: 'demo-producer', admin: 'demo-admin', password: 'demo-pass-123' };
/** Numbers in the way of a browser without WebTransport: the page must do with what is there. */
const withoutWebTransport = () => delete globalThis.WebTransport;
/** Runs in the page: keeps the font of every label that a canvas draws. */
const keepFonts = () => {
  globalThis.fonts = new Set();
  const fill = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (...args) {
    globalThis.fonts.add(this.font);
    return fill.apply(this, args);
  };
};

describe('console', { skip: missing.length > 0 && `set ${missing.join(', ')}` }, () => {
  const pages = new Pages();
  const open = (t, options, url = consumerPort) => pages.open(t, url, options);
  /** The addresses of the running server. */
  let config;

  before(async () => {
    await pages.start();
    config = await (await fetch(`${dsm}/console/config.json`)).json();
  });
  after(() => pages.stop());

  test('a consumer sees the chart move within a second, over the transport it says', async (t) => {
    const page = await open(t);
    await seen(page.getByRole('heading', { name: 'Log in' }));
    await shoot(page, 'console-welcome-dark');
    await accessible(page, 'welcome');
    await logIn(page, DEMO.consumer);
    const best = config.webtransport_url ? 'webtransport' : 'websocket';
    await transport(page, best);
    const words = best === 'webtransport' ? 'Live over WebTransport (HTTP/3)' : 'Live over WebSocket';
    assert.equal((await page.getByTestId('transport').getByRole('status').textContent()).trim(), words);
    await inked(page);
    const records = page.getByTestId('records').locator('li');
    await seen(records.first());
    const first = await newest(page);
    await until('another record', async () => (await newest(page)) !== first);
    await until('a filled chart', async () => (await records.count()) >= 12);
    await accessible(page, 'live');
    await gallery(page, 'console-consumer');
    await page.getByRole('tab', { name: 'Devices' }).click();
    await seen(page.getByTestId('devices').getByText('demo-device'));
    await accessible(page, 'devices');
    await shoot(page, 'console-devices-light');
    assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage }).includes('eyJ')), false, 'no token in localStorage');
    await page.reload();
    await transport(page, best);
  });

  test('without WebTransport it falls back to WebSocket and says why', async (t) => {
    const page = await open(t, { prepare: withoutWebTransport, colorScheme: 'light' });
    await logIn(page, DEMO.consumer);
    await transport(page, 'websocket');
    await page.getByTestId('transport').click();
    await seen(page.getByTestId('transport-detail').getByText('Not WebTransport: this browser has no WebTransport.', { exact: false }));
    await shoot(page, 'console-fallback-light');
    await page.keyboard.press('Escape');
    assert.equal(await page.getByTestId('transport-detail').count(), 0);
    await inked(page);
  });

  test('history: back through time, and live again', async (t) => {
    const page = await open(t);
    await logIn(page, DEMO.consumer);
    await inked(page);
    await page.getByRole('button', { name: '1m window' }).click();
    const chart = page.getByTestId('chart');
    // A few seconds back: a platform that has just started has no more.
    await page.keyboard.down('Shift');
    await drag(page, chart, 50);
    await page.keyboard.up('Shift');
    await seen(page.getByTestId('mode').getByText('Looking back'));
    await inked(page);
    await shoot(page, 'console-history-dark');
    await accessible(page, 'history');
    await page.getByRole('button', { name: 'Back to live' }).click();
    await until('the live chart', async () => (await page.getByTestId('mode').count()) === 0);
    await chart.focus();
    await page.keyboard.press('ArrowLeft');
    await seen(page.getByTestId('mode').getByText('Looking back'));
    await page.keyboard.press('End');
    await until('the live chart again', async () => (await page.getByTestId('mode').count()) === 0);
    await page.keyboard.press('[');
    await seen(page.getByTestId('mode'));
    await page.getByRole('button', { name: 'Back to live' }).click();
    await seen(page.getByRole('heading', { name: 'Live readings' }));
  });

  test('the chart tells time and values under the cursor, by pointer and by keys', async (t) => {
    const page = await open(t);
    await logIn(page, DEMO.consumer);
    await inked(page);
    const chart = page.getByTestId('chart');
    const under = page.getByTestId('under');
    const box = await chart.boundingBox();
    await page.mouse.move(box.x + box.width * 0.9, box.y + 60);
    await seen(under);
    assert.match(await under.textContent(), /^\d\d:\d\d:\d\d/);
    await shoot(page, 'console-cursor-dark');
    await page.mouse.move(box.x + box.width / 2, box.y - 60);
    await until('the cursor to leave', async () => (await under.count()) === 0);
    await chart.focus();
    await page.keyboard.press('Shift+ArrowLeft');
    await seen(under);
    const first = await under.textContent();
    for (let n = 0; n < 30; n++) await page.keyboard.press('Shift+ArrowLeft');
    assert.notEqual(await under.textContent(), first);
    await until('the values to be said', async () => /\d\d:\d\d:\d\d: \w+ -?[\d.]+/.test(await page.locator('[aria-live="polite"]').last().textContent()));
    await accessible(page, 'cursor');
    await page.keyboard.press('Escape');
    await until('the cursor to go', async () => (await under.count()) === 0);
  });

  test('a stretch is zoomed into, the address is the view, and the browser goes back', async (t) => {
    const page = await open(t, { viewport: WIDE });
    await logIn(page, DEMO.consumer);
    await inked(page);
    const strips = await page.getByTestId('strip').count();
    await page.getByRole('group', { name: 'Readings to draw' }).getByRole('button', { pressed: true }).first().click();
    await until('one strip less', async () => (await page.getByTestId('strip').count()) === strips - 1);
    await drag(page, page.getByTestId('chart'), 200);
    await seen(page.getByTestId('mode').getByText('Looking back'));
    await inked(page);
    const zoomed = page.url();
    assert.match(zoomed, /[#&]to=\d+/);
    await shoot(page, 'console-zoomed-dark');
    await accessible(page, 'zoomed');
    await page.goBack();
    await until('the live chart', async () => (await page.getByTestId('mode').count()) === 0);
    await page.goForward();
    await seen(page.getByTestId('mode').getByText('Looking back'));
    // Another window shows it too: what is seen is in the link.
    const other = await page.context().newPage();
    await other.goto(zoomed);
    await logIn(other, DEMO.consumer);
    await seen(other.getByTestId('mode').getByText('Looking back'));
    await inked(other);
    assert.equal(await other.getByTestId('strip').count(), strips - 1);
    assert.equal(other.url(), zoomed);
    await page.getByTestId('chart').focus();
    await page.keyboard.press('-');
    await until('a wider window', () => page.url() !== zoomed);
    await page.keyboard.press('End');
    await until('the live chart again', async () => (await page.getByTestId('mode').count()) === 0);
  });

  test('days are drawn of buckets, which the server makes', async (t) => {
    const producer = await account('producer');
    const now = Date.now();
    const records = Array.from({ length: 900 }, (_, i) => ({ device_id: i % 2 ? 'north' : 'south', timestamp: new Date(now - (900 - i) * 80_000).toISOString(), data: { level: Math.sin(i / 40) * 10 + (i % 2) * 5 } }));
    const sent = await fetch(`${dsm}/data`, { method: 'POST', headers: { 'content-type': 'application/json', authorization: `Bearer ${producer.token}` }, body: JSON.stringify(records) });
    assert.equal(sent.status, 200);
    const page = await open(t, { viewport: WIDE, colorScheme: 'light' });
    await logIn(page, producer.username, PASSWORD);
    const asked = page.waitForRequest((request) => request.url().includes('bucket='));
    await page.getByRole('button', { name: '1d window' }).click();
    await asked;
    await inked(page);
    await page.getByLabel('Compare with another device').selectOption('north' === (await page.getByLabel('Device to chart').inputValue()) ? { label: 'south' } : { label: 'north' });
    await seen(page.getByRole('list', { name: 'Compared devices' }));
    await inked(page);
    await page.mouse.move(700, 460);
    await shoot(page, 'console-day-light');
    await accessible(page, 'a day of two devices');
    await page.getByRole('button', { name: /^Compare no longer with/ }).click();
    await until('one device', async () => (await page.getByRole('list', { name: 'Compared devices' }).count()) === 0);
    await page.goBack();
    await seen(page.getByRole('list', { name: 'Compared devices' }));
  });

  test('replay: from the oldest record to the present, and live again', async (t) => {
    const page = await open(t, { colorScheme: 'light' });
    await logIn(page, DEMO.consumer);
    await inked(page);
    await page.getByRole('button', { name: 'Replay…' }).click();
    await seen(page.getByRole('dialog', { name: 'Replay from a time' }));
    await accessible(page, 'replay dialog');
    await page.getByRole('button', { name: 'From the oldest record' }).click();
    await seen(page.getByTestId('mode').getByText('caught up with the present', { exact: false }));
    await inked(page);
    await shoot(page, 'console-replay-light');
    await page.getByRole('button', { name: 'Back to live' }).click();
    await until('the live stream', async () => (await page.getByTestId('transport').getByRole('status').textContent()).startsWith('Live'));
  });

  test('a filter is applied, and a bad one is pointed at', async (t) => {
    const page = await open(t);
    await logIn(page, DEMO.consumer);
    await inked(page);
    await page.getByLabel('Filter').fill('/data/cpu ?');
    await page.getByRole('button', { name: 'Apply' }).click();
    await seen(page.getByTestId('mistake').locator('pre', { hasText: '^' }));
    await shoot(page, 'console-filter-mistake-dark');
    await accessible(page, 'filter mistake');
    await page.getByLabel('Filter').fill('/device_id = "nobody"');
    await page.getByRole('button', { name: 'Apply' }).click();
    await until('the mistake to go', async () => (await page.getByTestId('mistake').count()) === 0);
    await seen(page.getByText('Nothing has matched the filter yet'));
    await seen(page.getByText('No record has matched the filter yet.'));
    await shoot(page, 'console-filter-empty-dark');
    await page.getByRole('button', { name: 'Clear' }).click();
    await page.getByLabel('Sampling').selectOption('1s');
    await seen(page.getByTestId('records').locator('li').first());
  });

  test('a filter holds for the chart, however late the history before it comes', async (t) => {
    const page = await open(t);
    let release;
    const held = new Promise((done) => (release = done));
    let asked = 0;
    await page.route('**/history/**', async (route) => {
      asked++;
      await held;
      // A request that the page gave up is nobody's any more.
      await route.continue().catch(() => undefined);
    });
    await logIn(page, DEMO.consumer);
    await inked(page);
    await until('the history to be asked for', () => asked > 0);
    await page.getByLabel('Filter').fill('/device_id = "nobody"');
    await page.getByRole('button', { name: 'Apply' }).click();
    await seen(page.getByText('Nothing has matched the filter yet'));
    release();
    for (let looks = 0; looks < 2; looks++) await page.waitForResponse('**/streams');
    assert.equal(await page.getByTestId('strip').count(), 0, 'nothing is drawn that does not match');
    await page.getByRole('button', { name: 'Clear' }).click();
    await inked(page);
  });

  test('labels of the chart are as large on a dense screen as on any other', async (t) => {
    const page = await open(t, { deviceScaleFactor: 2, prepare: keepFonts });
    await logIn(page, DEMO.consumer);
    await inked(page);
    const sizes = await page.evaluate(() => [...globalThis.fonts].map((font) => Number(/([\d.]+)px/.exec(font)[1]) / devicePixelRatio));
    assert.ok(sizes.length > 0 && sizes.every((size) => size >= 11), `labels of ${sizes.join(', ')} px`);
    await shoot(page, 'console-dense-dark');
  });

  test('a pause holds the table as well as the chart', async (t) => {
    const page = await open(t);
    await logIn(page, DEMO.consumer);
    await seen(page.getByTestId('records').locator('li').first());
    await page.getByRole('button', { name: 'Pause' }).click();
    const held = await newest(page);
    // The rate beside the name goes on, and says that records still come.
    await seen(page.getByText(/received here [1-9]/));
    assert.equal(await newest(page), held);
    await page.getByRole('button', { name: 'Resume' }).click();
    await until('the newest record', async () => (await newest(page)) !== held);
  });

  test('what nobody confirms is not shown as live', async (t) => {
    const page = await open(t);
    await logIn(page, DEMO.consumer);
    await seen(page.getByTestId('producers').locator('li.live').first());
    await page.route('**/streams', (route) => route.abort());
    await seen(page.getByText('The service does not answer', { exact: false }));
    assert.equal(await page.getByTestId('producers').locator('li.live').count(), 0);
    await shoot(page, 'console-away-dark');
    await page.unroute('**/streams');
    await seen(page.getByTestId('producers').locator('li.live').first());
  });

  test('a range is downloaded', async (t) => {
    const page = await open(t);
    await logIn(page, DEMO.consumer);
    await seen(page.getByTestId('records').locator('li').first());
    for (const [format, first] of [['CSV', /^timestamp,device_id,/], ['NDJSON', /^\{"producer_id":/]]) {
      await page.keyboard.press('Escape');
      await page.getByRole('button', { name: 'Download…' }).click();
      await page.getByRole('radio', { name: new RegExp(`^${format}`) }).check();
      const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: `Download ${format}` }).click()]);
      assert.match(file.suggestedFilename(), new RegExp(`\\.${format.toLowerCase()}$`));
      assert.match(readFileSync(await file.path(), 'utf8'), first);
      await seen(page.getByTestId('saved'));
      await accessible(page, `download ${format}`);
    }
    const [from, to] = await Promise.all(['From', 'To'].map((label) => page.getByLabel(label, { exact: true }).boundingBox()));
    assert.ok(from.x + from.width <= to.x || from.y + from.height <= to.y, 'the two times do not overlap');
    await shoot(page, 'console-download-dark');
  });

  test('a new consumer registers, follows by keyboard, and no longer', async (t) => {
    const page = await open(t, { viewport: PHONE, colorScheme: 'light' });
    await page.getByRole('button', { name: 'Register' }).click();
    await shoot(page, 'console-register-phone-light');
    await accessible(page, 'register');
    await page.getByLabel('Username').fill(`console-${run}`);
    await page.getByLabel('Password').fill(PASSWORD);
    await page.keyboard.press('Enter');
    await seen(page.getByText('Choose a producer to begin'));
    await fits(page);
    await shoot(page, 'console-empty-phone-light');
    await accessible(page, 'empty');
    await page.keyboard.press('/');
    await page.keyboard.type(DEMO.producer);
    const subscribe = page.getByRole('button', { name: `Subscribe to ${DEMO.producer}`, exact: true });
    await subscribe.focus();
    assert.equal(await subscribe.evaluate((e) => getComputedStyle(e).outlineStyle), 'solid', 'the focus can be seen');
    await page.keyboard.press('Enter');
    await inked(page);
    await page.getByRole('button', { name: `Unsubscribe from ${DEMO.producer}` }).click();
    await seen(page.getByText(`You do not follow ${DEMO.producer}`));
    await page.keyboard.press('Escape');
    await page.locator('#main').focus();
    await page.keyboard.press('?');
    await seen(page.getByRole('dialog', { name: 'Keyboard shortcuts' }));
    await accessible(page, 'shortcuts');
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: 'Sign out' }).click();
    await seen(page.getByRole('heading', { name: 'Log in' }));
    await page.getByLabel('Username').fill('nobody');
    await page.getByLabel('Password').fill('nothing-1');
    await page.keyboard.press('Enter');
    await seen(page.getByRole('alert').getByText('Wrong username or password.', { exact: false }));
    await accessible(page, 'wrong password');
  });

  test('a producer sees its devices, its subscribers and its own chart', async (t) => {
    const page = await open(t);
    await logIn(page, DEMO.producer);
    await inked(page);
    await until('a rate', async () => Number(await page.locator('[data-stat="Records/s"]').textContent()) > 0);
    await seen(page.getByTestId('devices').getByText('demo-device'));
    await accessible(page, 'producer');
    await gallery(page, 'console-producer');
    await page.getByRole('tab', { name: 'Devices' }).focus();
    await page.keyboard.press('ArrowRight');
    await seen(page.getByTestId('subscribers').getByText(DEMO.consumer));
    await accessible(page, 'subscribers');
    await page.getByRole('tab', { name: 'Records' }).click();
    await seen(page.getByTestId('records').locator('li').first());
  });

  test('a producer without devices is told what to do', async (t) => {
    const producer = await account('producer');
    const page = await open(t, { colorScheme: 'light' });
    await logIn(page, producer.username, PASSWORD);
    await seen(page.getByText('No device is sending yet'));
    await shoot(page, 'console-producer-empty-light');
    await accessible(page, 'producer without devices');
  });

  test('an operator sees nodes and devices, and revokes and restores an account', async (t) => {
    const victim = await account('consumer');
    const page = await open(t);
    await logIn(page, DEMO.admin);
    await seen(page.getByTestId('nodes').getByText('demo', { exact: true }));
    await accessible(page, 'nodes');
    await gallery(page, 'console-operator');
    await page.locator('#main').focus();
    await page.keyboard.press('2');
    await page.getByLabel('Search accounts').fill(victim.username);
    await page.getByRole('button', { name: `Revoke ${victim.username}` }).click();
    await seen(page.getByRole('dialog', { name: `Revoke ${victim.username}?` }));
    await accessible(page, 'revoke');
    await shoot(page, 'console-revoke-dark');
    await page.getByRole('button', { name: 'Revoke account' }).click();
    await seen(page.getByTestId('accounts').getByText('revoked'));
    const visitor = await open(t);
    await logIn(visitor, victim.username, PASSWORD);
    await seen(visitor.getByRole('alert').getByText('This account was revoked by an operator.', { exact: false }));
    await page.getByRole('button', { name: `Restore ${victim.username}` }).click();
    await page.getByRole('button', { name: 'Restore account' }).click();
    await seen(page.getByTestId('accounts').getByText('active'));
    await accessible(page, 'accounts');
    await endsOne(page, visitor, config);
    await page.getByRole('tab', { name: 'Devices' }).click();
    await page.getByLabel('Producer', { exact: true }).selectOption({ label: await optionOf(page, DEMO.producer) });
    await seen(page.getByTestId('devices').getByText('demo-device'));
    await accessible(page, 'devices of a producer');
    await page.getByLabel('Search devices').fill('DEMO-dev');
    await seen(page.getByTestId('found').getByText('demo-device'));
    await accessible(page, 'found devices');
    await page.getByRole('tab', { name: 'Audit' }).click();
    await seen(page.getByTestId('audit').getByText('connection.end').first());
    await accessible(page, 'the audit log');
  });

  test('a session that ends in the middle says so', async (t) => {
    const victim = await account('consumer');
    const page = await open(t, { colorScheme: 'light' });
    await logIn(page, victim.username, PASSWORD);
    await seen(page.getByText('Choose a producer to begin'));
    const token = await tokenOf(DEMO.admin, DEMO.password);
    const ap = `http://localhost:${config.ap_port}`;
    const revoked = await fetch(`${ap}/accounts/${victim.id}/revoke`, { method: 'POST', headers: { authorization: `Bearer ${token}` } });
    assert.equal(revoked.status, 200);
    await seen(page.getByRole('alert').getByText('Your session has ended.', { exact: false }));
    await shoot(page, 'console-ended-light');
  });

  test('it is served by dsm too, and links to the testers', async (t) => {
    const page = await open(t, {}, `${dsm}/console`);
    await until('the address with a slash', () => page.url().endsWith('/console/'));
    await logIn(page, DEMO.consumer);
    await inked(page);
    await page.getByRole('link', { name: 'Consumer tester' }).click();
    await seen(page.getByRole('heading', { name: /Consumer tester/ }));
    await page.getByRole('link', { name: 'Console' }).click();
    await seen(page.getByRole('link', { name: 'Consumer tester' }));
  });

  test('the console threw nothing and broke no rule of the CSP', () => {
    assert.deepEqual(pages.complaints, []);
  });
});

async function logIn(page, username, password = DEMO.password) {
  await page.getByLabel('Username').fill(username);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Log in', exact: true }).click();
}

/** An operator sees who is connected, and ends one connection. */
async function endsOne(page, guestPage, config) {
  const guest = await account('consumer');
  const closed = guestPage.evaluate((url) => new Promise((done) => new WebSocket(url).addEventListener('close', ({ code }) => done(code))), `ws://localhost:${config.ws_port}${config.ws_path}?token=${guest.token}`);
  await page.getByRole('tab', { name: 'Clients' }).click();
  await seen(page.getByTestId('clients').getByText('demo-device'));
  await until('the rate of the device', async () => /\d\/s/.test(await page.getByTestId('clients').getByRole('row', { name: /demo-device/ }).textContent()));
  await accessible(page, 'clients');
  await gallery(page, 'console-clients');
  await page.getByLabel('Search clients').fill(guest.username);
  await seen(page.getByTestId('clients').getByText(guest.username));
  await page.getByRole('button', { name: `End the connection of ${guest.username}` }).click();
  await accessible(page, 'the end of a connection');
  await page.getByRole('button', { name: 'End connection' }).click();
  assert.equal(await closed, 1013);
  await seen(page.getByText('No client matches'));
}

async function transport(page, kind) {
  await seen(page.locator(`[data-testid="transport"][data-state="open"][data-transport="${kind}"]`));
}

/** A line is drawn on every strip. */
async function inked(page) {
  await seen(page.getByTestId('strip').first());
  await until('ink on the chart', async () => {
    const canvases = await page.getByTestId('strip').locator('canvas').all();
    return canvases.length > 0 && (await Promise.all(canvases.map((canvas) => canvas.evaluate(coloured)))).every(Boolean);
  });
}

const newest = (page) => page.getByTestId('records').locator('li time').first().textContent();

async function drag(page, chart, by) {
  const box = await chart.boundingBox();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.mouse.move(x + by, y, { steps: 6 });
  await page.mouse.up();
}

async function optionOf(page, name) {
  const option = page.getByLabel('Producer', { exact: true }).locator('option', { hasText: name }).first();
  await option.waitFor({ state: 'attached' });
  return (await option.textContent()).trim();
}

async function tokenOf(username, password) {
  const port = (await (await fetch(`${dsm}/console/config.json`)).json()).ap_port;
  const answer = await fetch(`http://localhost:${port}/login`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ username, password }) });
  return (await answer.json()).access_token;
}
