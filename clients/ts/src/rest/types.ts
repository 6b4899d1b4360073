// The shapes of the REST API, under the names this client uses. They come from the services' own documents.
import type { components as ApSchemas } from '../generated/ap.ts';
import type { components as DsmSchemas } from '../generated/dsm.ts';
import type { components as SmSchemas } from '../generated/sm.ts';

type ApSchema = ApSchemas['schemas'];
type SmSchema = SmSchemas['schemas'];
type DsmSchema = DsmSchemas['schemas'];

export type Role = 'producer' | 'consumer';

export type LoggedIn = ApSchema['Session'];
export type User = ApSchema['User'];
export type Verified = ApSchema['Verified'];
export type Subscription = SmSchema['Subscription'];
export type Accepted = DsmSchema['Accepted'];
export type HistoryRecord = DsmSchema['Kept'];
export type LiveStream = DsmSchema['Stream'];
export type NamedCursor = DsmSchema['Listed'];
export type Account = ApSchema['Account'];
export type Device = DsmSchema['Device'];
export type Node = DsmSchema['Node'];

/** A record as a device sends it. Members of its own beside these are kept, and delivered as they were sent. */
export interface RecordToSend {
  /** The account's device, unless given. */
  device_id?: string;
  /** RFC 3339, or milliseconds since 1970; the time of arrival, unless given. */
  timestamp?: string | number;
  data: unknown;
  [member: string]: unknown;
}

export interface CertHash {
  algorithm: string;
  hashes: string[];
  webtransport_url: string | null;
}

/** A part of a list. */
export interface Page {
  /** 1 to 1000. */
  limit?: number;
  /** The last id already seen. */
  after?: string | number;
}

export interface AccountQuery extends Page {
  role?: string;
  /** A part of the name. */
  query?: string;
}

export interface HistoryQuery {
  /** Earliest and latest time, RFC 3339 or milliseconds since 1970. */
  from?: string;
  to?: string;
  /** Clock of the times: arrival at the platform (the default), or the device's own. */
  by?: 'device' | 'received';
  /** 1 to 1000. */
  limit?: number;
}
