// Exponential backoff with full jitter above the shortest wait, so that many clients do not return to a restarted node at one moment.

const FIRST_MS = 500;
const LONGEST_MS = 30_000;
const SHORTEST_MS = 250;

/** The wait before attempt number `attempt` (0 = the first retry). */
export function backoff(attempt: number, random: () => number = Math.random): number {
  const ceiling = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 16));
  return Math.round(SHORTEST_MS + random() * (ceiling - SHORTEST_MS));
}

/** Waits, unless `signal` ends the wait first. True after the whole time. */
export function pause(ms: number, signal: AbortSignal): Promise<boolean> {
  return new Promise((done) => {
    if (signal.aborted) return done(false);
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      done(!signal.aborted);
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener('abort', end);
  });
}
