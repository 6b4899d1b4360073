// Names of accounts by their ids, as far as whoever asks may see them.
import { Observable, type Motience } from '@motience/client';

export class Names extends Observable<ReadonlyMap<string, string>> {
  constructor(known: Iterable<[string, string]> = []) {
    super(new Map(known));
  }

  /** Asks for them; those that were known are kept. */
  async load({ ap, session }: Motience): Promise<void> {
    const lists = await Promise.all([ap.producers(session, { limit: 1000 }), ap.consumers(session, { limit: 1000 })].map((list) => list.catch(() => [])));
    this.set(new Map([...lists.flat().map((u): [string, string] => [String(u.id), u.username]), ...this.get()]));
  }
}
