// A list that is asked for when it is shown, and again when it has changed.
import { messageOf } from '@motience/client';
import { isMissing } from './poll.ts';

export class Listing<T> {
  /** Null: it has yet to come. */
  value = $state.raw<T[] | null>(null);
  /** The node is older than the console. */
  missing = $state(false);
  problem = $state<string | null>(null);
  readonly #ask: () => Promise<T[]>;

  constructor(ask: () => Promise<T[]>) {
    this.#ask = ask;
  }

  load = async (): Promise<void> => {
    this.problem = null;
    try {
      this.value = await this.#ask();
    } catch (cause) {
      if (isMissing(cause)) this.missing = true;
      else this.problem = messageOf(cause);
    }
  };

  /** Has an entry changed or ended, and asks again, where the list is still shown. */
  async change(act: () => Promise<unknown>, again = true): Promise<void> {
    try {
      await act();
      if (again) await this.load();
    } catch (cause) {
      this.problem = messageOf(cause);
    }
  }
}
