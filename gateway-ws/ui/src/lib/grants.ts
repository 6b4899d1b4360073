// Subscriptions and what they may read, in words.
import type { Agreement, Grant, Terms } from '@motience/client';

/** Fields of a form about a scope, as they are typed. */
export interface ScopeText {
  devices: string;
  where: string;
  fields: string;
  every: string;
  since: string;
  connections: string;
  /** A local time, or nothing: without an end. */
  expires: string;
}

export const EVERYTHING: ScopeText = { devices: '', where: '', fields: '', every: '', since: '', connections: '', expires: '' };

const list = (text: string, by: RegExp) => text.split(by).map((part) => part.trim()).filter((part) => part !== '');

/** The terms that a form means. Fields that are left empty restrict nothing. */
export function termsOf(text: ScopeText): Terms {
  const agreement: Agreement = { type: 'stream' };
  const devices = list(text.devices, /[\s,]+/);
  const where = list(text.where, /\s+and\s+|\n/i);
  const fields = list(text.fields, /[\s,]+/);
  if (devices.length > 0) agreement.devices = devices;
  if (where.length > 0) agreement.where = where;
  if (fields.length > 0) agreement.fields = fields.join(',');
  if (text.every) agreement.every = text.every;
  if (text.since.trim()) agreement.since = text.since.trim();
  if (text.connections.trim()) agreement.connections = Number(text.connections);
  const expires = text.expires ? new Date(text.expires) : null;
  return {
    ...(Object.keys(agreement).length > 1 ? { agreements: [agreement] } : {}),
    ...(expires && !Number.isNaN(expires.getTime()) ? { expiresAt: expires.toISOString() } : {}),
  };
}

/** The form of a scope that stands already. */
export function textOf(grant: Grant | null | undefined, local: (time: Date) => string): ScopeText {
  const agreement = grant?.agreements[0];
  return {
    devices: agreement?.devices?.join(', ') ?? '',
    where: agreement?.where?.join(' and ') ?? '',
    fields: agreement?.fields ?? '',
    every: agreement?.every ?? '',
    since: agreement?.since ?? '',
    connections: agreement?.connections === undefined || agreement.connections === null ? '' : String(agreement.connections),
    expires: grant?.expiresAt ? local(new Date(grant.expiresAt)) : '',
  };
}

/** The restrictions of a grant, a pair of words for each restriction; nothing: everything. */
export function restrictions(grant: Grant | null | undefined): [string, string][] {
  const a = grant?.agreements[0];
  const out: [string, string][] = [];
  if (a?.devices) out.push(['Devices', a.devices.join(', ')]);
  if (a?.where) out.push(['Records with', a.where.join(' and ')]);
  if (a?.fields) out.push(['Members', a.fields.split(',').join(', ')]);
  if (a?.every) out.push(['At most', `one record of each device in ${a.every}`]);
  if (a?.since) out.push(['Since', a.since === 'now' ? 'the approval' : /^\d+[smhd]$/.test(a.since) ? `the last ${a.since}` : new Date(a.since).toLocaleString()]);
  if (a?.connections) out.push(['Connections', `${a.connections} at once`]);
  if (grant?.expiresAt) out.push(['Until', new Date(grant.expiresAt).toLocaleString()]);
  return out;
}
