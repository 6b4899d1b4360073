// A producer's connection over WebSocket (wss1).
import { whyNoWebSocket, type WebSocketLike } from '../consumer/websocket.ts';
import type { ProducerEnding, ProducerLink } from './transport.ts';

const OPEN_LIMIT_MS = 15_000;
/** Above this many unsent bytes the next frame waits. */
const BUFFERED = 1 << 20;
/** How often a full buffer is looked at: WebSocket tells nobody when it has drained. */
const LOOK_MS = 10;

export function websocketProducer(make: WebSocketLike | undefined = globalThis.WebSocket) {
  return async (link: ProducerLink): Promise<ProducerEnding> => {
    const at = link.places.wss1;
    const missing = whyNoWebSocket(make, at);
    if (!make || !at || missing) return { code: 0, reason: missing ?? '', opened: false, unusable: true };
    const token = await link.token();
    // This connection may have been left while the token was awaited.
    if (link.signal.aborted) return { code: 1000, reason: 'left', opened: false };
    return new Promise((ended) => {
      const socket = new make(at, ['bearer', token]);
      // A close follows and says more. The listener stays: without one some WebSockets throw, also after they were left.
      socket.onerror = () => undefined;
      let opened = false;
      const finish = (ending: ProducerEnding) => {
        clearTimeout(timer);
        socket.onopen = socket.onmessage = socket.onclose = null;
        link.signal.removeEventListener('abort', left);
        if (socket.readyState <= 1) socket.close(1000);
        ended(ending);
      };
      const left = () => finish({ code: 1000, reason: 'left', opened });
      const timer = setTimeout(() => finish({ code: 1006, reason: 'the gateway did not answer', opened }), OPEN_LIMIT_MS);
      link.signal.addEventListener('abort', left);
      socket.onopen = () => {
        clearTimeout(timer);
        opened = true;
        link.opened(async (frame) => {
          while (socket.bufferedAmount > BUFFERED && socket.readyState === 1) await new Promise((later) => setTimeout(later, LOOK_MS));
          if (socket.readyState === 1) socket.send(frame);
        });
      };
      socket.onmessage = ({ data }) => typeof data === 'string' && link.answered(data);
      socket.onclose = ({ code, reason }) => finish({ code, reason, opened });
    });
  };
}
