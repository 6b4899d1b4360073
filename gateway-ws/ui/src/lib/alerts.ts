// Alerts of a consumer: a reading beyond a limit, or a device that is silent. They are kept in this browser, and watched while the page is open.
import { Observable, type StreamRecord } from '@motience/client';
import { flatten } from './series.ts';

export interface Rule {
  id: string;
  producer: string;
  /** Empty: any device of the producer. */
  device: string;
  kind: 'above' | 'below' | 'silent';
  /** Of `above` and `below`. */
  reading: string;
  /** The limit, or seconds of silence. */
  value: number;
}

/** A rule that holds for a device, since a time in milliseconds. */
export interface Firing {
  rule: Rule;
  device: string;
  since: number;
  value: number | null;
}

/** Rules kept, and devices watched for each. */
const MOST = 50;
const DEVICES = 500;

type Store = Pick<Storage, 'getItem' | 'setItem'>;

export class Alerts {
  readonly rules = new Observable<Rule[]>([]);
  readonly firing = new Observable<Firing[]>([]);
  readonly #key: string;
  readonly #store: Store | null;
  /** When each device was heard last, by producer and device. */
  readonly #heard = new Map<string, number>();
  readonly #begun: number;

  constructor(account: string, store: Store | null, now = Date.now()) {
    this.#key = `motience.alerts.${account}`;
    this.#store = store;
    this.#begun = now;
    this.rules.set(read(store, this.#key).filter(isRule).slice(0, MOST));
    // An alert that fired before the page was opened again fires until a record says otherwise.
    this.firing.set(read(store, `${this.#key}.firing`).flatMap((kept) => this.#restored(kept)));
  }

  add(rule: Omit<Rule, 'id'>): void {
    if (this.rules.get().length >= MOST) return;
    this.#keep([...this.rules.get(), { ...rule, id: Math.random().toString(36).slice(2, 10) }]);
  }

  remove(id: string): void {
    this.#keep(this.rules.get().filter((rule) => rule.id !== id));
    this.#fire(this.firing.get().filter(({ rule }) => rule.id !== id));
  }

  /** A record has come. */
  record(record: StreamRecord, now = Date.now()): void {
    const rules = this.rules.get().filter((r) => r.producer === record.producer_id && (r.device === '' || r.device === record.device_id));
    if (rules.length === 0) return;
    const key = `${record.producer_id}\n${record.device_id}`;
    if (this.#heard.has(key) || this.#heard.size < DEVICES) this.#heard.set(key, now);
    const readings = new Map(rules.some((r) => r.kind !== 'silent') ? flatten(record.data) : []);
    for (const rule of rules) {
      if (rule.kind === 'silent') {
        this.#set(rule, record.device_id, false, null, now);
        this.#set(rule, '', false, null, now);
        continue;
      }
      const value = readings.get(rule.reading);
      if (value !== undefined) this.#set(rule, record.device_id, rule.kind === 'above' ? value > rule.value : value < rule.value, value, now);
    }
  }

  /** Looks for silence. A device that was never heard is silent since this page was opened. */
  look(now = Date.now()): void {
    for (const rule of this.rules.get().filter((r) => r.kind === 'silent')) {
      const heard = [...this.#heard].filter(([key]) => key.startsWith(`${rule.producer}\n`) && (rule.device === '' || key === `${rule.producer}\n${rule.device}`));
      if (heard.length === 0) this.#set(rule, rule.device, now - this.#begun > rule.value * 1000, null, now);
      for (const [key, at] of heard) this.#set(rule, key.slice(rule.producer.length + 1), now - at > rule.value * 1000, null, now);
    }
  }

  #set(rule: Rule, device: string, holds: boolean, value: number | null, now: number): void {
    const all = this.firing.get();
    const at = all.findIndex((f) => f.rule.id === rule.id && f.device === device);
    if (holds && at < 0) this.#fire([...all, { rule, device, since: now, value }]);
    else if (holds && all[at]?.value !== value) this.firing.set(all.map((f, i) => (i === at ? { ...f, value } : f)));
    else if (!holds && at >= 0) this.#fire(all.filter((_, i) => i !== at));
  }

  #keep(rules: Rule[]): void {
    this.rules.set(rules);
    this.#write(this.#key, rules);
  }

  /** Others fire than before. */
  #fire(firing: Firing[]): void {
    this.firing.set(firing);
    this.#write(`${this.#key}.firing`, firing.slice(0, MOST).map(({ rule, ...rest }) => ({ rule: rule.id, ...rest })));
  }

  #restored(kept: unknown): Firing[] {
    const { rule: id, device, since, value } = (kept ?? {}) as Partial<Record<'rule' | 'device' | 'since' | 'value', unknown>>;
    const rule = this.rules.get().find((r) => r.id === id);
    return rule && typeof device === 'string' && typeof since === 'number' && (value === null || typeof value === 'number') ? [{ rule, device, since, value }] : [];
  }

  #write(key: string, value: unknown): void {
    try {
      this.#store?.setItem(key, JSON.stringify(value));
    } catch {
      // Without storage they hold until the page is closed.
    }
  }
}

function read(store: Store | null, key: string): unknown[] {
  try {
    const value: unknown = JSON.parse(store?.getItem(key) ?? '[]');
    return Array.isArray(value) ? value : [];
  } catch {
    return [];
  }
}

function isRule(value: unknown): value is Rule {
  const rule = value as Partial<Rule> | null;
  return typeof rule === 'object' && rule !== null && [rule.id, rule.producer, rule.device, rule.reading].every((text) => typeof text === 'string') && ['above', 'below', 'silent'].includes(rule.kind ?? '') && typeof rule.value === 'number';
}
