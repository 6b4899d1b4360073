// Subscriptions: which producers a consumer hears.
import type { Act, ActQuery, AuditChain, AuditEntry, AuditQuery, Grant, Page, Subscription, SubscriptionStatus, Terms } from './types.ts';
import type { Caller, Credentials } from './caller.ts';

export class Sm {
  readonly #at: string;
  readonly #caller: Caller;

  constructor(at: string, caller: Caller) {
    this.#at = at;
    this.#caller = caller;
  }

  subscribe(as: Credentials, producerId: string | number): Promise<Subscription> {
    return this.#caller.json('POST', `${this.#at}/subscribe`, { as, body: { producer_id: idForBody(producerId) } });
  }

  async unsubscribe(as: Credentials, producerId: string | number): Promise<void> {
    await this.#caller.json('DELETE', `${this.#at}/unsubscribe`, { as, query: { producer_id: producerId } });
  }

  /** The calling consumer's subscriptions: those that are active, and those that wait for somebody's decision. */
  subscriptions(as: Credentials, consumerId: string | number, page: SubscriptionPage = {}): Promise<Subscription[]> {
    return this.#caller.json('GET', `${this.#at}/subscriptions/${encodeURIComponent(consumerId)}`, { as, query: { ...page } });
  }

  /** The calling producer's subscribers, likewise. */
  subscribers(as: Credentials, producerId: string | number, page: SubscriptionPage = {}): Promise<Subscription[]> {
    return this.#caller.json('GET', `${this.#at}/subscribers/${encodeURIComponent(producerId)}`, { as, query: { ...page } });
  }

  /** Lets a consumer read, within the terms. For the producer, and for operators; so are the two below. */
  approve(as: Credentials, id: number, terms: Terms = {}): Promise<Subscription> {
    return this.#caller.json('POST', `${this.#at}/subscriptions/${id}/approve`, { as, body: terms });
  }

  deny(as: Credentials, id: number): Promise<Subscription> {
    return this.#caller.json('POST', `${this.#at}/subscriptions/${id}/deny`, { as });
  }

  /** Ends a subscription within a second. */
  revoke(as: Credentials, id: number): Promise<Subscription> {
    return this.#caller.json('POST', `${this.#at}/subscriptions/${id}/revoke`, { as });
  }

  /** Invites a consumer, by name, who then may subscribe. */
  invite(as: Credentials, consumer: string, terms: Terms = {}): Promise<Subscription> {
    return this.#caller.json('POST', `${this.#at}/subscriptions/invite`, { as, body: { consumer, ...terms } });
  }

  /** The scope of a subscription. For both sides. */
  grant(as: Credentials, id: number): Promise<Grant> {
    return this.#caller.json('GET', `${this.#at}/subscriptions/${id}/grant`, { as });
  }

  /** Who changed which right, newest first: what concerns the caller, or all of it for operators. */
  acts(as: Credentials, query: ActQuery = {}, signal?: AbortSignal): Promise<Act[]> {
    return this.#caller.json('GET', `${this.#at}/acts`, { as, query: { ...query }, signal });
  }

  /** The audit log, newest first: the acts, and attempts that were refused or failed, with where they came from. Operators only. */
  audit(as: Credentials, query: AuditQuery = {}, signal?: AbortSignal): Promise<AuditEntry[]> {
    return this.#caller.json('GET', `${this.#at}/audit`, { as, query: { ...query }, signal });
  }

  /** Follows the chain of the audit log. `head`, as `LINES:HASH` from an earlier answer, finds lines that were taken off its end. Operators only. */
  auditChain(as: Credentials, head?: string, signal?: AbortSignal): Promise<AuditChain> {
    return this.#caller.json('GET', `${this.#at}/audit/chain`, { as, query: { head }, signal });
  }
}

export interface SubscriptionPage extends Page {
  status?: SubscriptionStatus;
}

/** Ids go as numbers where they fit one, which is what every edition of the services accepts. */
function idForBody(id: string | number): number | string {
  const number = Number(id);
  return Number.isSafeInteger(number) ? number : id;
}
