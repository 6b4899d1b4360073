// Data: records over HTTP, the history, who is live, devices, nodes.
import { Buckets } from './buckets.ts';
import type { Accepted, Bucket, BucketQuery, CertHash, Device, Erasure, ErasureWish, HistoryQuery, HistoryRecord, KeptRecords, LiveConnections, LiveStream, NamedCursor, Node, Platform, RecordToSend, Usage, UsageQuery, WantedRetention } from './types.ts';
import { selectionParameters, type Selection } from '../selection.ts';
import type { Answer, Caller, Credentials } from './caller.ts';

/** Entries of an answer about usage. */
const PAGE = 1_000;

export class Dsm {
  readonly #at: string;
  readonly #caller: Caller;

  constructor(at: string, caller: Caller) {
    this.#at = at;
    this.#caller = caller;
  }

  /** One record, or an array of which all or none are taken. */
  send(as: Credentials, records: RecordToSend | RecordToSend[]): Promise<Accepted> {
    return this.#caller.json('POST', `${this.#at}/data`, { as, body: records });
  }

  /** The producers that have sent within the last minute. */
  streams(as: Credentials, signal?: AbortSignal): Promise<LiveStream[]> {
    return this.#caller.json('GET', `${this.#at}/streams`, { as, signal });
  }

  /** One page of the history, oldest first. `next` leads to the one after it. */
  historyPage(as: Credentials, producerId: string | number, query: HistoryQuery = {}, signal?: AbortSignal): Promise<Answer<HistoryRecord[]>> {
    return this.#caller.answer('GET', this.#history(producerId, query), { as, signal });
  }

  /** The whole history of a range, a page at a time: the next one is asked for when the loop comes back for it. */
  async *history(as: Credentials, producerId: string | number, query: HistoryQuery = {}, signal?: AbortSignal): AsyncGenerator<HistoryRecord[], void, void> {
    let page = await this.historyPage(as, producerId, query, signal);
    for (;;) {
      yield page.value;
      if (page.next === null) return;
      page = await this.#caller.answer('GET', page.next, { as, signal });
    }
  }

  /** The numbers of a range in buckets of time, all of them. `progress` is given those that have come, after each part but the last. */
  async buckets(as: Credentials, producerId: string | number, query: BucketQuery, signal?: AbortSignal, progress?: (buckets: Bucket[]) => void): Promise<Bucket[]> {
    const buckets = new Buckets();
    let next: string | null = this.#history(producerId, query);
    while (next !== null) {
      const part: Answer<Bucket[]> = await this.#caller.answer('GET', next, { as, signal });
      buckets.add(part.value);
      next = part.next;
      if (next !== null) progress?.(buckets.list());
    }
    return buckets.list();
  }

  /** The devices of a producer and how they are: for that producer, its subscribers and operators. */
  devices(as: Credentials, producerId: string | number, signal?: AbortSignal): Promise<Device[]> {
    return this.#caller.json('GET', `${this.#at}/devices/${encodeURIComponent(producerId)}`, { as, signal });
  }

  /** Devices of all producers by a part of their names. Operators only. */
  findDevices(as: Credentials, query: string, limit?: number, signal?: AbortSignal): Promise<Device[]> {
    return this.#caller.json('GET', `${this.#at}/devices`, { as, query: { query, limit }, signal });
  }

  /** Who is connected, on all nodes: the newest that match, and how many there are. Operators only. */
  connections(as: Credentials, query = '', limit?: number, signal?: AbortSignal): Promise<LiveConnections> {
    return this.#caller.json('GET', `${this.#at}/connections`, { as, query: { query, limit }, signal });
  }

  /** Ends one connection within a second, on whichever node it is. Its client may come back. Operators only. */
  async endConnection(as: Credentials, id: string): Promise<void> {
    await this.#caller.json('DELETE', `${this.#at}/connections/${encodeURIComponent(id)}`, { as });
  }

  /** The nodes of the platform. Operators only. */
  nodes(as: Credentials, signal?: AbortSignal): Promise<Node[]> {
    return this.#caller.json('GET', `${this.#at}/nodes`, { as, signal });
  }

