// Organisations, usage, retention, erasure and the audit log against a real server.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Motience, type AuditEntry } from '../src/index.ts';
import { platform, until, type Platform } from './platform.ts';

describe('organisations and what is kept', () => {
  let at: Platform;
  before(async () => void (at = await platform({ COUNT_USAGE: 'true' })));
  after(() => at.stop());

  const idOf = (client: Motience) => Number(client.session.get()?.userId);

  test('members come by invitation, act for an account, and go', async () => {
    const [owner, member] = [await at.account('producer'), await at.account('consumer')];
    const { organisations, session } = owner;
    const { id } = await organisations.create(session, 'acme');
    await assert.rejects(organisations.create(session, 'acme'), { status: 409, code: 'name_taken' });
    const { invitation, role } = await organisations.invite(session, id, 'reader');
    assert.equal(role, 'reader');
    assert.equal((await organisations.invitations(session, id)).length, 1);
    assert.deepEqual(await member.organisations.join(member.session, invitation), { organisation_id: id, role: 'reader' });
    assert.deepEqual(await organisations.invitations(session, id), []);
    assert.deepEqual((await member.organisations.list(member.session)).map((o) => o.name), ['acme']);
    const whole = await member.organisations.get(member.session, id);
    assert.deepEqual(whole.members.map((m) => [m.user_id, m.role]), [[idOf(owner), 'owner'], [idOf(member), 'reader']]);
    assert.deepEqual(whole.accounts.map((a) => a.user_id), [idOf(owner)]);
    assert.deepEqual((await member.organisations.plan(member.session, id)).limits, {});
    await assert.rejects(member.organisations.plans(member.session), { status: 403 });
    await assert.rejects(member.organisations.setPlan(member.session, id, null), { status: 403 });

    const made = await member.organisations.actFor(member.session, id, idOf(owner));
    const acting = new Motience(at.places);
    acting.session.useToken(made.access_token);
    assert.deepEqual(await acting.session.verify(), { kind: 'good' });
    assert.equal(acting.session.get()?.role, 'producer');
    assert.deepEqual(await acting.dsm.historyPage(acting.session, idOf(owner)).then(({ value }) => value), []);
    await assert.rejects(acting.devices.enrol(acting.session), { code: 'scope_missing' });
    await organisations.setMember(session, id, idOf(member), 'manager');
    await until('the token to end', () => acting.ap.verify(acting.session).then(() => false, () => true));

    const open = await organisations.invite(session, id, 'account');
    await organisations.withdraw(session, id, open.id);
    await assert.rejects(member.organisations.join(member.session, open.invitation), { code: 'invitation_refused' });
    await organisations.removeMember(session, id, idOf(member));
    await assert.rejects(member.organisations.get(member.session, id), { status: 404 });
    await organisations.release(session, id, idOf(owner));
    await organisations.end(session, id);
    assert.deepEqual(await organisations.list(session), []);
  });

  test('usage is told by the hour and summed up', async () => {
    const producer = await at.account('producer');
    const { dsm, session } = producer;
    await dsm.send(session, [{ device_id: 'a', data: 1 }, { device_id: 'a', data: 2 }, { device_id: 'b', data: 3 }]);
    const counted = async () => {
      const all = [];
      for await (const page of dsm.usage(session, { sum: true })) all.push(...page);
      return all.map((u) => [u.device_id, u.direction, u.records]);
    };
    await until('the records to be counted', async () => (await counted()).length === 2);
    assert.deepEqual(await counted(), [['a', 'in', 2], ['b', 'in', 1]]);
    assert.equal((await dsm.usagePage(session, {}, 1)).length, 1);
    await assert.rejects(dsm.usagePage(session, { account: idOf(producer) + 1 }), { status: 403 });
  });

  test('a producer sets what is kept, and has records erased', async () => {
    const producer = await at.account('producer');
    const { dsm, session } = producer;
    const id = idOf(producer);
    assert.deepEqual((await dsm.retention(session, id)).own, { log_age_seconds: null, log_bytes: null, history_age_seconds: null, classes: [] });
    const kept = await dsm.setRetention(session, id, { log_age_seconds: 600 });
    assert.deepEqual([kept.log_age_seconds, kept.own.log_age_seconds], [600, 600]);
    await assert.rejects(dsm.setRetention(session, id, { log_age_seconds: 1 }), { status: 422 });
    await dsm.send(session, [{ device_id: 'gone', data: 1 }, { device_id: 'kept', data: 2 }]);
    await assert.rejects(dsm.erase(session, {}), { status: 422 });
    const asked = await dsm.erase(session, { device_id: 'gone' });
    assert.deepEqual([asked.producer_id, asked.device_id, asked.asked_by], [String(id), 'gone', id]);
    assert.deepEqual((await dsm.erasures(session)).map((e) => e.id), [asked.id]);
    assert.deepEqual(await dsm.erasures(session, { before: asked.id }), []);
  });

  test('the audit log and its chain are for operators', async () => {
    const name = `auditor-${process.pid}`;
    at.operator(name);
    const operator = new Motience(at.places);
    await operator.session.logIn(name, at.password);
    const { sm, session } = operator;
    const stranger = await at.account('consumer');
    await assert.rejects(stranger.sm.audit(stranger.session), { status: 403 });
    await assert.rejects(stranger.ap.revoke(stranger.session, idOf(operator)), { status: 403 });
    assert.equal((await sm.audit(session, { actor: idOf(stranger), outcome: 'refused' })).length, 1);
    const [entry] = (await sm.audit(session, { account: idOf(stranger), act: 'POST /accounts/{id}/revoke' })) as [AuditEntry];
    assert.equal(entry.outcome, 'refused');
    const chain = await sm.auditChain(session);
    assert.equal(chain.bad, null);
    assert.equal((await sm.auditChain(session, `${chain.lines}:${chain.hash}`)).bad, null);
    assert.equal((await sm.auditChain(session, `${chain.lines}:${'0'.repeat(64)}`)).bad?.line, chain.lines);
    assert.deepEqual(await operator.organisations.plans(session), []);
  });
});
