// The whole client: the services, the session, and what streams.
import { Consumer, type ConsumerOptions } from './consumer/consumer.ts';
import type { Places } from './places.ts';
import { Producer, type ProducerOptions } from './producer/producer.ts';
import { OwnAccount } from './rest/account.ts';
import { Ap } from './rest/ap.ts';
import { Caller } from './rest/caller.ts';
import { Devices } from './rest/devices.ts';
import { Dsm } from './rest/dsm.ts';
import { Organisations } from './rest/organisations.ts';
import { Sm } from './rest/sm.ts';
import type { Subscription } from './rest/types.ts';
import { Session, type SessionOptions } from './session.ts';

/** Subscriptions asked for at once. */
const PAGE = 1_000;

export interface MotienceOptions extends SessionOptions {
  fetch?: typeof fetch;
}

export class Motience {
  readonly places: Places;
  /** Accounts. */
  readonly ap: Ap;
  /** The account of the caller. */
  readonly account: OwnAccount;
  /** Devices of a producer: enrolment, quarantine, revocation. */
  readonly devices: Devices;
  /** Organisations: members, accounts, and acting for one of these. */
  readonly organisations: Organisations;
  /** Subscriptions. */
  readonly sm: Sm;
  /** Data. */
  readonly dsm: Dsm;
  /** Who is signed in. Give it to the calls as the caller. */
  readonly session: Session;

  constructor(places: Places, options: MotienceOptions = {}) {
    const caller = new Caller(options.fetch);
    this.places = places;
    this.ap = new Ap(places.ap, caller);
    this.account = new OwnAccount(places.ap, caller);
    this.devices = new Devices(places.ap, caller);
    this.organisations = new Organisations(places.ap, caller);
    this.sm = new Sm(places.sm, caller);
    this.dsm = new Dsm(places.dsm, caller);
    this.session = new Session(this.ap, options);
  }

  /** A consumer of the account that is signed in, which connects with `start()` or when it is iterated. */
  consumer(options: ConsumerOptions = {}): Consumer {
    return new Consumer({ places: this.places, session: this.session, subscriptions: () => this.subscriptions() }, options);
  }

  /** A producer of the account that is signed in. */
  producer(options: ProducerOptions = {}): Producer {
    return new Producer({ places: this.places, session: this.session }, options);
  }

  /** The ids of all producers that the consumer who is signed in follows. */
  async subscriptions(): Promise<string[]> {
    return (await this.allSubscriptions()).filter((s) => s.status === 'active').map((s) => String(s.producer_id));
  }

  /** All subscriptions of the consumer who is signed in, those that wait for a decision too. */
  async allSubscriptions(): Promise<Subscription[]> {
    if (!this.session.get()?.userId) await this.session.verify();
    const me = this.session.get()?.userId;
    if (!me) return [];
    const all: Subscription[] = [];
    for (let after: number | null = 0; after !== null; ) {
      const part = await this.sm.subscriptions(this.session, me, { limit: PAGE, ...(after > 0 ? { after } : {}) });
      all.push(...part);
      after = part.length === PAGE ? (part.at(-1)?.id ?? null) : null;
    }
    return all;
  }
}
