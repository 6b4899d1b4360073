// Shared by the page tests: the server's addresses, accounts on it, a browser that notes every complaint of a page.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const NEEDED = ['MOTIENCE_PRODUCER_PAGE', 'MOTIENCE_CONSUMER_PAGE', 'MOTIENCE_AP', 'MOTIENCE_SM', 'MOTIENCE_DSM'];
const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
export const PASSWORD = 'tester-pages-1!';
export const TIME_LIMIT_MS = 15_000;
export const PHONE = { width: 390, height: 844 };
export const DESK = { width: 1280, height: 900 };
export const WIDE = { width: 1440, height: 900 };

export const missing = NEEDED.filter((name) => !process.env[name]);
/** Base URLs. The consumers' port has the console at its root and the tester at `/tester`. */
export const [producerPage, consumerPort, ap, sm, dsm] = NEEDED.map((name) => (process.env[name] ?? '').replace(/\/+$/, ''));
export const run = `${Date.now().toString(36)}${Math.floor(Math.random() * 1296).toString(36)}`;
export const shots = process.env.MOTIENCE_SHOTS || mkdtempSync(join(tmpdir(), 'motience-pages-'));

/** A browser for one file of tests. */
export class Pages {
  /** Everything the pages complained about, or had to be blamed for: CSP violations, exceptions, a service that is asked without end. */
  complaints = [];

  async start() {
    mkdirSync(shots, { recursive: true });
    this.browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
    return this;
  }

  async stop() {
    await this.browser?.close();
    console.log(`screenshots: ${shots}`);
  }

  /** Opens a page; `prepare` runs in it before its own scripts. */
  async open(t, url, { prepare, ...options } = {}) {
    const context = await this.browser.newContext({ viewport: DESK, colorScheme: 'dark', reducedMotion: 'reduce', ...options });
    t.after(() => context.close());
    if (prepare) await context.addInitScript(prepare);
    const page = await context.newPage();
    page.setDefaultTimeout(TIME_LIMIT_MS);
    page.on('pageerror', (error) => this.complaints.push(`${url}: ${error.message}`));
    page.on('console', (message) => {
      // A refused login or upgrade is written by the browser itself, and is what some tests are about.
      if (message.type() === 'error' && !/Failed to load resource|WebSocket connection to/.test(message.text())) this.complaints.push(`${url}: ${message.text()}`);
    });
    page.on('request', watchful((what) => this.complaints.push(`${url}: asks again and again: ${what}`)));
    await page.goto(url);
    return page;
  }
}

/** Notices a page that asks for one thing over and over: more than `most` times within a second. */
function watchful(blame, most = 20) {
  const asked = new Map();
  return (request) => {
    const what = `${request.method()} ${new URL(request.url()).pathname}`;
    const lately = [...(asked.get(what) ?? []), Date.now()].filter((at) => at > Date.now() - 1_000);
    asked.set(what, lately);
    if (lately.length === most + 1) blame(what);
  };
}

export async function shoot(page, name) {
  await page.screenshot({ path: join(shots, `${name}.png`), fullPage: page.viewportSize().width === PHONE.width });
}

/** A page in both themes, on a desk and on a phone. */
export async function gallery(page, name) {
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

export async function account(role) {
  const username = `page-${role}-${run}-${Math.random().toString(36).slice(2, 8)}`;
  const made = await call(`${ap}/register`, { username, password: PASSWORD, role, ...(role === 'producer' ? { device_id: 'rpi_001' } : {}) });
  const pair = await call(`${ap}/login`, { username, password: PASSWORD });
  return { username, id: Number(made.id), token: pair.access_token };
}

/** POSTs JSON, and waits as told where the server limits the rate. */
export async function call(url, body) {
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

export const seen = (locator) => locator.waitFor({ state: 'visible', timeout: TIME_LIMIT_MS });

export const number = (text) => Number((text ?? '').replace(/[^\d.-]/g, ''));

export const background = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);

export async function until(what, holds) {
  const deadline = Date.now() + TIME_LIMIT_MS;
  // Seldom where it takes long: what asks a server must not use up the account's requests.
  for (let pause = 60; !(await holds()); pause = Math.min(pause * 1.4, 600)) {
    assert.ok(Date.now() < deadline, `waited in vain for ${what}`);
    await new Promise((done) => setTimeout(done, pause));
  }
}

export async function fits(page) {
  const { scroll, client } = await page.evaluate(() => ({ scroll: document.documentElement.scrollWidth, client: document.documentElement.clientWidth }));
  assert.ok(scroll <= client, `the page is ${scroll} px wide on a screen of ${client}`);
}

/** Runs in the page: does this canvas hold strongly coloured pixels, as only a drawn line has? */
export function coloured(canvas) {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;
  for (let i = 0; i < data.length; i += 4) {
    const [r, g, b, a] = data.slice(i, i + 4);
    if (a > 120 && Math.max(r, g, b) - Math.min(r, g, b) > 60) found++;
  }
  return found > 20;
}
