// A connection over plain HTTP: `GET /stream`, as lines of JSON or as server-sent events. The body is read only as fast as
// the application takes its records, so that the server is slowed by the connection itself.
import { ApiError, failure, messageOf } from '../errors.ts';
import { onLeaving } from '../leaving.ts';
import { lines } from '../lines.ts';
import { unanswered } from '../rest/caller.ts';
import { selectionParameters } from '../selection.ts';
import { messageIn, type Message } from './events.ts';
import type { CloseReason, Link } from './transport.ts';

/** How long the answer's head may take. */
const ANSWER_LIMIT_MS = 15_000;
/** The server says something every 15 s; after this silence the connection is dead. */
const SILENCE_LIMIT_MS = 45_000;

export function stream(format: 'ndjson' | 'sse') {
  return async (link: Link): Promise<CloseReason> => {
    const token = await link.token();
    const stop = new AbortController();
    let silence = setTimeout(() => stop.abort(), ANSWER_LIMIT_MS);
    const unlisten = onLeaving(link.signal, () => stop.abort());
    let opened = false;
    let why: Partial<CloseReason> | null = null;
    link.onChange(() => {
      why = { code: 1000, reason: 'the producers changed', changed: true };
      stop.abort();
    });
    try {
      const url = address(link);
      const response = await fetch(url, {
        headers: { accept: format === 'sse' ? 'text/event-stream' : 'application/x-ndjson', authorization: `Bearer ${token}` },
        cache: 'no-store',
        credentials: 'omit',
        referrerPolicy: 'no-referrer',
        signal: stop.signal,
      }).catch((cause: unknown) => {
        throw why || link.signal.aborted ? cause : unanswered(url, cause);
      });
      if (!response.ok) throw failure(response, await response.text().catch(() => ''));
      if (!response.body) throw new ApiError(0, 'no_body', 'The service answered without a stream.');
      opened = true;
      link.opened();
      const alive = () => {
        clearTimeout(silence);
        silence = setTimeout(() => stop.abort(), SILENCE_LIMIT_MS);
      };
      alive();
      for await (const message of format === 'sse' ? events(response.body, alive) : objects(response.body, alive)) {
        if (message.type === 'end') {
          const producers = Array.isArray(message.producer_ids) ? message.producer_ids.map(String) : [];
          for (const producer_id of producers) link.take({ type: 'ended', producer_id, code: String(message.why) });
          if (producers.length > 0) return { code: 1000, reason: '', opened, changed: true };
          return { code: CODES[String(message.why)] ?? 1001, reason: String(message.why).replaceAll('_', ' '), opened };
        }
        link.take(message);
        if (!link.full) continue;
        // Silence while nothing is read is no news.
        clearTimeout(silence);
        await link.room();
        alive();
      }
      return { code: 1006, reason: 'the stream ended', opened };
    } catch (cause) {
      if (why) return { code: 1000, reason: '', opened, ...(why as Partial<CloseReason>) };
      if (link.signal.aborted) return { code: 1000, reason: 'left', opened };
      if (cause instanceof ApiError) return { code: 0, reason: cause.message, opened, error: cause };
      return { code: 1006, reason: messageOf(cause), opened };
    } finally {
      clearTimeout(silence);
      unlisten();
      stop.abort();
    }
  };
}

/** Why a stream ends, as a close code; draining and the rest: come back. */
const CODES: Record<string, number> = { token_ended: 4401, ended_by_operator: 1013, too_many_producers: 1008 };

function address(link: Link): string {
  const query = new URLSearchParams(selectionParameters(link.selection));
  const wanted = link.wanted();
  const positions = link.progress.positions();
  if (wanted) {
    query.set('producers', [...wanted].join(','));
    for (const producer of Object.keys(positions)) if (!wanted.has(producer)) delete positions[producer];
    for (const producer of wanted) positions[producer] ??= link.from;
  }
  query.set('from', Object.keys(positions).length > 0 ? JSON.stringify(positions) : link.from);
  return `${link.places.dsm}/stream?${query}`;
}

async function* objects(body: ReadableStream<Uint8Array>, alive: () => void): AsyncGenerator<Message> {
  for await (const line of lines(body)) {
    alive();
    const message = line === '' ? null : messageIn(line);
    if (message) yield message;
  }
}

/** Server-sent events, as the same messages. */
async function* events(body: ReadableStream<Uint8Array>, alive: () => void): AsyncGenerator<Message> {
  let kind = '';
  let id = '';
  let data: string[] = [];
  for await (const line of lines(body)) {
    alive();
    if (line === '') {
      const message = data.length > 0 ? messageIn(data.join('\n')) : id === '' ? null : { type: 'cursors', cursors: id };
      if (message) yield kind === '' || kind === 'message' ? message : { ...message, type: kind };
      kind = id = '';
      data = [];
      continue;
    }
    const at = line.indexOf(':');
    const field = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? '' : line.slice(line[at + 1] === ' ' ? at + 2 : at + 1);
    if (field === 'data') data.push(value);
    else if (field === 'event') kind = value;
    else if (field === 'id') id = value;
  }
}
