// Leaving a connection. The signal to leave may come while a token is awaited, before anything listens for it: such a
// connection must end too.

/** Calls `left` when `signal` says so, or at once where it has. Returns how to listen no more. */
export function onLeaving(signal: AbortSignal, left: () => void): () => void {
  if (signal.aborted) left();
  else signal.addEventListener('abort', left);
  return () => signal.removeEventListener('abort', left);
}
