// A connection over WebSocket: `motience.v2`, which goes on from a cursor for each producer.
//
// A browser's WebSocket cannot be slowed down. So the connection is given up when the inbox is full, and comes back from
// its cursors when the application has caught up: bounded memory, and nothing lost.
import { selectionParameters } from '../selection.ts';
import { messageIn } from './events.ts';
import type { CloseReason, Link } from './transport.ts';

/** An upgrade that takes longer than this is given up. */
const OPEN_LIMIT_MS = 15_000;
/** Silence after which the connection is asked whether it lives, and how long it may take to answer. */
const PING_EVERY_MS = 25_000;
const PONG_LIMIT_MS = 15_000;

/** Start positions that an address has room for; more are sent in messages of so many. */
const POSITIONS = 200;

export type WebSocketLike = new (url: string, protocols?: string[]) => WebSocket;

/** Why there can be no socket here; null where it may work. */
export function whyNoWebSocket(make: WebSocketLike | undefined, at: string | undefined): string | null {
  if (!make) return 'there is no WebSocket here';
  if (!at) return 'no WebSocket address is known';
  // A page that came over TLS may not open a socket without it.
  const mixed = typeof location !== 'undefined' && location.protocol === 'https:' && at.startsWith('ws://');
  return mixed ? 'a page under TLS may not open a WebSocket without it' : null;
}

export function websocket(make: WebSocketLike | undefined = globalThis.WebSocket) {
  return async (link: Link): Promise<CloseReason> => {
    const at = link.places.wss2;
    const missing = whyNoWebSocket(make, at);
    if (!make || !at || missing) return { code: 0, reason: missing ?? '', opened: false };
    const token = await link.token();
    // This connection may have been left while the token was awaited.
    if (link.signal.aborted) return { code: 1000, reason: 'left', opened: false };
    return new Promise((ended) => {
      const { address, resume } = beginning(at, link);
      const socket = new make(address, ['motience.v2', 'bearer', token]);
      // A close follows and says more. The listener stays: without one some WebSockets throw, also after they were left.
      socket.onerror = () => undefined;
      let opened = false;
      let timer: ReturnType<typeof setTimeout>;
      const finish = (ending: CloseReason) => {
        clearTimeout(timer);
        socket.onopen = socket.onmessage = socket.onclose = null;
        link.signal.removeEventListener('abort', left);
        if (socket.readyState <= 1) socket.close(1000);
        ended(ending);
      };
      const left = () => finish({ code: 1000, reason: 'left', opened });
      const alive = () => {
        clearTimeout(timer);
        timer = setTimeout(() => {
          socket.send('{"type":"ping"}');
          timer = setTimeout(() => finish({ code: 1006, reason: 'the gateway does not answer', opened }), PONG_LIMIT_MS);
        }, PING_EVERY_MS);
      };
      timer = setTimeout(() => finish({ code: 1006, reason: 'the gateway did not answer', opened }), OPEN_LIMIT_MS);
      link.signal.addEventListener('abort', left);
      socket.onopen = () => {
        opened = true;
        alive();
        for (const part of resume) socket.send(part);
        link.opened();
      };
      socket.onmessage = ({ data }) => {
        alive();
        const message = typeof data === 'string' ? messageIn(data) : null;
        if (message) link.take(message);
        if (link.full) finish({ code: 1000, reason: 'the application is behind', opened, overrun: true });
      };
      socket.onclose = ({ code, reason }) => finish({ code, reason, opened });
    });
  };
}

/** The address to connect to, and what has to be said first on the connection. */
function beginning(at: string, link: Link): { address: string; resume: string[] } {
  const query = new URLSearchParams(selectionParameters(link.selection));
  const positions = link.progress.positions();
  // Producers that are named and were never read begin where the caller says.
  for (const producer of link.wanted() ?? []) positions[producer] ??= link.from;
  const all = Object.entries(positions);
  const resume: string[] = [];
  if (all.length > POSITIONS) {
    query.set('resume', 'later');
    for (let first = 0; first < all.length; first += POSITIONS) {
      const cursors = Object.fromEntries(all.slice(first, first + POSITIONS));
      resume.push(JSON.stringify({ type: 'resume', cursors, more: first + POSITIONS < all.length }));
    }
  } else if (all.length > 0) {
    query.set('resume', JSON.stringify(positions));
  }
  // Where each producer begins: what is missed after a break before its first record.
  query.set('cursors', 'true');
  return { address: `${at}?${query}`, resume };
}
