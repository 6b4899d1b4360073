// The position of a consumer in each log, and the records that it has already received. A reconnect therefore neither loses nor
// doubles a record: a new connection goes on after the cursor, and a record that comes twice all the same is recognised by its
// offset or, after a log has lost its tail, by its record id.
import type { Gap, Reset, StreamRecord } from './events.ts';

/** Record ids remembered of each producer: the tail that a log may lose is a second or so of records. */
const RECORD_IDS = 16_384;

interface Log {
  /** Position to go on from: a cursor, or the start position asked for at first. */
  position: string | null;
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

  /** Sets the start position of a producer, unless it has been read already. */
  begin(producer: string, start: string | null): void {
    const log = this.#log(producer);
    log.position ??= start;
  }

  /** Takes the cursor at which the server begins: from here on a reconnect misses nothing, even before the first record. */
  began(producer: string, cursor: string): void {
    const log = this.#log(producer);
    if (log.epoch === '') this.#move(log, cursor);
  }

  /** Takes a record; false for one that came before. */
  take(record: StreamRecord): boolean {
    const log = this.#log(record.producer_id);
    const [epoch] = split(record.cursor);
    if (this.#inOrder && epoch === log.epoch && record.offset <= log.offset) return false;
    this.#move(log, record.cursor);
    if (record.record_id === undefined) return true;
    if (log.ids.has(record.record_id)) return false;
    log.ids.add(record.record_id);
    if (log.ids.size > RECORD_IDS) {
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

  /** Takes a cursor up to which there is nothing to deliver. */
  advance(producer: string, cursor: string): void {
    const log = this.#log(producer);
    const [epoch, offset] = split(cursor);
    if (log.epoch === '' || (epoch === log.epoch && offset > log.offset)) this.#move(log, cursor);
  }

  forget(producer: string): void {
    this.#logs.delete(producer);
  }

  position(producer: string): string | null {
    return this.#logs.get(producer)?.position ?? null;
  }

  /** Every known position, for a connection that begins. */
  positions(): Record<string, string> {
    const positions: Record<string, string> = {};
    for (const [producer, { position }] of this.#logs) if (position !== null) positions[producer] = position;
    return positions;
  }

  #log(producer: string): Log {
    let log = this.#logs.get(producer);
    if (!log) this.#logs.set(producer, (log = { position: null, epoch: '', offset: 0, ids: new Set() }));
    return log;
  }

  #move(log: Log, cursor: string): void {
    [log.epoch, log.offset] = split(cursor);
    log.position = cursor;
  }
}

function split(cursor: string): [epoch: string, offset: number] {
  const at = cursor.lastIndexOf('-');
  return [cursor.slice(0, at), Number(cursor.slice(at + 1))];
}
