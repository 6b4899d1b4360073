// Organisations: the accounts that belong together, the members who look after them, and tokens by which a member acts for an account.
import type { Joined, JoinRole, MadeOrganisationInvitation, MemberRole, MemberToken, Organisation, OrganisationInvitation, Plan, PlanInUse, WholeOrganisation } from './types.ts';
import type { Caller, Credentials } from './caller.ts';

/** Organisations asked for at once. */
const PAGE = 1_000;

export class Organisations {
  readonly #at: string;
  readonly #plans: string;
  readonly #caller: Caller;

  constructor(at: string, caller: Caller) {
    this.#at = `${at}/organisations`;
    this.#plans = `${at}/plans`;
    this.#caller = caller;
  }

  /** All that the caller is a member of; operators see every one. */
  async list(as: Credentials, signal?: AbortSignal): Promise<Organisation[]> {
    const all: Organisation[] = [];
    for (;;) {
      const part = await this.#caller.json<Organisation[]>('GET', this.#at, { as, query: { after: all.at(-1)?.id }, signal });
      all.push(...part);
      if (part.length < PAGE) return all;
    }
  }

  /** Makes one. The caller is its owner, and its first account where no organisation owns it yet. */
  create(as: Credentials, name: string): Promise<Organisation> {
    return this.#caller.json('POST', this.#at, { as, body: { name } });
  }

  /** With its members and accounts. */
  get(as: Credentials, id: string, signal?: AbortSignal): Promise<WholeOrganisation> {
    return this.#caller.json('GET', this.#of(id), { as, signal });
  }

  /** Ends it. Its accounts stay, each on its own again. Owners only, like the four below. */
  async end(as: Credentials, id: string): Promise<void> {
    await this.#caller.json('DELETE', this.#of(id), { as });
  }

  /** Invites a member, or with `account` an account to be owned. Good once and for a week; the answer alone has the `invitation` itself. */
  invite(as: Credentials, id: string, role: JoinRole): Promise<MadeOrganisationInvitation> {
    return this.#caller.json('POST', `${this.#of(id)}/invitations`, { as, body: { role } });
  }

  /** Invitations that nobody has taken yet. */
  invitations(as: Credentials, id: string, signal?: AbortSignal): Promise<OrganisationInvitation[]> {
    return this.#caller.json('GET', `${this.#of(id)}/invitations`, { as, signal });
  }

  async withdraw(as: Credentials, id: string, invitation: string): Promise<void> {
    await this.#caller.json('DELETE', `${this.#of(id)}/invitations/${encodeURIComponent(invitation)}`, { as });
  }

  async setMember(as: Credentials, id: string, userId: string | number, role: MemberRole): Promise<void> {
    await this.#caller.json('PUT', `${this.#of(id)}/members/${encodeURIComponent(userId)}`, { as, body: { role } });
  }

  /** Ends a membership: an owner does, or the member itself. */
  async removeMember(as: Credentials, id: string, userId: string | number): Promise<void> {
    await this.#caller.json('DELETE', `${this.#of(id)}/members/${encodeURIComponent(userId)}`, { as });
  }

  /** Takes an invitation: the caller becomes a member, or is owned. */
  join(as: Credentials, invitation: string): Promise<Joined> {
    return this.#caller.json('POST', `${this.#at}/join`, { as, body: { invitation } });
  }

  /** Lets an account go: an owner does, or the account itself. */
  async release(as: Credentials, id: string, userId: string | number): Promise<void> {
    await this.#caller.json('DELETE', `${this.#of(id)}/accounts/${encodeURIComponent(userId)}`, { as });
  }

  /** A token of the account, good for an hour, with the scopes of the caller's role. The caller's last one for this account ends. */
  actFor(as: Credentials, id: string, userId: string | number): Promise<MemberToken> {
    return this.#caller.json('POST', `${this.#of(id)}/accounts/${encodeURIComponent(userId)}/token`, { as });
  }

  /** Its plan, and how much of it is in use now. */
  plan(as: Credentials, id: string, signal?: AbortSignal): Promise<PlanInUse> {
    return this.#caller.json('GET', `${this.#of(id)}/plan`, { as, signal });
  }

  /** All plans. Operators only. */
  plans(as: Credentials, signal?: AbortSignal): Promise<Plan[]> {
    return this.#caller.json('GET', this.#plans, { as, signal });
  }

  /** Gives it a plan, or none. Operators only. */
  setPlan(as: Credentials, id: string, plan: string | null): Promise<Organisation> {
    return this.#caller.json('PUT', `${this.#of(id)}/plan`, { as, body: { plan } });
  }

  #of(id: string): string {
    return `${this.#at}/${encodeURIComponent(id)}`;
  }
}
