// Opens a page in Chromium and prints the items of its list, until one says `done`. Exits 1 with a sentence where that does not come.

import { createRequire } from 'node:module';

const { chromium } = createRequire(new URL('../gateway-ws/ui/package.json', import.meta.url))('playwright-core');

const LIMIT_MS = 30_000;

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu'] });
const page = await browser.newPage();
await page.goto(process.argv[2]);
const lines = () => page.locator('li').allInnerTexts();
const done = await page.waitForSelector('li:text-matches("^(done|failed)")', { timeout: LIMIT_MS }).catch(() => null);
for (const line of await lines()) console.log(line);
const text = done && (await done.innerText());
await browser.close();
if (text !== 'done') {
  console.error(`the page did not come to its end: ${text}`);
  process.exit(1);
}
