// Every view of every role, reached by the keyboard and by the pointer, at the width of a desk and of a phone, on plain and on dense screens, in both
// themes: nothing is wider than the screen, axe finds nothing, and each leaves a screenshot.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { accessible } from './axe.mjs';
import { PHONE, Pages, WIDE, consumerPort, fits, missing, seen, shoot } from './platform.mjs';

const PASSWORD = 'demo-pass-123';
/** The tabs of each role, and what its buttons open. */
const ROLES = {
  'demo-consumer': { tabs: ['Records', 'Devices', 'Map', 'Alerts', 'Gaps'], dialogs: ['Code…', 'Replay…', 'Download…'] },
  'demo-producer': { tabs: ['Devices', 'Subscribers', 'Records', 'Map', 'Retention'], dialogs: ['Download…', 'Add a device…', 'Invite a consumer…', 'Erase records…'] },
  'demo-admin': { tabs: ['Platform', 'Accounts', 'Organisations', 'Clients', 'Devices', 'Usage', 'Audit'], dialogs: ['Invitations…', 'New organisation…'], personal: [] },
};
/** The tab that has a dialog's button. */
const WITHIN = { 'Add a device…': 'Devices', 'Invite a consumer…': 'Subscribers', 'Erase records…': 'Retention', 'Invitations…': 'Accounts', 'New organisation…': 'Organisations' };
/** The tabs of a person's own pages, and what their buttons open. */
const PERSONAL = [['Organisations', ['New organisation…', 'Take an invitation…']], ['Usage', []]];
const SCREENS = [
  { name: 'desk', viewport: WIDE, scale: 1, by: 'keyboard', themes: ['dark'] },
  { name: 'desk-2x', viewport: WIDE, scale: 2, by: 'pointer', themes: ['light', 'dark'] },
  { name: 'phone', viewport: PHONE, scale: 1, by: 'pointer', themes: ['dark', 'light'] },
  { name: 'phone-2x', viewport: PHONE, scale: 2, by: 'keyboard', themes: ['light'], axe: true },
];

describe('views', { concurrency: 2, skip: missing.length > 0 && `set ${missing.join(', ')}` }, () => {
  const pages = new Pages();
  before(() => pages.start());
  after(async () => {
    await pages.stop();
    // Nothing was thrown, and no rule of the CSP broken.
    assert.deepEqual(pages.complaints, []);
  });

  for (const [username, { tabs, dialogs, personal = PERSONAL }] of Object.entries(ROLES)) {
    for (const screen of SCREENS) {
      test(`${username}, ${screen.name}, by ${screen.by}`, async (t) => {
        const page = await pages.open(t, consumerPort, { viewport: screen.viewport, deviceScaleFactor: screen.scale, colorScheme: screen.themes[0] });
        const walk = new Walk(page, screen, username.replace('demo-', ''));
        await walk.logIn(username);
        for (const tab of tabs) {
          await walk.tab(tab);
          await walk.look(tab);
          for (const dialog of dialogs.filter((name) => WITHIN[name] === tab)) await walk.dialog(dialog);
        }
        for (const dialog of dialogs.filter((name) => !WITHIN[name])) await walk.dialog(dialog);
        await walk.press(page.getByRole('button', { name: 'Account' }));
        await seen(page.getByRole('heading', { name: 'API keys' }));
        await walk.look('account');
        for (const [tab, within] of personal) {
          await walk.tab(tab);
          await walk.look(`own-${tab}`);
          for (const dialog of within) await walk.dialog(dialog);
        }
        await walk.press(page.getByRole('button', { name: 'Sign out' }));
        await seen(page.getByRole('heading', { name: 'Log in' }));
        await walk.look('welcome');
        await walk.press(page.getByRole('button', { name: 'Register', exact: true }));
        await seen(page.getByRole('heading', { name: 'Create an account' }));
        await walk.look('register');
      });
    }
  }
});

/** A walk through the views, all of it by the keyboard or all by the pointer. */
class Walk {
  constructor(page, screen, role) {
    Object.assign(this, { page, screen, role });
  }

  async logIn(username) {
    const { page } = this;
    if (this.screen.by === 'keyboard') {
      await this.reach(page.getByLabel('Username'));
      await page.keyboard.type(username);
      await page.keyboard.press('Tab');
      await page.keyboard.type(PASSWORD);
      await page.keyboard.press('Enter');
    } else {
      await page.getByLabel('Username').fill(username);
      await page.getByLabel('Password').fill(PASSWORD);
      await page.getByRole('button', { name: 'Log in', exact: true }).click();
    }
    await seen(page.getByRole('tab').first());
  }

  /** Goes on by Tab until the focus is there. */
  async reach(target) {
    await seen(target);
    for (let left = 90; left > 0; left--) {
      if (await target.evaluate((e) => e === document.activeElement)) return;
      await this.page.keyboard.press('Tab');
    }
    assert.fail(`the keyboard does not come to ${target}`);
  }

  async press(target) {
    if (this.screen.by === 'pointer') return target.click();
    await this.reach(target);
    await this.page.keyboard.press('Enter');
  }

  async tab(name) {
    const target = this.page.getByRole('tab', { name: new RegExp(`^${name}`) });
    if (this.screen.by === 'pointer') {
      await target.click();
    } else {
      await this.reach(this.page.locator('[role=tab][aria-selected=true]'));
      for (let left = 9; left > 0 && (await target.getAttribute('aria-selected')) !== 'true'; left--) await this.page.keyboard.press('ArrowRight');
    }
    assert.equal(await target.getAttribute('aria-selected'), 'true', name);
  }

  async dialog(name) {
    const open = this.page.locator('dialog[open]');
    await this.press(this.page.getByRole('button', { name, exact: true }));
    await seen(open);
    await this.look(name.replace('…', '').toLowerCase().replaceAll(' ', '-'));
    await this.page.keyboard.press('Escape');
    await open.waitFor({ state: 'detached' });
  }

  /** The view fits the screen, in the themes of this walk; axe judges those of the phone, as the other tests do those of the desk. */
  async look(what) {
    const { page, screen, role } = this;
    const name = `${role}-${what.toLowerCase()}-${screen.name}`;
    for (const colorScheme of screen.themes) {
      await page.emulateMedia({ colorScheme });
      await fits(page);
      await shoot(page, `view-${name}-${colorScheme}`);
    }
    if (!screen.axe) return;
    // Else a target that lies half under the bar is too small for it.
    await page.evaluate(() => scrollTo(0, 0));
    await accessible(page, name, screen.themes);
  }
}
