// Subscriptions: which producers a consumer hears.
import type { Page, Subscription } from './types.ts';
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

  /** The calling consumer's active subscriptions. */
  subscriptions(as: Credentials, consumerId: string | number, page: Page = {}): Promise<Subscription[]> {
    return this.#caller.json('GET', `${this.#at}/subscriptions/${encodeURIComponent(consumerId)}`, { as, query: { ...page } });
  }

  /** The calling producer's active subscribers. */
  subscribers(as: Credentials, producerId: string | number, page: Page = {}): Promise<Subscription[]> {
    return this.#caller.json('GET', `${this.#at}/subscribers/${encodeURIComponent(producerId)}`, { as, query: { ...page } });
  }
}

/** Ids go as numbers where they fit one, which is what every edition of the services accepts. */
function idForBody(id: string | number): number | string {
  const number = Number(id);
  return Number.isSafeInteger(number) ? number : id;
}
