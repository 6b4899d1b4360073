// axe's rules on a page, in both themes.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** axe finds nothing, in light and in dark. */
export async function accessible(page, what, themes = ['light', 'dark']) {
  const { dark } = await page.evaluate(() => ({ dark: matchMedia('(prefers-color-scheme: dark)').matches }));
  for (const colorScheme of themes) {
    await page.emulateMedia({ colorScheme });
    // By way of the debugger, as the page's own rules let no other script in.
    await page.evaluate(AXE);
    const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
    const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.any[0]?.message ?? node.all[0]?.message ?? ''}`).join(' | ')}`);
    assert.deepEqual(found, [], `${what}, ${colorScheme}`);
  }
  await page.emulateMedia({ colorScheme: dark ? 'dark' : 'light' });
}
