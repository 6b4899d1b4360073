// The contract of all transports: one connection, from its opening to its end.
import type { ApiError } from '../errors.ts';
import type { Places } from '../places.ts';
import type { Selection } from '../selection.ts';
import type { Message } from './events.ts';
import type { Progress } from './progress.ts';

export type TransportKind = 'webtransport' | 'websocket' | 'ndjson' | 'sse';

/** Input of a connection. */
export interface Link {
  readonly places: Places;
  readonly selection: Selection;
  readonly signal: AbortSignal;
  token(): Promise<string>;
  /** Start position of a producer that has not been read. */
  readonly from: string;
  /** The only producers wanted; null: all that are subscribed to. */
  wanted(): ReadonlySet<string> | null;
  /** The producers to ask for one by one, where a transport needs that. */
  followed(): Promise<ReadonlySet<string>>;
  /** The position in each producer's log. */
  readonly progress: Pick<Progress, 'position' | 'positions' | 'began'>;
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
  /** Whether the connection was open before it ended. */
  opened: boolean;
  /** The application was slower than the connection: come back once it has caught up. */
  overrun?: boolean;
  /** The set of producers changed, which this transport cannot say on an open connection. */
  changed?: boolean;
  /** Where the server refused with an answer. */
  error?: ApiError;
}

export type Connect = (link: Link) => Promise<CloseReason>;
