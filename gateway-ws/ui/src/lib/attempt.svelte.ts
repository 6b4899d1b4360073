// One thing that a form asks of a service: whether it is under way, and why it was not done.
import { messageOf } from '@motience/client';

export class Attempt {
  busy = $state(false);
  /** A sentence; null: nothing is wrong. */
  problem = $state<string | null>(null);

  /** Does it, unless it is under way or the form has a mistake; whether it was done. */
  async run(act: () => Promise<unknown>, mistake: string | null = null): Promise<boolean> {
    if (this.busy) return false;
    this.problem = mistake;
    if (mistake !== null) return false;
    this.busy = true;
    try {
      await act();
      return true;
    } catch (cause) {
      this.problem = messageOf(cause);
      return false;
    } finally {
      this.busy = false;
    }
  }
}
