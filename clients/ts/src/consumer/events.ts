// The events of a consumer, and how messages of the wire become events.

/** A record, as the platform delivers it. */
export interface StreamRecord {
  producer_id: string;
  device_id: string;
  timestamp: string;
  data: unknown;
  /** Its place in its producer's log. */
  offset: number;
  /** Where to go on after it. */
  cursor: string;
  /** The permanent id of the record, whatever its offset. */
  record_id?: string;
}

/** These offsets were gone before they were read. */
export interface Gap {
  producer_id: string;
  from: number;
  to: number;
  /** Why: retention has removed it, the log's file is damaged there, or its producer or an operator has erased it. Older servers do not say. */
  cause?: 'retention' | 'damaged' | 'erased';
}

/** The log lost its tail and lives on; records come from after this cursor. Doubles are already left out. */
export interface Reset {
  producer_id: string;
  cursor: string;
}

/** A producer is no longer followed, or could not be; without an id: the consumer as a whole has ended. */
export interface Ended {
  producer_id: string | null;
  code: string;
  message: string;
}

export type ConsumerEvent =
  | ({ type: 'record' } & { record: StreamRecord })
  | ({ type: 'gap' } & Gap)
  | ({ type: 'reset' } & Reset)
  | ({ type: 'ended' } & Ended);

/** A message of the wire. Everything but `type` depends on it. */
export type Message = Record<string, unknown> & { type?: string };

export function messageIn(text: string): Message | null {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === 'object' && !Array.isArray(value) ? (value as Message) : null;
  } catch {
    return null;
  }
}

export function recordIn(message: Message): StreamRecord | null {
  if (message.type !== undefined || message.producer_id === undefined || typeof message.cursor !== 'string') return null;
  return {
    producer_id: String(message.producer_id),
    device_id: String(message.device_id ?? ''),
    timestamp: String(message.timestamp ?? ''),
    data: message.data,
    offset: Number(message.offset),
    cursor: message.cursor,
    ...(typeof message.record_id === 'string' ? { record_id: message.record_id } : {}),
  };
}
