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

/**
 * The places of a platform on one host. `secure`: everything is under TLS on one port, as in production (`HTTPS_PORT`,
 * 4433); otherwise each service is on its documented port. A host may name the port: `placesOf('data.example:443', true)`.
 */
export function placesOf(host: string, secure = false): Places {
  if (secure) {
    const at = /:\d+$/.test(host) ? host : `${host}:4433`;
    const https = `https://${at}`;
    return { ap: https, sm: https, dsm: https, wss1: `wss://${at}/producer`, wss2: `wss://${at}/consumer`, webtransport: `${https}/wt` };
  }
  return {
    ap: `http://${host}:3001`,
    sm: `http://${host}:3002`,
    dsm: `http://${host}:3003`,
    wss1: `ws://${host}:8001/producer`,
    wss2: `ws://${host}:8002/consumer`,
    webtransport: `https://${host}:4433/wt`,
  };
}
