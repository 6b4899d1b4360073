// The meaning of each close code for a person, and whether trying again makes sense.

export interface Closing {
  name: string;
  advice: string;
  /** False where the same attempt would only be refused again. */
  retry: boolean;
}

const CODES: Record<number, Closing> = {
  1000: { name: 'closed normally', advice: 'Either side ended the connection on purpose.', retry: false },
  1001: { name: 'going away', advice: 'The gateway is shutting down or restarting.', retry: true },
  1002: { name: 'protocol error', advice: 'The gateway saw a malformed WebSocket frame.', retry: true },
  1003: { name: 'unsupported data', advice: 'The gateway takes text frames only.', retry: true },
  1005: { name: 'closed without a code', advice: 'The peer closed without saying why.', retry: true },
  1006: { name: 'connection lost', advice: 'No closing message came: the network or the gateway went away.', retry: true },
  1007: { name: 'invalid text', advice: 'A frame was not valid UTF-8.', retry: true },
  1008: { name: 'policy violation', advice: 'The gateway refused this connection by its rules.', retry: false },
  1009: { name: 'message too large', advice: 'The last message was over the size limit. Send a smaller one.', retry: true },
  1011: { name: 'server error', advice: 'The gateway met an error of its own.', retry: true },
  1012: { name: 'service restart', advice: 'The gateway is restarting.', retry: true },
  1013: { name: 'try again later', advice: 'The gateway is overloaded, or this page was too slow to keep up.', retry: true },
  1015: { name: 'TLS failure', advice: 'The certificate was not accepted by this browser.', retry: true },
  4400: { name: 'not understood', advice: 'The server did not understand what this client said: their versions may differ.', retry: false },
  4401: { name: 'token expired or revoked', advice: 'The access token is no longer valid. Log in again.', retry: false },
  4403: { name: 'not allowed', advice: 'The account does not have the role for this endpoint.', retry: false },
  4413: { name: 'message too large', advice: 'The last message was over the size limit. Send a smaller one.', retry: true },
  4429: { name: 'too many', advice: 'The server limits how many connections there may be. It is tried again.', retry: true },
};

export function closing(code: number): Closing {
  return CODES[code] ?? { name: code >= 4000 ? 'application code' : 'unknown code', advice: 'See the reason the gateway gave.', retry: true };
}
