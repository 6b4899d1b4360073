// Devices as subjects: enrolment, and who of them may send. For producers; operators name the producer.
import type { Enrolment, EnrolmentWish, RegisteredDevice } from './types.ts';
import type { Caller, Credentials } from './caller.ts';

/** Devices asked for at once. */
const PAGE = 1_000;

export class Devices {
  readonly #at: string;
  readonly #caller: Caller;

  constructor(at: string, caller: Caller) {
    this.#at = `${at}/devices`;
    this.#caller = caller;
  }

  /** Makes a token with which a device gets credentials of its own. The answer alone has the `token` and its `qr`. */
  enrol(as: Credentials, wish: EnrolmentWish = {}): Promise<Enrolment> {
    return this.#caller.json('POST', `${this.#at}/enrolments`, { as, body: wish });
  }

  /** Enrolments that are still good, newest first. */
  enrolments(as: Credentials, producerId?: string | number, signal?: AbortSignal): Promise<Enrolment[]> {
    return this.#caller.json('GET', `${this.#at}/enrolments`, { as, query: { producer_id: producerId }, signal });
  }

  async endEnrolment(as: Credentials, id: string): Promise<void> {
    await this.#caller.json('DELETE', `${this.#at}/enrolments/${encodeURIComponent(id)}`, { as });
  }

  /** All registered devices of a producer, by id. */
  async registered(as: Credentials, producerId: string | number, signal?: AbortSignal): Promise<RegisteredDevice[]> {
    const devices: RegisteredDevice[] = [];
    let next: string | null = `${this.#at}/${encodeURIComponent(producerId)}/registered?limit=${PAGE}`;
    while (next !== null) {
      const part: { value: RegisteredDevice[]; next: string | null } = await this.#caller.answer('GET', next, { as, signal });
      devices.push(...part.value);
      next = part.next;
    }
    return devices;
  }

  /** Gives a device these labels in place of those that it has. The device goes on by its key. */
  label(as: Credentials, producerId: string | number, deviceId: string, labels: Record<string, string>): Promise<RegisteredDevice> {
    return this.#caller.json('PUT', `${this.#at}/${encodeURIComponent(producerId)}/${encodeURIComponent(deviceId)}/labels`, { as, body: { labels } });
  }

  /** `quarantine`: its records are taken in and withheld. `revoke`: it is out within a second. `restore`: it may send again. */
  change(as: Credentials, producerId: string | number, deviceId: string, act: 'quarantine' | 'revoke' | 'restore'): Promise<RegisteredDevice> {
    return this.#caller.json('POST', `${this.#at}/${encodeURIComponent(producerId)}/${encodeURIComponent(deviceId)}/${act}`, { as });
  }
}
