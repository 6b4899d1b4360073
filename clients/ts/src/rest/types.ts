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
/** The numbers of one device in one length of time. */
export type Bucket = DsmSchema['Bucket'];
export type LiveStream = DsmSchema['Stream'];
export type NamedCursor = DsmSchema['Listed'];
export type Account = ApSchema['Account'];
export type Device = DsmSchema['Device'];
export type Node = DsmSchema['Node'];
/** The stores of a node, and the platform's rates over the last day. */
export type Platform = DsmSchema['Platform'];

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
  /** Comparisons that must all hold, and the members of `data` that are kept: as in a `Selection`. */
  where?: string[] | undefined;
  fields?: string[] | undefined;
}

export interface BucketQuery extends Omit<HistoryQuery, 'limit'> {
  /** The length of a bucket: `10s`, `1m`, `1h`; 100ms to 24h. */
  bucket: string;
  /** `avg`, `min` and `max`, unless given. */
  aggregate?: ('avg' | 'min' | 'max' | 'last')[];
}

/** The part that a consumer may have of a producer's stream; what is left out is not restricted. */
export interface Agreement {
  type: 'stream';
  devices?: string[];
  where?: string[];
  fields?: string;
  every?: string;
  /** How far back: a time, a length such as `7d`, or `now`. */
  since?: string;
  /** Connections at once, on each node. */
  connections?: number;
}

/** A producer's decision about a subscription. */
export interface Terms {
  expiresAt?: string | null;
  agreements?: Agreement[];
}

export interface Grant {
  grantor: { id: number; name: string };
  grantee: { id: number; name: string };
  effectiveAt: string;
  expiresAt?: string | null;
  agreements: Agreement[];
}

export type SubscriptionStatus = 'requested' | 'invited' | 'active' | 'denied' | 'revoked' | 'expired' | 'inactive';

/** Somebody changed a right. */
export interface Act {
  id: number;
  at: string;
  /** null: an operator, by the command line. */
  actor: number | null;
  act: string;
  object: string;
  detail: unknown;
}

export interface ActQuery {
  object?: string;
  actor?: string | number;
  /** Acts before this id. */
  before?: number;
  limit?: number;
}

export type Visibility = 'open' | 'listed' | 'private';

export interface Enrolment {
  id: string;
  producer_id: number;
  /** Shown once, when it is made. */
  token?: string;
  /** The token as an SVG; likewise. */
  qr?: string;
  device_id: string | null;
  labels: Record<string, string>;
  uses_left: number;
  expires_at: string;
  created_at: string;
}

export interface EnrolmentWish {
  uses?: number;
  /** Seconds. */
  expires_in?: number;
  device_id?: string;
  labels?: Record<string, string>;
  producer_id?: number;
}

export interface RegisteredDevice {
  producer_id: number;
  device_id: string;
  state: 'active' | 'quarantined' | 'revoked';
  state_changed_at: string | null;
  labels: Record<string, string>;
  created_at: string;
  credential: { id: string; algorithm: string; not_after: string; created_at: string; last_login_at: string | null } | null;
}

export interface ApiKey {
  id: string;
  name: string;
  scopes: string[];
  created_at: string;
  expires_at: string | null;
  last_used_at: string | null;
  /** Shown once, when it is made. */
  key?: string;
}

export interface LoginSession {
  id: string;
  started_at: string | null;
  last_used_at: string | null;
  expires_at: string;
  address: string | null;
  user_agent: string | null;
  current: boolean;
}

export interface Invitation {
  id: string;
  role: Role | null;
  uses_left: number;
  created_at: string;
  expires_at: string;
  note: string | null;
  /** Shown once, when it is made. */
  invitation?: string;
}
