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

export type MemberRole = 'owner' | 'manager' | 'reader';
/** The role of a member, or `account` for one that is to be owned. */
export type JoinRole = MemberRole | 'account';

export type Organisation = ApSchema['Organisation'];
/** With its members and accounts. */
export type WholeOrganisation = ApSchema['OrganisationWhole'];
export type Member = ApSchema['OrganisationMember'];
export type OwnedAccount = ApSchema['OrganisationAccount'];
export type OrganisationInvitation = ApSchema['OrganisationInvitation'];
/** `invitation` is shown this once. */
export type MadeOrganisationInvitation = ApSchema['OrganisationInvitationMade'];
export type Joined = ApSchema['OrganisationJoined'];
/** By it a member acts for an account. */
export type MemberToken = ApSchema['MemberToken'];

/** Limits by their names; one that is left out is none. */
export type Plan = ApSchema['Plan'];
/** The plan of an organisation, and how much of it is in use. */
export type PlanInUse = ApSchema['PlanUsed'];

/** Records and bytes of an hour, or of all hours summed up: of one account, direction, producer and device. */
export type Usage = DsmSchema['Usage'];

export interface UsageQuery {
  /** The first hour, and the time before which it ends; RFC 3339. The last day, unless given. */
  from?: string;
  to?: string;
  /** Sums the hours up. */
  sum?: boolean;
  /** Of an account of the caller's organisation; operators: of any. */
  account?: string | number;
  /** Of all accounts of an organisation. */
  organisation?: string;
}

/** How much is kept of a producer's records, and the bound that removes the oldest one first. */
export type KeptRecords = DsmSchema['KeptRecords'];
/** Limits of a producer's own; what is left out, or null, is as the platform has it. */
export type WantedRetention = DsmSchema['WantedRetention'];

/** Records that are erased for good, and how far that is. */
export type Erasure = DsmSchema['Erasure'];
/** The records for which everything holds that is set, which must be something. */
export type ErasureWish = DsmSchema['ToErase'];

/** A line of the audit log. */
export type AuditEntry = SmSchema['AuditEntry'];

/** Whether every line of the audit log is as it was written. */
export type AuditChain = SmSchema['AuditChain'];

export interface AuditQuery extends ActQuery {
  /** By this account, or about it. */
  account?: string | number;
  /** This deed, or all that begin so and go on behind a dot. */
  act?: string;
  outcome?: 'done' | 'refused' | 'failed';
  address?: string;
  /** At this time or later, and earlier than that; RFC 3339. */
  from?: string;
  to?: string;
}
