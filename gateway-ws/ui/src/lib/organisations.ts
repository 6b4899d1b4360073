// Words for what stands in an organisation: roles, limits of its plan, what a member may do.
import type { JoinRole, MemberRole } from '@motience/client';

/** Each role, as its member is told. */
export const ROLES: Record<MemberRole, string> = {
  reader: 'You are a reader: you read lists, usage, history and records of its accounts.',
  manager: 'You are a manager: you read, and manage devices, keys, subscriptions and retention of its accounts.',
  owner: 'You are an owner: you do what managers do, invite and remove, and may end it.',
};

/** Each outcome of an invitation that is taken. */
export const INVITED: Record<JoinRole, string> = {
  reader: 'a member who reads',
  manager: 'a member who manages',
  owner: 'a member who owns',
  account: 'an account that it owns',
};

const LIMITS: Record<string, string> = {
  records_per_second: 'Records in, a second',
  bytes_per_second: 'Bytes in, a second',
  records_out_per_second: 'Records out, a second',
  bytes_out_per_second: 'Bytes out, a second',
  requests_per_second: 'Requests, a second',
  devices: 'Devices connected',
  connections: 'Connections',
  follows: 'Subscriptions',
  log_bytes: 'Log of each producer',
  history_rows: 'Rows of each producer in the history',
  total_log_bytes: 'Logs of all producers together',
  total_history_rows: 'Rows of all producers in the history together',
};

export interface Limit {
  name: string;
  label: string;
  most: number;
  used: number | null;
  /** From 0 to 1; null where nobody says how much is used. */
  part: number | null;
}

/** The limits of a plan, each with how much of it is in use where that is known. */
export function limitsOf(limits: Record<string, number>, used: Record<string, number>): Limit[] {
  return Object.entries(limits).map(([name, most]) => {
    const now = used[name] ?? null;
    const label = LIMITS[name] ?? name.charAt(0).toUpperCase() + name.slice(1).replaceAll('_', ' ');
    return { name, label, most, used: now, part: now === null ? null : most === 0 ? 1 : Math.min(1, now / most) };
  });
}

/** Whether a name can be one of an organisation. */
export const isName = (text: string): boolean => /^[A-Za-z0-9._-]{1,64}$/.test(text);
