// How far a consumer has come in each log, and which records it has already had. That is what makes a reconnect neither
// lose nor double anything: a new connection goes on after the cursor, and what comes twice all the same is known by its
// offset or, after a log has lost its tail, by its record id.
import type { Gap, Reset, StreamRecord } from './events.ts';

/** Names remembered of each producer: the tail that a log may lose is a second or so of records. */
const NAMES = 16_384;

interface Log {
  /** Where to go on: a cursor, or how the producer was asked for at first. */
  place: string | null;
  epoch: string;
  offset: number;
  ids: Set<string>;
}

export class Progress {
  readonly #logs = new Map<string, Log>();
  readonly #inOrder: boolean;

  /** `inOrder` is false where the server holds records back, so that offsets do not rise. */
  constructor(inOrder: boolean) {
    this.#inOrder = inOrder;
  }

  /** Says where a producer is to be read from, unless it has been read already. */
  begin(producer: string, place: string | null): void {
    const log = this.#log(producer);
    log.place ??= place;
  }

  /** The server says where it begins: from here on a reconnect misses nothing, even before the first record. */
  placed(producer: string, cursor: string): void {
    const log = this.#log(producer);
    if (log.epoch === '') this.#move(log, cursor);
  }

  /** Takes a record; false for one that was had before. */
  take(record: StreamRecord): boolean {
    const log = this.#log(record.producer_id);
    const [epoch] = split(record.cursor);
    if (this.#inOrder && epoch === log.epoch && record.offset <= log.offset) return false;
    this.#move(log, record.cursor);
    if (record.record_id === undefined) return true;
    if (log.ids.has(record.record_id)) return false;
    log.ids.add(record.record_id);
    if (log.ids.size > NAMES) {
      const oldest = log.ids.values().next().value;
      if (oldest !== undefined) log.ids.delete(oldest);
    }
    return true;
  }

  /** Takes a gap; false for one that was told before. */
  gap(gap: Gap): boolean {
    const log = this.#log(gap.producer_id);
    if (log.epoch === '') return true;
    if (this.#inOrder && gap.to <= log.offset) return false;
    this.#move(log, `${log.epoch}-${gap.to}`);
    return true;
  }

  reset(reset: Reset): void {
    this.#move(this.#log(reset.producer_id), reset.cursor);
  }

  /** Takes what the server says about places where nothing is to be delivered. */
  advance(producer: string, cursor: string): void {
    const log = this.#log(producer);
    const [epoch, offset] = split(cursor);
    if (log.epoch === '' || (epoch === log.epoch && offset > log.offset)) this.#move(log, cursor);
  }

  forget(producer: string): void {
    this.#logs.delete(producer);
  }

  place(producer: string): string | null {
    return this.#logs.get(producer)?.place ?? null;
  }

  /** Every place that is known, for a connection that begins. */
  places(): Record<string, string> {
    const places: Record<string, string> = {};
    for (const [producer, { place }] of this.#logs) if (place !== null) places[producer] = place;
    return places;
  }

  #log(producer: string): Log {
    let log = this.#logs.get(producer);
    if (!log) this.#logs.set(producer, (log = { place: null, epoch: '', offset: 0, ids: new Set() }));
    return log;
  }

  #move(log: Log, cursor: string): void {
    [log.epoch, log.offset] = split(cursor);
    log.place = cursor;
  }
}

function split(cursor: string): [epoch: string, offset: number] {
  const at = cursor.lastIndexOf('-');
  return [cursor.slice(0, at), Number(cursor.slice(at + 1))];
}
