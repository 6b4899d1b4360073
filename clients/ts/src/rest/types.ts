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
export type RecordToSend = DsmSchema['Record'];
export type HistoryRecord = DsmSchema['Kept'];
export type LiveStream = DsmSchema['Stream'];
export type NamedCursor = DsmSchema['Listed'];

export interface Account {
  id: number;
  username: string;
  role: string;
  device_id: string | null;
  created_at: string;
  revoked_at: string | null;
}

export interface Device {
  producer_id: string;
  device_id: string;
  connected: boolean;
  node: string;
  transport: string;
  last_seen_at: string;
  records: number;
  rate_per_second: number;
  /** 0 to 1. */
  loss: number | null;
  rtt_ms: number | null;
  /** Records that the device still holds. */
  backlog: number | null;
  address_changes: number;
}

export interface Node {
  node: string;
  version: string;
  roles: string[];
  started_at: string;
  seen_at: string;
  durability: string;
  connections: Record<string, number>;
  records_in_per_second: number;
  records_out_per_second: number;
  records_in: number;
  records_out: number;
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
  /** Earliest device time, RFC 3339. */
  from?: string;
  /** Latest device time, RFC 3339. */
  to?: string;
  /** 1 to 1000. */
  limit?: number;
}
