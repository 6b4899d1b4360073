// The producers as a consumer sees them: who exists, who is live and how fast, whom one follows. Live ones come first.
import { ApiError, Observable, messageOf, type LiveStream, type Motience, type Subscription } from '@motience/client';

/** How many producers are asked for at once; the list stops growing at ten times that. */
const PAGE = 200;
const MOST = 2_000;
const LIVE_EVERY_MS = 2_000;

export interface Listed {
  id: string;
  name: string;
  device: string | null;
  followed: boolean;
  /** The subscription, whatever its state. */
  subscription: Subscription | null;
  /** May be found, and decides itself who reads. */
  asks: boolean;
  live: boolean;
  /** Records per second. */
  rate: number;
  lastAt: string | null;
}

export interface Catalogued {
  producers: Listed[];
  loading: boolean;
  more: boolean;
  problem: string | null;
  /** The service has not answered the last question: nothing here is live. */
  away: boolean;
}

export class Catalogue extends Observable<Catalogued> {
  readonly #client: Motience;
  /** Only consumers have subscriptions. */
  readonly #follows: boolean;
  readonly #users = new Map<string, { name: string; device: string | null; asks: boolean }>();
  #live = new Map<string, LiveStream>();
  #subscriptions = new Map<string, Subscription>();
  #last = 0;
  #timer: ReturnType<typeof setInterval> | null = null;
  /** The order stands while the list is looked at: a rate that changes moves nothing. */
  #rank = new Map<string, number>();

  constructor(client: Motience, follows = true) {
    super({ producers: [], loading: true, more: false, problem: null, away: false });
    this.#client = client;
    this.#follows = follows;
  }

  get followed(): ReadonlySet<string> {
    return new Set([...this.#subscriptions].filter(([, { status }]) => status === 'active').map(([id]) => id));
  }

  nameOf(id: string): string {
    return this.#users.get(id)?.name ?? this.#live.get(id)?.username ?? `producer ${id}`;
  }

  start(): () => void {
    void this.refresh();
    let looks = 0;
    this.#timer = setInterval(() => {
      if (document.hidden) return;
      void this.#lookLive();
      // Who waits for a decision, or may lose what was decided, learns of it soon.
      if (this.#follows && ++looks % 3 === 0) void this.#lookSubscriptions();
    }, LIVE_EVERY_MS);
    return () => {
      if (this.#timer !== null) clearInterval(this.#timer);
    };
  }

  async refresh(): Promise<void> {
    this.set({ ...this.get(), loading: true, problem: null });
    try {
      const { ap, dsm, session } = this.#client;
      const [users, followed, live] = await Promise.all([
        ap.producers(session, { limit: PAGE }),
        this.#follows ? this.#subscribed() : new Map<string, Subscription>(),
        dsm.streams(session).catch(() => [] as LiveStream[]),
      ]);
      this.#users.clear();
      this.#last = 0;
      this.#adopt(users);
      this.#subscriptions = followed;
      this.#live = new Map(live.map((s) => [s.producer_id, s]));
      this.#order();
      this.#publish({ loading: false, more: users.length === PAGE });
    } catch (cause) {
      this.#publish({ loading: false, problem: messageOf(cause) });
    }
  }

  async more(): Promise<void> {
    this.set({ ...this.get(), loading: true, problem: null });
    try {
      const users = await this.#client.ap.producers(this.#client.session, { limit: PAGE, after: this.#last });
      this.#adopt(users);
      this.#publish({ loading: false, more: users.length === PAGE && this.#users.size < MOST });
    } catch (cause) {
      this.#publish({ loading: false, problem: messageOf(cause) });
    }
  }

  /** Follows, asks to, or no longer. True once it stands. */
  async toggle(id: string): Promise<boolean> {
    const { sm, session } = this.#client;
    const before = this.#subscriptions.get(id)?.status;
    try {
      if (before === 'active' || before === 'requested') {
        await sm.unsubscribe(session, id).catch((cause: unknown) => {
          // Already gone is what was wanted.
          if (!(cause instanceof ApiError && cause.status === 404)) throw cause;
        });
        this.#subscriptions.delete(id);
      } else {
        this.#subscriptions.set(id, await sm.subscribe(session, id));
      }
      this.#publish({ problem: null });
      return true;
    } catch (cause) {
      this.#publish({ problem: messageOf(cause) });
      return false;
    }
  }

  async #subscribed(): Promise<Map<string, Subscription>> {
    return new Map((await this.#client.allSubscriptions()).map((s) => [String(s.producer_id), s]));
  }

  async #lookSubscriptions(): Promise<void> {
    const found = await this.#subscribed().catch(() => null);
    if (found === null) return;
    this.#subscriptions = found;
    this.#publish({});
  }

  async #lookLive(): Promise<void> {
    try {
      const live = await this.#client.dsm.streams(this.#client.session);
      const fresh = live.some((s) => !this.#live.has(s.producer_id));
      this.#live = new Map(live.map((s) => [s.producer_id, s]));
      if (fresh) this.#order();
      this.#publish({ away: false });
    } catch {
      // Who exists is still known; who sends, and how fast, is not.
      this.#live = new Map();
      this.#publish({ away: true });
    }
  }

  #adopt(users: { id: number | string; username: string; device_id: string | null; visibility?: string | null }[]): void {
    for (const user of users) {
      this.#users.set(String(user.id), { name: user.username, device: user.device_id, asks: (user.visibility ?? 'open') !== 'open' });
      this.#last = Math.max(this.#last, Number(user.id));
    }
  }

  #order(): void {
    const weight = (id: string) => (this.#subscriptions.has(id) ? 2 : 0) + (this.#live.has(id) ? 1 : 0);
    const ids = this.#ids().sort((a, b) => weight(b) - weight(a) || this.nameOf(a).localeCompare(this.nameOf(b)));
    this.#rank = new Map(ids.map((id, rank) => [id, rank]));
  }

  #ids(): string[] {
    return [...new Set([...this.#users.keys(), ...this.#live.keys(), ...this.#subscriptions.keys()])];
  }

  #publish(part: Partial<Catalogued>): void {
    const rank = (id: string) => this.#rank.get(id) ?? Number.MAX_SAFE_INTEGER;
    const producers = this.#ids()
      .sort((a, b) => rank(a) - rank(b))
      .map((id): Listed => {
        const live = this.#live.get(id);
        return {
          id,
          name: this.nameOf(id),
          device: this.#users.get(id)?.device ?? null,
          followed: this.#subscriptions.get(id)?.status === 'active',
          subscription: this.#subscriptions.get(id) ?? null,
          asks: this.#users.get(id)?.asks ?? false,
          live: live !== undefined,
          rate: live?.rate_per_second ?? 0,
          lastAt: live?.last_record_at ?? null,
        };
      });
    this.set({ ...this.get(), ...part, producers });
  }
}
