// A stream that a page shows, live or replayed: a consumer of the client, its readings as tracks, its gaps and resets as marks.
import { Observable, type Consumer, type ConsumerOptions, type ConsumerStatus, type Ended, type Motience, type StreamRecord } from '@motience/client';
import { Tracks } from './series.ts';
import { Rate } from './stats.ts';

/** Marks kept; older ones go. */
const MARKS = 200;
/** Producers whose rates are counted. */
const COUNTED = 1_000;
/** A connection that brought something this recently is alive, whatever else does not answer. */
const ALIVE_MS = 3_000;
/** A device time this far from the time of arrival is a clock that is wrong, or a record that is late. */
const SKEW_MS = 10_000;

/** Something that happened to a stream and not in it. */
export interface Mark {
  id: number;
  kind: 'gap' | 'reset' | 'ended';
  producer: string;
  text: string;
  /** When this page was told, milliseconds. */
  at: number;
  /** Where it belongs in the chart: seconds of the records around it, once those are known. */
  from: number | null;
  to: number | null;
}

export interface Watcher {
  /** A record, its time in seconds, and whether that is its device's. */
  record(record: StreamRecord, seconds: number): void;
  status(status: ConsumerStatus): void;
}

export class Timeline {
  readonly tracks = new Tracks();
  readonly marks = new Observable<Mark[]>([]);
  readonly #rates = new Map<string, Rate>();
  readonly #consumer: Consumer;
  readonly #watcher: Watcher;
  readonly #lastOf = new Map<string, number>();
  /** Seconds by which each device's clock is behind; only where that is much. */
  readonly #skew = new Map<string, number>();
  records = 0;
  #heardAt = 0;
  #nextMark = 0;

  constructor(client: Motience, options: ConsumerOptions, watcher: Watcher) {
    this.#watcher = watcher;
    this.#consumer = client.consumer(options);
    this.#consumer.on('record', (record) => this.#record(record));
    this.#consumer.on('gap', ({ producer_id, from, to }) => {
      const count = to - from + 1;
      this.#mark('gap', producer_id, `${count} ${count === 1 ? 'record' : 'records'} (${from} to ${to}) had left the log before they were read`);
    });
    this.#consumer.on('reset', ({ producer_id }) => this.#mark('reset', producer_id, 'The log lost its newest records and continues; records that came twice are left out'));
    this.#consumer.on('ended', (ended) => this.#ended(ended));
    this.#consumer.on('status', (status) => watcher.status(status));
    this.#consumer.start();
  }

  get status(): ConsumerStatus {
    return this.#consumer.status.get();
  }

  /** The time at the right edge of a device's chart: its own clock, going on since its last record. */
  edge(producer: string, device: string): number {
    return Date.now() / 1000 - (this.#skew.get(`${producer}\n${device}`) ?? 0);
  }

  skew(producer: string, device: string): number {
    return this.#skew.get(`${producer}\n${device}`) ?? 0;
  }

  /** Records per second that come from a producer. */
  rate(producer: string): number {
    return this.#rates.get(producer)?.perSecond(performance.now()) ?? 0;
  }

  /** The service does not answer elsewhere: a connection that is silent too is given up, and comes back when it can. */
  doubt(): void {
    if (this.status.state === 'open' && performance.now() - this.#heardAt > ALIVE_MS) this.#consumer.reconnect();
  }

  /** Subscriptions have changed. */
  refresh(): void {
    this.#consumer.refresh();
  }

  close(): void {
    this.#consumer.close();
  }

  #record(record: StreamRecord): void {
    this.records++;
    this.#heardAt = performance.now();
    this.#rateOf(record.producer_id)?.add(performance.now());
    const now = Date.now();
    const said = Date.parse(record.timestamp);
    const time = Number.isNaN(said) ? now : said;
    const key = `${record.producer_id}\n${record.device_id}`;
    if (Math.abs(now - time) > SKEW_MS) this.#skew.set(key, (now - time) / 1000);
    else this.#skew.delete(key);
    const seconds = time / 1000;
    this.#place(record.producer_id, seconds);
    this.#lastOf.set(record.producer_id, seconds);
    this.tracks.add(record.producer_id, record.device_id, seconds, record.data);
    this.#watcher.record(record, seconds);
  }

  #rateOf(producer: string): Rate | undefined {
    const known = this.#rates.get(producer);
    if (known || this.#rates.size >= COUNTED) return known;
    const rate = new Rate();
    this.#rates.set(producer, rate);
    return rate;
  }

  #ended({ producer_id, code, message }: Ended): void {
    // A follow that this account ended itself is no news, and an end of the whole is in the status.
    if (producer_id !== null && code !== 'unsubscribed') this.#mark('ended', producer_id, message || `The stream ended: ${code.replace(/_/g, ' ')}`);
  }

  #mark(kind: Mark['kind'], producer: string, text: string): void {
    const before = this.#lastOf.get(producer) ?? null;
    const mark: Mark = { id: this.#nextMark++, kind, producer, text, at: Date.now(), from: before, to: null };
    this.marks.set([mark, ...this.marks.get()].slice(0, MARKS));
  }

  /** A mark ends where the next record is. */
  #place(producer: string, seconds: number): void {
    const marks = this.marks.get();
    if (!marks.some((m) => m.producer === producer && m.to === null)) return;
    this.marks.set(marks.map((m) => (m.producer === producer && m.to === null ? { ...m, from: m.from ?? seconds, to: seconds } : m)));
  }
}
