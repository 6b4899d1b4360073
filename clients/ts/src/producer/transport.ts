// The contract of a producer's transports: messages of wss1 out, one a line or message, and their answers in.
import type { Places } from '../places.ts';

export interface ProducerLink {
  places: Places;
  signal: AbortSignal;
  token(): Promise<string>;
  /** The connection stands; frames may go out until it ends. */
  opened(send: Send): void;
  /** An answer, in the order of the frames. */
  answered(text: string): void;
}

/** Hands a frame over. A promise says when the next one may go. */
export type Send = (frame: string) => Promise<void> | void;

/** How it ended: a close code, and why. */
export interface ProducerEnding {
  code: number;
  reason: string;
  opened: boolean;
  unusable?: boolean;
}
