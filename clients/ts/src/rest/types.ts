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
/** Who is connected, on all nodes. */
export type LiveConnections = DsmSchema['LiveConnections'];
export type LiveConnection = DsmSchema['LiveConnection'];
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
export type Agreement = SmSchema['Agreement'];

/** A producer's decision about a subscription. */
export interface Terms {
  expiresAt?: string | null;
  agreements?: Agreement[];
}

export type Grant = SmSchema['ConsentGrant'];

export type SubscriptionStatus = 'requested' | 'invited' | 'active' | 'denied' | 'revoked' | 'expired' | 'inactive';

/** Somebody changed a right. `actor` null: an operator, by the command line. */
export type Act = SmSchema['Act'];

export interface ActQuery {
  object?: string;
  actor?: string | number;
  /** Acts before this id. */
  before?: number;
  limit?: number;
}

export type Visibility = 'open' | 'listed' | 'private';

/** `token` and `qr` are shown once, when it is made. */
export type Enrolment = ApSchema['Enrolment'];

export type EnrolmentWish = ApSchema['EnrolmentWanted'];

export type RegisteredDevice = ApSchema['Registered'];

export type ApiKey = ApSchema['Key'];
/** `key` is shown this once. */
export type MadeApiKey = ApSchema['KeyMade'];

export type LoginSession = ApSchema['LoginSession'];

export type Invitation = ApSchema['Invitation'];
/** `invitation` is shown this once. */
export type MadeInvitation = ApSchema['InvitationMade'];
