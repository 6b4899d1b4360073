// A producer without a socket: it sends records as lines of `POST /data`, each request with all records that have gathered
// during the one before. Slower than a socket, and works wherever a request does.
import { ApiError, messageOf } from '../errors.ts';
import { onLeaving } from '../leaving.ts';
import { Caller } from '../rest/caller.ts';
import type { ProducerEnding, ProducerLink } from './transport.ts';

/** Records in one request. */
const MOST = 256;
/** Bytes of one request, about. */
const BYTES = 512 * 1024;
/** Statuses that say what is wrong with a record. */
const RECORD = [400, 413, 422];

interface Uploaded {
  accepted: number;
  rejected: number;
  errors: { line: number; code: string; message: string }[];
  subscriberCount: number;
}

/** The service does not take the token. A session's error about its own token is another. */
class TokenRefused extends Error {}

export async function httpProducer(link: ProducerLink): Promise<ProducerEnding> {
  const caller = new Caller();
  const waiting: string[] = [];
  let opened = false;
  let wake: (() => void) | null = null;
  // A token that cannot be had ends this before a record is taken.
  await link.token();
  const away = await whyAway(caller, link);
  if (link.signal.aborted) return { code: 1000, reason: 'left', opened };
  if (away !== null) return { code: 1006, reason: away, opened };
  const unlisten = onLeaving(link.signal, () => wake?.());
  opened = true;
  link.opened((frame) => {
    waiting.push(frame);
    wake?.();
  });
  try {
    while (!link.signal.aborted) {
      if (waiting.length === 0) {
        await new Promise<void>((ready) => (wake = ready));
        wake = null;
        continue;
      }
      const frames = take(waiting);
      for (const answer of await answers(caller, link, frames)) link.answered(JSON.stringify(answer));
    }
    return { code: 1000, reason: 'left', opened };
  } catch (cause) {
    if (link.signal.aborted) return { code: 1000, reason: 'left', opened };
    if (cause instanceof TokenRefused) return { code: 4401, reason: cause.message, opened };
    if (cause instanceof ApiError && !cause.temporary) throw cause;
    return { code: 1006, reason: messageOf(cause), opened };
  } finally {
    unlisten();
  }
}

/** Why the service cannot be had now; null where it answers. There is no connection that would show it, so it is asked. */
async function whyAway(caller: Caller, link: ProducerLink): Promise<string | null> {
  try {
    await caller.head('GET', `${link.places.dsm}/health`, { signal: link.signal });
    return null;
  } catch (cause) {
    // A proxy may keep this path to itself: such an answer is one all the same.
    return cause instanceof ApiError && !cause.temporary ? null : messageOf(cause);
  }
}

/** The first records, as many as one request takes. */
function take(waiting: string[]): string[] {
  let [count, bytes] = [0, 0];
  while (count < waiting.length && count < MOST && bytes < BYTES) bytes += waiting[count++]?.length ?? 0;
  return waiting.splice(0, count);
}

/** An answer for each record, in their order. */
async function answers(caller: Caller, link: ProducerLink, frames: string[]): Promise<object[]> {
  try {
    const taken = await post(caller, link, frames);
    if (taken.rejected === 0) return frames.map(() => ({ type: 'ack', subscriberCount: taken.subscriberCount }));
    const refused = new Map(taken.errors.map(({ line, code, message }) => [line, { type: 'error', code, message }]));
    if (refused.size === taken.rejected) return frames.map((_, i) => refused.get(i + 1) ?? { type: 'ack', subscriberCount: taken.subscriberCount });
  } catch (cause) {
    // A mistake in a record has an answer of its own; every other failure ends the connection.
    if (!(cause instanceof ApiError && isOfRecord(cause))) throw cause;
    if (frames.length === 1) return [{ type: 'error', code: cause.code, message: cause.message }];
  }
  // More were refused than are told of: one by one. Names keep those that were taken from being taken twice.
  const each: object[] = [];
  for (const frame of frames) each.push(...(await answers(caller, link, [frame])));
  return each;
}

/** A 403 is the account's, which has not the role or was revoked, unless it is about the record's device. */
function isOfRecord(error: ApiError): boolean {
  return RECORD.includes(error.status) || (error.status === 403 && error.code === 'wrong_device');
}

async function post(caller: Caller, link: ProducerLink, frames: string[]): Promise<Uploaded> {
  const lines = { type: 'application/x-ndjson', text: frames.map((frame) => `${frame}\n`).join('') };
  const token = await link.token();
  try {
    return await caller.json('POST', `${link.places.dsm}/data`, { as: token, lines, signal: link.signal });
  } catch (cause) {
    throw cause instanceof ApiError && cause.status === 401 ? new TokenRefused(cause.message) : cause;
  }
}
