// Exponential backoff with full jitter, so that many pages do not return to a restarted gateway at one moment.

const FIRST_MS = 500;
const LONGEST_MS = 30_000;
const SHORTEST_MS = 250;

/** The wait before attempt number `attempt` (0 = the first retry). */
export function backoff(attempt: number, random: () => number = Math.random): number {
  const ceiling = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 16));
  return Math.max(SHORTEST_MS, Math.round(random() * ceiling));
}
