// Organisations in the console, in a real browser against a real server: members and invitations, acting for an account, plans and usage.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { accessible } from './axe.mjs';
import { PASSWORD, consumerPort, account as demoAccount, fits, gallery, missing, number, seen, shoot, until } from './platform.mjs';
import { program, suite } from './server.mjs';

describe('organisations', { skip: !program && 'set MOTIENCE_SERVER' }, () => {
  const { pages, server } = suite('organisations', { COUNT_USAGE: 'true' });

  const open = (t, hash = '', options) => pages.open(t, `${server.at.consumer_page}${hash}`, options);
  const ap = (who, method, path, body) => server.ask(who, method, `${server.at.ap}${path}`, body);
  const send = (producer, device, n = 1) => server.ask(producer, 'POST', `${server.at.dsm}/data`, Array.from({ length: n }, (_, i) => ({ device_id: device, data: { level: i } })));

  /** An organisation of a producer's, by the API. */
  async function organisation(name) {
    const owner = await server.account('producer');
    const { id } = await ap(owner, 'POST', '/organisations', { name });
    return { id, owner };
  }

  async function join_(id, owner, who, role) {
    const { invitation } = await ap(owner, 'POST', `/organisations/${id}/invitations`, { role });
    await ap(who, 'POST', '/organisations/join', { invitation });
  }

  test('an owner makes an organisation, invites, gives roles, and ends it', async (t) => {
    const [owner, other] = [await server.account('producer'), await server.account('consumer')];
    const page = await open(t, '#page=organisations');
    await logIn(page, owner.username);
    await seen(page.getByText('You are a member of no organisation'));
    await accessible(page, 'no organisation');
    await gallery(page, 'organisations-none');
    await page.getByRole('button', { name: 'New organisation…' }).click();
    await page.getByLabel('Name', { exact: true }).fill('not a name');
    await page.getByRole('button', { name: 'Make it' }).click();
    await seen(page.getByRole('alert'));
    await accessible(page, 'a new organisation');
    await page.getByLabel('Name', { exact: true }).fill('acme');
    await page.getByRole('button', { name: 'Make it' }).click();
    await seen(page.getByRole('heading', { name: 'acme' }));
    await seen(page.getByTestId('owned').getByText(owner.username));
    await seen(page.getByTestId('members').getByLabel(`Role of ${owner.username}`));
    // The last owner stays one, and hears why.
    await page.getByLabel(`Role of ${owner.username}`).selectOption('reader');
    await seen(page.getByRole('alert'));
    assert.equal(await page.getByLabel(`Role of ${owner.username}`).inputValue(), 'owner');

    await page.getByRole('button', { name: 'Invite…' }).click();
    await page.getByLabel('It makes').selectOption('manager');
    await accessible(page, 'inviting into an organisation');
    await page.getByRole('button', { name: 'Make the invitation' }).click();
    const shown = page.getByRole('region', { name: 'The invitation' });
    await seen(shown);
    const invitation = (await shown.textContent()).trim();
    await shoot(page, 'organisation-invitation-dark');
    await page.getByRole('button', { name: 'Done' }).click();
    await seen(page.getByTestId('invitations-into').getByText('a member who manages'));
    assert.equal((await page.content()).includes(invitation), false, 'shown once');

    const theirs = await open(t, '#page=organisations', { colorScheme: 'light' });
    await logIn(theirs, other.username);
    await theirs.getByRole('button', { name: 'Take an invitation…' }).click();
    await theirs.getByLabel('Invitation', { exact: true }).fill('moti_nothing');
    await theirs.getByRole('button', { name: 'Take it' }).click();
    await seen(theirs.getByRole('alert'));
    await accessible(theirs, 'taking an invitation');
    await shoot(theirs, 'organisation-join-light');
    await theirs.getByLabel('Invitation', { exact: true }).fill(invitation);
    await theirs.getByRole('button', { name: 'Take it' }).click();
    await seen(theirs.getByText('You are a manager'));
    assert.equal(await theirs.getByRole('button', { name: 'Invite…' }).count(), 0, 'only owners invite');
    assert.equal(await theirs.getByRole('button', { name: 'End it…' }).count(), 0);

    // The owner's page learns of it by itself.
    await seen(page.getByTestId('members').getByText(other.username));
    await page.getByLabel(`Role of ${other.username}`).selectOption('reader');
    await seen(theirs.getByText('You are a reader'));
    await page.getByRole('button', { name: 'Invite…' }).click();
    await page.getByRole('button', { name: 'Make the invitation' }).click();
    await page.getByRole('button', { name: 'Done' }).click();
    await accessible(page, 'an organisation');
    await gallery(page, 'organisation');
    await page.getByRole('button', { name: 'End the invitation for a member who reads' }).click();
    await seen(page.getByText('No invitation is open'));

    await page.getByRole('button', { name: `Remove ${other.username}` }).click();
    await page.getByRole('button', { name: 'Remove member' }).click();
    await seen(theirs.getByText('There is no such organisation'));
    await accessible(theirs, 'an organisation of others');
    await page.getByRole('button', { name: 'End it…' }).click();
    await page.getByRole('button', { name: 'End the organisation' }).click();
    await seen(page.getByText('You are a member of no organisation'));
    // The browser's own button leads through the views.
    await page.getByRole('tab', { name: 'Usage' }).click();
    await page.goBack();
    await seen(page.getByRole('tab', { name: 'Organisations', selected: true }));
  });

  test('an account that takes an invitation is owned, and leaves again', async (t) => {
    const { id, owner } = await organisation('fleet');
    const producer = await server.account('producer');
    const page = await open(t, `#page=organisations&org=${id}`);
    await logIn(page, owner.username);
    await page.getByRole('button', { name: 'Invite…' }).click();
    await page.getByLabel('It makes').selectOption('account');
    await page.getByRole('button', { name: 'Make the invitation' }).click();
    const invitation = (await page.getByRole('region', { name: 'The invitation' }).textContent()).trim();
    await page.getByRole('button', { name: 'Done' }).click();
    await ap(producer, 'POST', '/organisations/join', { invitation });
    await seen(page.getByTestId('owned').getByText(producer.username));
    await page.getByRole('button', { name: `Release ${producer.username}` }).click();
    await accessible(page, 'releasing an account');
    await page.getByRole('button', { name: 'Release account' }).click();
    await page.getByTestId('owned').getByText(producer.username).waitFor({ state: 'detached' });
  });

  test('a member acts for an account within the role, until the role changes', async (t) => {
    const { id, owner } = await organisation('harbour');
    const member = await server.account('consumer');
    await join_(id, owner, member, 'reader');
    await send(owner, 'crane', 3);
    const page = await open(t, `#page=organisations&org=${id}`);
    await logIn(page, member.username);
    await page.getByRole('button', { name: `Act for ${owner.username}` }).click();
    await accessible(page, 'asked whether to act');
    await page.getByRole('button', { name: 'Act for it' }).click();
    await seen(page.getByTestId('acting').getByText('you may read.', { exact: false }));
    await seen(page.getByRole('heading', { name: owner.username }));
    await seen(page.getByTestId('devices').getByText('crane'));
    assert.equal(await page.getByRole('button', { name: 'Add a device…' }).count(), 0, 'a reader registers none');
    await page.getByRole('tab', { name: /Subscribers/ }).click();
    await seen(page.getByText('Nobody subscribes yet'));
    assert.equal(await page.getByRole('button', { name: 'Invite a consumer…' }).count(), 0, 'nor does it decide');
    await accessible(page, 'acting');
    await gallery(page, 'acting');
    await page.getByRole('tab', { name: 'Retention' }).click();
    await seen(page.getByTestId('first-cut'));
    await seen(page.getByText('Nothing was erased'));
    assert.equal(await page.getByRole('button', { name: /Set limits|Add a class|Erase records/ }).count(), 0, 'a reader keeps all as it is');
    await accessible(page, 'retention, for a reader');
    await shoot(page, 'acting-retention-reader-dark');
    // The address leads back to it, and the tab knows the token.
    assert.match(page.url(), new RegExp(`for=${id}%3A${owner.id}`));
    await page.reload();
    await seen(page.getByTestId('acting'));
    // Its own pages are those of the member.
    await page.getByRole('button', { name: 'Account' }).click();
    await seen(page.getByRole('heading', { name: member.username }));
    await page.goBack();
    await seen(page.getByTestId('acting'));

    await ap(owner, 'PUT', `/organisations/${id}/members/${member.id}`, { role: 'manager' });
    await seen(page.getByRole('heading', { name: 'You act for this account no more' }));
    await accessible(page, 'acting no more');
    await shoot(page, 'acting-ended-dark');
    await page.getByRole('button', { name: 'Act for it' }).click();
    await seen(page.getByTestId('acting').getByText('you may read and manage', { exact: false }));
    await page.getByRole('tab', { name: 'Devices' }).click();
    await page.getByRole('tabpanel').getByRole('button', { name: 'Add a device…' }).click();
    await page.getByLabel('Device id').fill('pier');
    await page.getByRole('button', { name: 'Make a token' }).click();
    await seen(page.getByTestId('token'));
    await page.getByRole('button', { name: 'Done' }).click();
    await seen(page.getByRole('heading', { name: 'API keys' }));
    await page.getByRole('tab', { name: 'Retention' }).click();
    await page.getByLabel('In the history, for', { exact: true }).fill('30');
    await page.getByRole('button', { name: 'Set limits' }).click();
    await page.getByRole('button', { name: 'Keep less' }).click();
    await seen(page.getByText('Nothing is kept beyond'));
    const kept = await server.ask(owner, 'GET', `${server.at.dsm}/retention/${owner.id}`);
    assert.equal(kept.own.history_age_seconds, 30 * 86_400);
    await seen(page.getByRole('button', { name: 'Erase records…' }));
    await accessible(page, 'retention, for a manager');
    await gallery(page, 'acting-retention');
    await page.getByRole('button', { name: 'Stop acting' }).click();
    await seen(page.getByRole('heading', { name: 'harbour' }));
    assert.equal(await page.evaluate(() => sessionStorage.getItem('motience.acting')), null);
    // A link to it asks first: nobody acts by opening an address.
    await page.goto(`${server.at.consumer_page}#for=${id}:${owner.id}`);
    await page.reload();
    await seen(page.getByRole('heading', { name: 'This is the view of an account of an organisation' }));
    await accessible(page, 'a link to an account');
    await fits(page);
  });

  test('usage is told by hour, device, producer and consumer; an operator gives the plan and sees all', async (t) => {
    const { id, owner } = await organisation('meters');
    const [consumer, admin] = [await server.account('consumer'), await server.account('admin')];
    await join_(id, owner, consumer, 'account');
    await join_(id, owner, consumer, 'reader');
    await server.ask(consumer, 'POST', `${server.at.sm}/subscribe`, { producer_id: owner.id });
    await send(owner, 'north', 40);
    await send(owner, 'south', 2);
    const told = (who, query) => server.ask(who, 'GET', `${server.at.dsm}/usage?${query}`);
    const records = (rows) => rows.reduce((sum, row) => sum + row.records, 0);
    await until('what went in to be counted', async () => records(await told(owner, 'sum=true')) === 42);
    // Reading the log counts what goes out.
    await (await fetch(`${server.at.dsm}/stream?from=earliest&limit=42`, { headers: { authorization: `Bearer ${consumer.token}`, accept: 'application/x-ndjson' }, signal: AbortSignal.timeout(2_000) })).text().catch(() => undefined);
    await until('what went out to be counted', async () => records(await told(consumer, 'sum=true')) === 42);

    const page = await open(t, '#page=usage');
    await logIn(page, owner.username);
    await seen(page.getByTestId('usage-in').getByText('42'));
    const usage = page.getByTestId('usage');
    await seen(usage.getByRole('row', { name: /north/ }).getByText('40', { exact: true }));
    assert.equal(await page.getByTestId('usage-out').count(), 0, 'a producer receives nothing');
    await page.getByText('By the hour, as a table').click();
    await accessible(page, 'usage');
    await gallery(page, 'usage');
    await page.getByRole('button', { name: '30 days' }).click();
    assert.match(page.url(), /period=30d/);
    await seen(page.getByText('By the day, as a table'));
    await page.goBack();
    await seen(page.getByText('By the hour, as a table'));

    // The organisation's is that of all its accounts, under their names.
    await page.goto(`${server.at.consumer_page}#page=organisations&org=${id}&by=consumer`);
    await page.reload();
    await seen(page.getByTestId('usage-out').getByText('42'));
    await seen(usage.getByRole('row', { name: new RegExp(consumer.username) }));
    await page.getByRole('button', { name: 'Producer', exact: true }).click();
    await seen(usage.getByRole('row', { name: new RegExp(owner.username) }));
    await seen(page.getByRole('heading', { name: 'Plan' }));
    await seen(page.getByText('No plan', { exact: true }));

    server.run(['plan', 'set', 'small', '--records-per-second', '100', '--bytes-per-second', '2000000', '--requests-per-second', '50', '--connections', '8', '--devices', '20', '--follows', '4', '--log-bytes', '67108864']);
    const theirs = await open(t, '#tab=organisations', { colorScheme: 'light' });
    await logIn(theirs, admin.username);
    await theirs.getByLabel('Search organisations').fill('meter');
    await seen(theirs.getByTestId('organisations'));
    await accessible(theirs, 'all organisations');
    await shoot(theirs, 'organisations-all-light');
    await theirs.getByTestId('organisations').getByRole('button', { name: 'meters' }).click();
    assert.equal(await theirs.getByRole('button', { name: /^Act for/ }).count(), 0, 'an operator operates');
    await theirs.getByLabel('Plan of the organisation').selectOption('small');
    await seen(theirs.getByTestId('plan').getByText('Records in, a second'));
    await seen(theirs.getByTestId('plan').getByText('0 of 20'));
    await seen(theirs.getByTestId('plan').getByText('1 of 4'));
    // Both pages of its members ask, so some requests are in use.
    const requests = theirs.getByTestId('plan').locator('div', { hasText: 'Requests, a second' });
    await until('requests to be in use', async () => number((await requests.locator('b').textContent()) ?? '0') > 0);
    await seen(theirs.getByTestId('plan').getByText('0 of 8'));
    await seen(theirs.getByTestId('plan').getByText(/^0 B of 2.0 MB$/));
    await accessible(theirs, 'an organisation, for operators');
    await gallery(theirs, 'organisation-operator');
    // Its owner sees it without asking.
    await seen(page.getByTestId('plan').getByText('of 100'));
    await theirs.getByRole('tab', { name: 'Usage' }).click();
    await seen(theirs.getByTestId('usage-in'));
    assert.ok(number(await theirs.getByTestId('usage-in').locator('b').textContent()) >= 42);
    await accessible(theirs, 'the usage of all');
    await gallery(theirs, 'usage-all');
  });

  test('where usage is not counted, the page says so', { skip: missing.length > 0 && `set ${missing.join(', ')}` }, async (t) => {
    const consumer = await demoAccount('consumer');
    const page = await pages.open(t, `${consumerPort}#page=usage`);
    await logIn(page, consumer.username);
    await seen(page.getByText('Usage is not counted here'));
    await accessible(page, 'usage that is not counted');
  });
});

async function logIn(page, username) {
  await page.getByLabel('Username').fill(username);
  await page.getByLabel('Password').fill(PASSWORD);
  await page.getByRole('button', { name: 'Log in', exact: true }).click();
}
