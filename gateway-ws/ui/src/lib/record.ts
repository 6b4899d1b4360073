// A message of wss2, read.
import { isObject } from './json.ts';
import { flatten } from './series.ts';
import { reading } from './format.ts';

export interface Received {
  id: number;
  /** Arrival, milliseconds since 1970. */
  at: number;
  producer: string;
  device: string;
  timestamp: string;
  /** now - timestamp, null where the timestamp cannot be read. */
  latency: number | null;
  data: unknown;
  text: string;
}

/** Reads one message; null where it is no record. */
export function received(text: string, id: number, at: number): Received | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isObject(value) || value.producer_id === undefined || !('data' in value)) return null;
  const timestamp = String(value.timestamp ?? '');
  const sent = Date.parse(timestamp);
  return {
    id,
    at,
    producer: String(value.producer_id),
    device: String(value.device_id ?? ''),
    timestamp,
    latency: Number.isNaN(sent) ? null : at - sent,
    data: value.data,
    text,
  };
}

/** A record that the client has read already, as a row of a table. */
export function asReceived(record: { producer_id: string; device_id: string; timestamp: string; data: unknown }, id: number, at: number): Received {
  const sent = Date.parse(record.timestamp);
  return {
    id,
    at,
    producer: record.producer_id,
    device: record.device_id,
    timestamp: record.timestamp,
    latency: Number.isNaN(sent) ? null : at - sent,
    data: record.data,
    // Written out only when somebody opens the row.
    get text() {
      return JSON.stringify(record);
    },
  };
}

/** The first readings in one line. */
export function preview(data: unknown): string {
  const numbers = flatten(data, 6);
  if (numbers.length > 0) return numbers.map(([name, value]) => `${name} ${reading(value)}`).join('  ·  ');
  return (JSON.stringify(data) ?? '').slice(0, 120);
}
