// The pages about rights, in a real browser against a real server: devices and their enrolment, consent, keys and the account; and what a
// consumer makes of a stream: alerts, a map, a program.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { accessible } from './axe.mjs';
import { PASSWORD, PHONE, Pages, account, consumerPort, dsm, fits, gallery, missing, seen, shoot, sm, until } from './platform.mjs';

describe('rights', { skip: missing.length > 0 && `set ${missing.join(', ')}` }, () => {
  const pages = new Pages();
  const open = (t, options) => pages.open(t, consumerPort, options);
  before(() => pages.start());
  after(() => pages.stop());

  test('a producer adds a device by a token, and shuts one out', async (t) => {
    const producer = await account('producer');
    await send(producer, [{ device_id: 'shed', data: { t: 1 } }]);
    const page = await open(t);
    await logIn(page, producer.username);
    const devices = page.getByTestId('devices');
    await seen(devices.getByText('shed'));
    await page.getByRole('tabpanel').getByRole('button', { name: 'Add a device…' }).click();
    await seen(page.getByRole('dialog', { name: 'Add a device' }));
    await page.getByLabel('Device id').fill('roof');
    await page.getByLabel('Labels').fill('site=roof');
    await accessible(page, 'add a device');
    await page.getByRole('button', { name: 'Make a token' }).click();
    await seen(page.getByTestId('token'));
    assert.match(await page.getByTestId('token').textContent(), /^mte_/);
    await seen(page.getByTestId('qr').locator('svg'));
    await seen(page.getByText(/motience-device enrol --auth/));
    await shoot(page, 'console-enrol-dark');
    await accessible(page, 'enrolment');
    await page.getByRole('button', { name: 'Done' }).click();
    await devices.getByRole('button', { name: 'shed' }).click();
    await seen(page.getByRole('dialog', { name: 'shed' }));
    await accessible(page, 'a device');
    await shoot(page, 'console-device-dark');
    await page.getByRole('button', { name: 'Quarantine…' }).click();
    await page.getByRole('button', { name: 'Quarantine device' }).click();
    await seen(page.getByTestId('device').getByText(/quarantined/));
    await page.getByRole('button', { name: 'Revoke…' }).click();
    await page.getByRole('button', { name: 'Revoke device' }).click();
    await seen(page.getByTestId('device').getByText(/revoked/));
    await page.keyboard.press('Escape');
    await seen(devices.getByText('revoked'));
    assert.equal((await send(producer, [{ device_id: 'shed', data: { t: 2 } }])).status, 403);
    await devices.getByRole('button', { name: 'shed' }).click();
    await page.getByRole('button', { name: 'Restore…' }).click();
    await page.getByRole('button', { name: 'Restore device' }).click();
    await seen(page.getByTestId('device').getByText(/^active/));
    await gallery(page, 'console-device');
  });

  test('a consumer asks, the producer approves within a scope, and ends it', async (t) => {
    const [producer, consumer] = [await account('producer'), await account('consumer')];
    const theirs = await open(t);
    await logIn(theirs, producer.username);
    await theirs.getByRole('tab', { name: /Subscribers/ }).click();
    await theirs.getByLabel('Who may read').selectOption('listed');
    const page = await open(t, { colorScheme: 'light' });
    await logIn(page, consumer.username);
    await page.getByLabel('Search producers').fill(producer.username);
    await page.getByTestId('producers').getByRole('button', { name: `Ask: ${producer.username}` }).click();
    await page.getByTestId('producers').getByText(producer.username).click();
    await seen(page.getByText(`You have asked ${producer.username}`));
    await accessible(page, 'a request');
    await shoot(page, 'console-asked-light');
    await theirs.getByRole('button', { name: `Approve ${consumer.username}` }).click();
    await theirs.getByLabel('Members of data').fill('/data/level ?');
    await theirs.getByRole('button', { name: 'Approve', exact: true }).click();
    await seen(theirs.getByRole('alert').locator('pre', { hasText: '^' }));
    await theirs.getByLabel('Members of data').fill('/data/level');
    await accessible(theirs, 'a scope');
    await shoot(theirs, 'console-scope-dark');
    await theirs.getByRole('button', { name: 'Approve', exact: true }).click();
    await seen(theirs.getByTestId('subscribers').getByText('/data/level'));
    await accessible(theirs, 'subscribers with scopes');
    await shoot(theirs, 'console-subscribers-dark');
    await seen(page.getByRole('heading', { name: 'You may read' }));
    await until('the first reading', async () => (await send(producer, [{ device_id: 'd', data: { level: 5, secret: 7 } }]), (await page.getByTestId('strip').count()) > 0));
    assert.equal(await page.getByRole('button', { name: 'secret' }).count(), 0, 'the scope leaves it out');
    await gallery(page, 'console-scoped');
    await theirs.getByRole('button', { name: `Revoke ${consumer.username}` }).click();
    await theirs.getByRole('button', { name: 'Revoke', exact: true }).click();
    await seen(page.getByTestId('unfollowed'));
    await accessible(page, 'a revoked subscription');
    await theirs.getByRole('button', { name: 'Account' }).click();
    await seen(theirs.getByTestId('acts').getByText('subscription: revoke'));
  });

  test('an account makes a key, sees its sessions, changes its password and leaves everywhere', async (t) => {
    const consumer = await account('consumer');
    const page = await open(t);
    await logIn(page, consumer.username);
    await page.getByRole('button', { name: 'Account' }).click();
    await seen(page.getByRole('heading', { name: 'API keys' }));
    await seen(page.getByTestId('sessions').getByText('this one'));
    await accessible(page, 'account');
    await page.getByRole('button', { name: 'New key…' }).click();
    await page.getByLabel('Name', { exact: true }).fill('dashboard');
    await accessible(page, 'new key');
    await page.getByRole('button', { name: 'Make the key' }).click();
    const shown = page.getByRole('region', { name: 'The key' });
    await seen(shown);
    const key = (await shown.textContent()).trim();
    assert.match(key, /^motk_/);
    await shoot(page, 'console-key-dark');
    await accessible(page, 'a key, once');
    const reads = () => fetch(`${dsm}/streams`, { headers: { authorization: `Bearer ${key}` } }).then(({ status }) => status);
    assert.equal(await reads(), 200);
    await page.getByRole('button', { name: 'Done' }).click();
    await seen(page.getByTestId('keys').getByText('dashboard'));
    assert.equal((await page.content()).includes(key), false, 'shown once');
    await gallery(page, 'console-account');
    await page.getByRole('button', { name: 'Revoke the key dashboard' }).click();
    await page.getByRole('button', { name: 'Revoke key' }).click();
    await until('the key to end', async () => (await reads()) === 401);
    await page.getByLabel('Present password').fill('wrong-password-1');
    await page.getByLabel('New password').fill('another-pass-1!');
    await page.getByRole('button', { name: 'Change password' }).click();
    await seen(page.getByRole('alert'));
    await page.getByLabel('Present password').fill(PASSWORD);
    await page.getByLabel('New password').fill('another-pass-1!');
    await page.getByRole('button', { name: 'Change password' }).click();
    await seen(page.getByText('The password is changed.', { exact: false }));
    const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Download everything' }).click()]);
    assert.match(file.suggestedFilename(), /\.zip$/);
    await page.getByRole('button', { name: 'Log out everywhere…' }).click();
    await page.getByRole('button', { name: 'Log out everywhere', exact: true }).click();
    await seen(page.getByRole('heading', { name: 'Log in' }));
    await logIn(page, consumer.username, 'another-pass-1!');
    await seen(page.getByText('Choose a producer to begin'));
    await page.getByRole('button', { name: 'Account' }).click();
    await page.getByRole('button', { name: 'Delete the account…' }).click();
    await page.getByRole('dialog').getByLabel('Password').fill('another-pass-1!');
    await accessible(page, 'deleting an account');
    await page.getByRole('button', { name: 'Delete for ever' }).click();
    await seen(page.getByRole('heading', { name: 'Log in' }));
    await logIn(page, consumer.username, 'another-pass-1!');
    await seen(page.getByRole('alert'));
  });

  test('a consumer makes an alert, and sees where a device is', async (t) => {
    const [producer, consumer] = [await account('producer'), await account('consumer')];
    await follow(consumer, producer);
    const at = (lat, level) => send(producer, [{ device_id: 'boat', timestamp: new Date().toISOString(), data: { level, at: { lat, lon: 11.5 } } }]);
    await at(48, 5);
    await until('the history', async () => (await (await call(`${dsm}/history/${producer.id}`, consumer.token, undefined, 'GET')).json()).length > 0);
    const page = await open(t, { colorScheme: 'light' });
    await logIn(page, consumer.username);
    // A reading that the page knows of the history alone can be chosen as one that has come since.
    await seen(page.getByTestId('strip').first());
    await page.getByRole('tab', { name: 'Alerts' }).click();
    await page.getByLabel('Reading of the alert').selectOption('level');
    await page.getByLabel('Limit', { exact: true }).fill('10');
    await page.getByRole('button', { name: 'Add alert' }).click();
    await seen(page.getByTestId('alerts').getByText('all is well'));
    assert.equal(await page.getByTestId('firing').count(), 0);
    await until('the alert to fire', async () => (await at(48.5, 12), (await page.getByTestId('firing').count()) > 0));
    await seen(page.getByTestId('firing').getByText(/boat: level above 10/));
    await accessible(page, 'an alert');
    await shoot(page, 'console-alert-light');
    await page.reload();
    await seen(page.getByRole('tab', { name: 'Alerts', selected: true }));
    await seen(page.getByTestId('alerts').getByText(/level above 10/));
    // No record has come since: it fires as before.
    await seen(page.getByTestId('firing').getByText(/boat: level above 10/));
    await page.getByRole('tab', { name: 'Map' }).click();
    await until('the device on the map', async () => (await at(49, 1), (await page.getByTestId('map').count()) > 0));
    await seen(page.getByText('49.0000° N, 11.5000° E'));
    await seen(page.getByTestId('map').locator('path.coast'));
    await page.getByRole('button', { name: 'Zoom out of the map' }).click();
    await page.getByTestId('map').scrollIntoViewIfNeeded();
    await accessible(page, 'the map');
    await shoot(page, 'console-map-light');
    await page.setViewportSize(PHONE);
    await fits(page);
    await shoot(page, 'console-map-phone-light');
  });

  test('what is on the screen is a program', async (t) => {
    const [producer, consumer] = [await account('producer'), await account('consumer')];
    await follow(consumer, producer);
    const page = await open(t);
    await logIn(page, consumer.username);
    await page.getByRole('button', { name: 'Code…' }).click();
    await seen(page.getByTestId('snippet').getByText(/curl -N -G/));
    assert.equal((await page.getByTestId('snippet').textContent()).includes('eyJ') && (await page.getByTestId('snippet').textContent()).length > 500, false, 'the token is not shown');
    for (const [name, words] of [['Node', /await fetch/], ['Python', /urllib/]]) {
      await page.getByRole('tab', { name }).click();
      await seen(page.getByTestId('snippet').getByText(words));
    }
    await accessible(page, 'snippets');
    await shoot(page, 'console-code-dark');
  });

  test('the pages threw nothing and broke no rule of the CSP', () => assert.deepEqual(pages.complaints, []));
});

async function logIn(page, username, password = PASSWORD) {
  await page.getByLabel('Username').fill(username);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Log in', exact: true }).click();
}

const call = (url, token, body, method = 'POST') => fetch(url, { method, headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` }, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
const send = (producer, records) => call(`${dsm}/data`, producer.token, records);

async function follow(consumer, producer) {
  assert.ok((await call(`${sm}/subscribe`, consumer.token, { producer_id: producer.id })).ok);
}
