// Retention, erasure and the audit log in the console, in a real browser against a real server.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { accessible } from './axe.mjs';
import { PASSWORD, gallery, seen, shoot, until } from './platform.mjs';
import { program, suite } from './server.mjs';

describe('kept', { skip: !program && 'set MOTIENCE_SERVER' }, () => {
  const { pages, server } = suite('kept', { PERSIST: 'true' });

  const open = (t, hash, options) => pages.open(t, `${server.at.consumer_page}${hash}`, options);
  const send = (producer, device, n = 1) => server.ask(producer, 'POST', `${server.at.dsm}/data`, Array.from({ length: n }, (_, i) => ({ device_id: device, data: { level: i } })));
  const retention = (who, of = who) => server.ask(who, 'GET', `${server.at.dsm}/retention/${of.id}`);

  test('a producer sees which bound removes records first, and sets its own', async (t) => {
    const producer = await server.account('producer');
    const page = await open(t, '#tab=retention');
    await logIn(page, producer.username);
    await seen(page.getByText('The log has no records.'));
    await seen(page.getByTestId('history-cut').getByText('Rows stay in the history for ever.'));
    await send(producer, 'd', 3);
    await seen(page.getByTestId('first-cut').getByText(/^The oldest record of the log goes in/));
    const age = page.getByLabel('In the log, for', { exact: true });
    await age.fill('soon');
    await page.getByRole('button', { name: 'Set limits' }).click();
    await seen(page.getByRole('alert'));
    assert.equal((await retention(producer)).own.log_age_seconds, null);
    await accessible(page, 'retention with a mistake');
    // Less than now: it asks first.
    await age.fill('2');
    await page.getByLabel('Unit of: In the log, for').selectOption('hours');
    await page.getByRole('button', { name: 'Set limits' }).click();
    await accessible(page, 'asked whether to keep less');
    await page.getByRole('button', { name: 'Cancel' }).click();
    assert.equal((await retention(producer)).own.log_age_seconds, null);
    await page.getByRole('button', { name: 'Set limits' }).click();
    await page.getByRole('button', { name: 'Keep less' }).click();
    await seen(page.getByText('Nothing is kept beyond'));
    assert.equal((await retention(producer)).log_age_seconds, 7_200);
    const row = page.getByTestId('retention').getByRole('row', { name: /In the log, for/ });
    await seen(row.getByText('yours'));
    await accessible(page, 'retention');
    await gallery(page, 'retention');
    // Out of bounds, the service says in which it has to be.
    await age.fill('0.5');
    await page.getByLabel('Unit of: In the log, for').selectOption('minutes');
    await page.getByRole('button', { name: 'Set limits' }).click();
    await page.getByRole('button', { name: 'Keep less' }).click();
    await seen(page.getByRole('dialog').getByRole('alert'));
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    await age.fill('');
    await page.getByRole('button', { name: 'Set limits' }).click();
    await seen(page.getByText('Nothing is kept beyond'));
    assert.equal((await retention(producer)).own.log_age_seconds, null);
    // An operator sees and sets it too.
    const admin = await server.account('admin');
    const theirs = await open(t, '#tab=devices', { colorScheme: 'light' });
    await logIn(theirs, admin.username);
    await theirs.getByLabel('Producer', { exact: true }).selectOption(String(producer.id));
    await seen(theirs.getByRole('heading', { name: `Retention of ${producer.username}` }));
    await seen(theirs.getByText('Nothing was erased'));
    await accessible(theirs, 'retention, for operators');
  });

  test('a producer keeps rows of devices with a label for a shorter time', async (t) => {
    const producer = await server.account('producer');
    await send(producer, 'lens', 2);
    const classes = async () => (await retention(producer)).own.classes;
    const page = await open(t, '#tab=retention');
    await logIn(page, producer.username);
    await page.getByRole('button', { name: 'Add a class' }).click();
    await page.getByRole('button', { name: 'Set limits' }).click();
    await seen(page.getByRole('alert').getByText('A class needs the name of a label.'));
    await accessible(page, 'a class without a label');
    await page.getByLabel('Label', { exact: true }).fill('kind');
    await page.getByLabel('Value', { exact: true }).fill('camera');
    await page.getByLabel('In the history, for, class 1', { exact: true }).fill('7');
    await page.getByRole('button', { name: 'Set limits' }).click();
    await page.getByRole('button', { name: 'Keep less' }).click();
    await seen(page.getByText('Nothing is kept beyond'));
    assert.deepEqual(await classes(), [{ label: 'kind', value: 'camera', history_age_seconds: 7 * 86_400 }]);
    // Longer takes nothing away, and is not asked about.
    await page.getByLabel('In the history, for, class 1', { exact: true }).fill('30');
    await page.getByRole('button', { name: 'Add a class' }).click();
    await page.getByLabel('Label', { exact: true }).nth(1).fill('kind');
    await page.getByLabel('Value', { exact: true }).nth(1).fill('door');
    await page.getByLabel('In the history, for, class 2', { exact: true }).fill('2');
    await page.getByLabel('Unit of: In the history, for, class 2').selectOption('hours');
    await page.getByRole('button', { name: 'Set limits' }).click();
    await page.getByRole('button', { name: 'Keep less' }).click();
    await seen(page.getByText('Nothing is kept beyond'));
    await page.getByLabel('In the history, for', { exact: true }).fill('90');
    await page.getByRole('button', { name: 'Set limits' }).click();
    await page.getByRole('button', { name: 'Keep less' }).click();
    await seen(page.getByTestId('history-cut').getByText(/^The oldest row of the history goes in 8[89]|90 d/));
    await accessible(page, 'classes of devices');
    await gallery(page, 'retention-classes');
    await page.getByRole('button', { name: 'Remove the class kind' }).first().click();
    await page.getByRole('button', { name: 'Set limits' }).click();
    await until('one class', async () => (await classes()).length === 1);
    assert.equal((await classes())[0].value, 'door');
  });

  test('an operator sees which logs retention cuts, and which by size', async (t) => {
    const [admin, small, large] = [await server.account('admin'), await server.account('producer'), await server.account('producer')];
    await server.ask(small, 'PUT', `${server.at.dsm}/retention/${small.id}`, { log_bytes: 65_536 });
    const bySize = async () => {
      await Promise.all([send(small, 'd', 50), send(large, 'd')]);
      const { cuts } = await server.ask(admin, 'GET', `${server.at.dsm}/platform`);
      return cuts.some((cut) => cut.producer_id === String(small.id) && cut.bound === 'bytes') && cuts.some((cut) => cut.producer_id === String(large.id) && cut.bound === 'age');
    };
    await until('both to grow', bySize);
    const page = await open(t, '');
    await logIn(page, admin.username);
    const cuts = page.getByTestId('cuts');
    await seen(cuts.getByRole('row', { name: new RegExp(`^${small.username} .*size before its age`) }));
    await seen(cuts.getByRole('row', { name: new RegExp(`^${large.username} .*age$`) }));
    await accessible(page, 'the platform with cuts');
    await gallery(page, 'cuts');
  });

  test('a producer has a device erased, and sees how far that is', async (t) => {
    const producer = await server.account('producer');
    await send(producer, 'gone', 3);
    await send(producer, 'stays', 2);
    const devices = async () => new Set((await server.ask(producer, 'GET', `${server.at.dsm}/history/${producer.id}`)).map((r) => r.device_id));
    await until('the history', async () => (await devices()).size === 2);
    const page = await open(t, '#tab=retention');
    await logIn(page, producer.username);
    await page.getByRole('button', { name: 'Erase records…' }).click();
    await page.getByRole('button', { name: 'Go on' }).click();
    await seen(page.getByRole('dialog').getByRole('alert'));
    await accessible(page, 'an erasure without records');
    await page.getByLabel('Device', { exact: true }).fill('gone');
    await page.getByLabel('First offset').fill('1');
    await shoot(page, 'erase-dark');
    await page.getByRole('button', { name: 'Go on' }).click();
    await seen(page.getByTestId('to-erase').getByText('of gone, with offset 1 and later ones'));
    assert.equal(await page.getByRole('button', { name: 'Erase for good' }).isDisabled(), true, 'one has to be sure');
    await accessible(page, 'asked whether to erase');
    await shoot(page, 'erase-sure-dark');
    await page.getByLabel('Erase them for good').check();
    await page.getByRole('button', { name: 'Erase for good' }).click();
    const row = page.getByTestId('erasures').getByRole('row', { name: /of gone/ });
    await seen(row);
    await until('nobody to read them', async () => !(await devices()).has('gone'));
    assert.deepEqual([...(await devices())], ['stays']);
    await seen(row.getByText('3', { exact: true }).first());
    await accessible(page, 'erasures');
    await gallery(page, 'erasures');
  });

  test('an operator searches the audit log, saves it, and sees that its chain holds or is broken', async (t) => {
    const [admin, producer, consumer] = [await server.account('admin'), await server.account('producer'), await server.account('consumer')];
    const audit = (query) => server.ask(admin, 'GET', `${server.at.sm}/audit?${query}`);
    await server.ask(producer, 'PUT', `${server.at.ap}/producers/${producer.id}/visibility`, { visibility: 'listed' });
    await server.ask(producer, 'PUT', `${server.at.dsm}/retention/${producer.id}`, { log_age_seconds: 3600 });
    assert.equal((await fetch(`${server.at.ap}/accounts/${producer.id}/revoke`, { method: 'POST', headers: { authorization: `Bearer ${consumer.token}` } })).status, 403);
    const page = await open(t, '#tab=audit');
    await logIn(page, admin.username);
    await seen(page.getByTestId('chain').getByText('verified'));
    await seen(page.getByText('This browser remembers the head'));
    const table = page.getByTestId('audit');
    await seen(table);
    await page.getByLabel('Who').fill(producer.username);
    await page.getByRole('button', { name: 'Search', exact: true }).click();
    await table.getByText(`account ${consumer.id}`).waitFor({ state: 'detached' });
    const mine = await audit(`actor=${producer.id}`);
    assert.ok(mine.length >= 2);
    await until('its lines', async () => (await table.locator('tbody tr').count()) === mine.length);
    assert.match(page.url(), /who=producer-/);
    await accessible(page, 'the audit log');
    await gallery(page, 'audit');
    const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Save as NDJSON' }).click()]);
    const lines = readFileSync(await file.path(), 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line));
    assert.deepEqual(lines, mine);
    await seen(page.getByText(`${mine.length} lines are saved.`));
    // The refusal, by its outcome, and from the address alone.
    await page.goto(`${server.at.consumer_page}#tab=audit&outcome=refused&who=${consumer.id}`);
    await page.reload();
    await until('the refused line alone', async () => (await table.locator('tbody tr').count()) === 1);
    await seen(table.getByText('refused', { exact: true }));
    assert.equal(await page.getByLabel('Outcome').inputValue(), 'refused');
    // The head is known from the first look.
    await seen(page.getByText(/They go on from the \d+ that this browser saw/));
    await page.getByLabel('Who').fill('nobody-of-this-name');
    await page.getByRole('button', { name: 'Search', exact: true }).click();
    await seen(page.getByText('No account is called nobody-of-this-name.'));
    await page.goBack();
    await until('the search before', async () => (await page.getByLabel('Who').inputValue()) === String(consumer.id));
    await page.getByRole('button', { name: 'Clear' }).click();
    await page.getByLabel('What', { exact: true }).fill('no.such.deed');
    await page.getByRole('button', { name: 'Search', exact: true }).click();
    await seen(page.getByText('Nothing matches'));
    await accessible(page, 'an audit log without a match');
    // A log that was longer when this browser saw it has lost its end.
    await page.evaluate((key) => {
      const known = Object.keys(localStorage).find((name) => name.startsWith(key));
      localStorage.setItem(known, JSON.stringify({ ...JSON.parse(localStorage.getItem(known)), lines: 100_000 }));
    }, 'motience.audit ');
    await page.getByRole('button', { name: 'Look again' }).click();
    await seen(page.getByTestId('chain').getByText('broken'));
    await seen(page.getByRole('alert').getByText(/is missing/));
    await accessible(page, 'a broken chain');
    await gallery(page, 'audit-broken');
  });
});

async function logIn(page, username) {
  await page.getByLabel('Username').fill(username);
  await page.getByLabel('Password').fill(PASSWORD);
  await page.getByRole('button', { name: 'Log in', exact: true }).click();
}
