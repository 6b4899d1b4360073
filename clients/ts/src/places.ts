// Where the platform's services are.

/** Base URLs, without a slash at the end. */
export interface Places {
  /** Accounts. */
  ap: string;
  /** Subscriptions. */
  sm: string;
  /** Data: records over HTTP, history, streams. */
  dsm: string;
  /** WebSocket producers, with the path: `ws://localhost:8001/producer`. */
  wss1?: string;
  /** WebSocket consumers, with the path: `ws://localhost:8002/consumer`. */
  wss2?: string;
  /** WebTransport: `https://localhost:4433/wt`. */
  webtransport?: string | null;
}

/** The places of a platform that listens on its documented ports of one host. */
export function placesOf(host: string, secure = false): Places {
  const s = secure ? 's' : '';
  return {
    ap: `http${s}://${host}:3001`,
    sm: `http${s}://${host}:3002`,
    dsm: `http${s}://${host}:3003`,
    wss1: `ws${s}://${host}:8001/producer`,
    wss2: `ws${s}://${host}:8002/consumer`,
    webtransport: `https://${host}:4433/wt`,
  };
}