  /** How the stores are, and the rates of the last day. Operators only. */
  platform(as: Credentials, signal?: AbortSignal): Promise<Platform> {
    return this.#caller.json('GET', `${this.#at}/platform`, { as, signal });
  }

  /** Records and bytes, in and out: 1,000 entries at most, by the hour; each record counts once. Rejects with `usage_not_counted` where nobody counts. */
  usagePage(as: Credentials, query: UsageQuery = {}, skip = 0, signal?: AbortSignal): Promise<Usage[]> {
    return this.#caller.json('GET', `${this.#at}/usage`, { as, query: { ...query, skip: skip > 0 ? skip : undefined }, signal });
  }

  /** All of it, a page at a time: the next one is asked for when the loop comes back for it. */
  async *usage(as: Credentials, query: UsageQuery = {}, signal?: AbortSignal): AsyncGenerator<Usage[], void, void> {
    for (let skip = 0; ; skip += PAGE) {
      const page = await this.usagePage(as, query, skip, signal);
      yield page;
      if (page.length < PAGE) return;
    }
  }

  /** How much is kept of a producer's records: for that producer, and for operators; so are the three below. */
  retention(as: Credentials, producerId: string | number, signal?: AbortSignal): Promise<KeptRecords> {
    return this.#caller.json('GET', `${this.#at}/retention/${encodeURIComponent(producerId)}`, { as, signal });
  }

  /** Takes the place of all that the producer has set. Records that are kept no longer go within minutes. */
  setRetention(as: Credentials, producerId: string | number, wanted: WantedRetention): Promise<KeptRecords> {
    return this.#caller.json('PUT', `${this.#at}/retention/${encodeURIComponent(producerId)}`, { as, body: wanted });
  }

  /** Erases records that are there now: nobody can read them within seconds, and within two minutes they are gone. */
  erase(as: Credentials, wish: ErasureWish): Promise<Erasure> {
    return this.#caller.json('POST', `${this.#at}/erasures`, { as, body: wish });
  }

  /** Erasures, the newest first, and how far they are. */
  erasures(as: Credentials, query: { limit?: number; before?: number } = {}, signal?: AbortSignal): Promise<Erasure[]> {
    return this.#caller.json('GET', `${this.#at}/erasures`, { as, query: { ...query }, signal });
  }

  /** Whether the service understands a selection; rejects with an `ApiError` whose `column` points at the mistake. */
  async checkSelection(as: Credentials, selection: Selection): Promise<void> {
    // The stream's head says it; of its body nothing is wanted.
    await this.#caller.head('GET', `${this.#at}/stream?${new URLSearchParams([['from', 'live'], ...selectionParameters(selection)])}`, { as, accept: 'application/x-ndjson' });
  }

  /** How far the calling consumer has confirmed, by its own names. */
  cursors(as: Credentials): Promise<NamedCursor[]> {
    return this.#caller.json('GET', `${this.#at}/cursors`, { as });
  }

  /** Moves a named cursor of the calling consumer: everything up to these cursors is dealt with. */
  async confirm(as: Credentials, name: string, cursors: Record<string, string>): Promise<void> {
    await this.#caller.json('POST', `${this.#at}/cursors/${encodeURIComponent(name)}`, { as, body: { cursors } });
  }

  /** The certificate hash with which a browser trusts a development certificate. */
  certHash(signal?: AbortSignal): Promise<CertHash> {
    return this.#caller.json('GET', `${this.#at}/cert-hash`, { signal });
  }

  #history(producerId: string | number, query: HistoryQuery | BucketQuery): string {
    const { where, fields, ...rest } = query;
    const { aggregate, ...plain } = { aggregate: undefined, ...rest };
    const own = Object.entries({ ...plain, aggregate: aggregate?.join(',') }).flatMap(([name, value]): [string, string][] => (value === undefined ? [] : [[name, String(value)]]));
    const pairs = new URLSearchParams([...own, ...selectionParameters({ where, fields })]);
    return `${this.#at}/history/${encodeURIComponent(producerId)}${pairs.size > 0 ? `?${pairs}` : ''}`;
  }
}
