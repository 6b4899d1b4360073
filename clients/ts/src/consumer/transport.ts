// What the transports have in common: one connection, from its opening to its end.
import type { ApiError } from '../errors.ts';
import type { Places } from '../places.ts';
import type { View } from '../view.ts';
import type { Message } from './events.ts';

export type TransportKind = 'webtransport' | 'websocket' | 'ndjson' | 'sse';

/** What a connection is given. */
export interface Link {
  readonly places: Places;
  readonly view: View;
  readonly signal: AbortSignal;
  token(): Promise<string>;
  /** Where to begin a producer that has not been read. */
  readonly from: string;
  /** The only producers wanted; null: all that are subscribed to. */
  wanted(): ReadonlySet<string> | null;
  /** The producers to ask for one by one, where a transport needs that. */
  followed(): Promise<ReadonlySet<string>>;
  /** Where to go on, for each producer that is known. */
  readonly progress: { place(producer: string): string | null; places(): Record<string, string>; placed(producer: string, cursor: string): void };
  /** The connection stands. */
  opened(): void;
  /** Takes a message. */
  take(message: Message): void;
  /** Whether no more should be read for now. */
  readonly full: boolean;
  /** Resolves when reading may go on. */
  room(): Promise<void>;
  /** Calls when the set of producers has changed, until the connection's signal. */
  onChange(changed: () => void): void;
}

/** How a connection ended. */
export interface CloseReason {
  /** A close code, as WebSocket has them; 0 where there was none. */
  code: number;
  reason: string;
  /** It was open before it ended. */
  opened: boolean;
  /** The application was slower than the connection: come back once it has caught up. */
  overrun?: boolean;
  /** The set of producers changed, which this transport cannot say on an open connection. */
  changed?: boolean;
  /** Where the server refused with an answer. */
  error?: ApiError;
}

export type Connect = (link: Link) => Promise<CloseReason>;
