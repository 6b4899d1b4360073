// Measures the first paint of each view on the demo's data, and the size of the bundle. On demand, on a quiet machine:
//
//   cargo build --release --bin motience-server && npm run measure:paint --prefix gateway-ws/ui
//
// A load counts from the navigation to the frame in which the view's own content is there: of a chart its ink, of a table its first row. The demo runs for
// a minute before, so that its history has something. The exit code is 1 where the 95th percentile of a view is over the limit.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { chromium } from 'playwright-core';

const LIMIT_MS = 500;
const LOADS = Number(process.env.LOADS ?? 20);
const WARM_S = Number(process.env.WARM_S ?? 60);
/** Each view: who sees it, its address, and what has to be there. */
const VIEWS = [
  { name: 'consumer, chart', as: 'demo-consumer', hash: '', ink: true },
  { name: 'consumer, an hour', as: 'demo-consumer', hash: '#span=3600', ink: true },
  { name: 'producer, chart', as: 'demo-producer', hash: '', ink: true },
  { name: 'producer, devices', as: 'demo-producer', hash: '', selector: '[data-testid=devices] tbody tr' },
  { name: 'operator, platform', as: 'demo-admin', hash: '', selector: '[data-testid=nodes] li b' },
  { name: 'operator, accounts', as: 'demo-admin', hash: '#tab=accounts', selector: '[data-testid=accounts] tbody tr' },
  { name: 'operator, clients', as: 'demo-admin', hash: '#tab=clients', selector: '[data-testid=clients] tbody tr' },
  { name: 'account', as: 'demo-consumer', hash: '#page=account', selector: '[data-testid=sessions] tbody tr' },
];

/** Runs in the page before its scripts: notes the frame in which the content is there. */
function watch({ selector, ink }) {
  const inked = () =>
    [...document.querySelectorAll('[data-testid=strip] canvas')].some((canvas) => {
      if (canvas.width === 0 || canvas.height === 0) return false;
      const { data } = canvas.getContext('2d', { willReadFrequently: true }).getImageData(0, 0, canvas.width, canvas.height);
      for (let i = 0, found = 0; i < data.length; i += 4) {
        const [r, g, b, a] = data.slice(i, i + 4);
        if (a > 120 && Math.max(r, g, b) - Math.min(r, g, b) > 60 && ++found > 20) return true;
      }
      return false;
    });
  const look = () => {
    if (ink ? inked() : document.querySelector(selector)) globalThis.painted = performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}

const program = process.argv[2];
if (!program) throw new Error('name the server: node tests/paint.mjs ../../target/release/motience-server');
const folder = mkdtempSync(join(tmpdir(), 'motience-paint-'));
const ready = join(folder, 'ready.json');
const server = spawn(resolve(program), ['demo', '--any-ports', '--ready-file', ready, '--dir', join(folder, 'demo')], { cwd: folder, stdio: 'ignore', env: { PATH: process.env.PATH, HOME: folder } });
let slow = false;
try {
  let at = null;
  for (let left = 600; left > 0 && !at; left--) {
    await pause(100);
    try {
      at = JSON.parse(readFileSync(ready, 'utf8'));
    } catch {
      // Not there yet.
    }
  }
  await pause(WARM_S * 1000);
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--headless', '--no-sandbox', '--disable-gpu'] });
  for (const view of VIEWS) {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: 'dark' });
    const page = await context.newPage();
    await page.goto(at.consumer_page);
    await page.getByLabel('Username').fill(view.as);
    await page.getByLabel('Password').fill('demo-pass-123');
    await page.getByRole('button', { name: 'Log in', exact: true }).click();
    await page.getByRole('button', { name: 'Sign out' }).waitFor();
    await page.addInitScript(watch, view);
    const times = [];
    for (let load = 0; load < LOADS; load++) {
      await page.goto('about:blank');
      await page.goto(at.consumer_page + view.hash);
      times.push(await (await page.waitForFunction(() => globalThis.painted, null, { timeout: 20_000 })).jsonValue());
    }
    await context.close();
    times.sort((a, b) => a - b);
    const part = (share) => Math.round(times[Math.min(times.length - 1, Math.floor(share * times.length))]);
    slow ||= part(0.95) > LIMIT_MS;
    console.log(`${view.name.padEnd(20)} median ${String(part(0.5)).padStart(5)} ms   p95 ${String(part(0.95)).padStart(5)} ms${part(0.95) > LIMIT_MS ? `   over ${LIMIT_MS} ms` : ''}`);
  }
  await browser.close();
} finally {
  server.kill('SIGTERM');
  await new Promise((done) => server.once('exit', done));
  rmSync(folder, { recursive: true, force: true });
}
const assets = new URL('../dist/assets/', import.meta.url);
for (const kind of ['.js', '.css']) {
  const files = readdirSync(assets).filter((name) => name.endsWith(kind)).map((name) => readFileSync(new URL(name, assets)));
  const sum = (sizes) => Math.round(sizes.reduce((a, b) => a + b, 0) / 1000);
  console.log(`all ${kind.slice(1)}: ${sum(files.map((file) => file.length))} kB, ${sum(files.map((file) => gzipSync(file).length))} kB gzipped (console and testers)`);
}
process.exitCode = slow ? 1 : 0;
