// How much is kept, in words and in fields, and the records that an erasure is about.
import type { Erasure, ErasureWish, KeptRecords, WantedRetention } from '@motience/client';
import { clock, count } from './format.ts';

const AGES: Record<string, number> = { minutes: 60, hours: 3_600, days: 86_400 };
const SIZES: Record<string, number> = { KiB: 1 << 10, MiB: 1 << 20, GiB: 1 << 30 };
export const AGE_UNITS = Object.keys(AGES);
export const SIZE_UNITS = Object.keys(SIZES);

/** A bound as a form has it; an empty amount: as the platform has it. */
export interface BoundText {
  amount: string;
  unit: string;
}

/** Seconds or bytes in the largest unit in which they are whole. */
export function textOf(value: number | null | undefined, kind: 'age' | 'size'): BoundText {
  const units = Object.entries(kind === 'age' ? AGES : SIZES).reverse();
  if (value === null || value === undefined) return { amount: '', unit: kind === 'age' ? 'days' : 'MiB' };
  const [unit, size] = units.find(([, size]) => value % size === 0) ?? [kind === 'age' ? 'minutes' : 'KiB', kind === 'age' ? 60 : 1 << 10];
  return { amount: String(value / size), unit };
}

/** A bound in words: `6 hours`, `64 MiB`. */
export function said(value: number | null, kind: 'age' | 'size'): string {
  if (value === null) return 'for ever';
  const { amount, unit } = textOf(value, kind);
  return `${Number(Number(amount).toFixed(1))} ${kind === 'age' && amount === '1' ? unit.slice(0, -1) : unit}`;
}

/** The number that a form says; null: none. `undefined`: it is no number. */
export function valueOf({ amount, unit }: BoundText, kind: 'age' | 'size'): number | null | undefined {
  if (amount.trim() === '') return null;
  const value = Number(amount.replace(',', '.')) * ((kind === 'age' ? AGES : SIZES)[unit] ?? Number.NaN);
  return Number.isFinite(value) && value > 0 ? Math.round(value) : undefined;
}

/** A class of devices as a form has it. */
export interface ClassText {
  label: string;
  value: string;
  age: BoundText;
}

type Class = NonNullable<WantedRetention['classes']>[number];

export const classText = ({ label, value, history_age_seconds: age }: Class): ClassText => ({ label, value, age: textOf(age, 'age') });

/** The classes that a form says; a sentence: what is missing. */
export function classesOf(texts: ClassText[]): Class[] | string {
  const classes: Class[] = [];
  for (const { label, value, age } of texts) {
    if (label.trim() === '') return 'A class needs the name of a label.';
    const seconds = valueOf(age, 'age');
    if (!seconds) return `The class “${label.trim()}=${value.trim()}” needs a time.`;
    if (classes.some((other) => other.label === label.trim() && other.value === value.trim())) return `The class “${label.trim()}=${value.trim()}” is there twice.`;
    classes.push({ label: label.trim(), value: value.trim(), history_age_seconds: seconds });
  }
  return classes;
}

/** Whether less is kept than now, so that records go. Without a limit of its own a producer keeps as much as the platform, or more than now. */
export function isLess(wanted: WantedRetention, kept: KeptRecords): boolean {
  const smaller = (next: number | null | undefined, now: number | null) => next !== null && next !== undefined && (now === null || next < now);
  const now = ({ label, value }: Class) => kept.own.classes?.find((own) => own.label === label && own.value === value)?.history_age_seconds ?? kept.history_age_seconds;
  return (
    smaller(wanted.log_age_seconds, kept.log_age_seconds) ||
    smaller(wanted.log_bytes, kept.log_bytes) ||
    smaller(wanted.history_age_seconds, kept.history_age_seconds) ||
    (wanted.classes ?? []).some((one) => smaller(one.history_age_seconds, now(one)))
  );
}

/** The bound that removes the oldest record first, and when. */
export function firstCut({ first_cut: cut, log_age_seconds: age, log_bytes: size }: KeptRecords): string {
  if (!cut) return 'The log has no records.';
  const when = soon(cut.seconds);
  return cut.bound === 'age' ? `The oldest record of the log goes ${when}, as it is ${said(age, 'age')} old then.` : `The oldest record of the log goes ${when}, as the log has ${said(size, 'size')} then.`;
}

/** Likewise of the history. */
export function historyCut({ history_cut: cut, history_age_seconds: age, history_rows: rows }: KeptRecords): string {
  if (!cut) return age === null && rows === null ? 'Rows stay in the history for ever.' : 'The history has no rows.';
  const when = soon(cut.seconds);
  return cut.bound === 'age' ? `The oldest row of the history goes ${when}, as it is ${said(age, 'age')} old then.` : `The oldest row of the history goes ${when}, as there are ${count(rows ?? 0)} rows then.`;
}

/** A time to come, from now. */
export const soon = (seconds: number) => (seconds < 60 ? 'within a minute' : `in ${clock(seconds * 1000)}`);

/** The fields of an erasure. */
export interface ErasureText {
  device: string;
  from: string;
  to: string;
  first: string;
  last: string;
}

/** The records to be erased; a sentence: why that cannot be asked for. */
export function wishOf(text: ErasureText): ErasureWish | string {
  const wish: ErasureWish = {};
  if (text.device.trim()) wish.device_id = text.device.trim();
  for (const name of ['from', 'to'] as const) {
    if (text[name] === '') continue;
    const at = new Date(text[name]);
    if (Number.isNaN(at.getTime())) return 'A time is not complete.';
    wish[name] = at.toISOString();
  }
  for (const name of ['first', 'last'] as const) {
    if (text[name].trim() === '') continue;
    const offset = Number(text[name]);
    if (!Number.isSafeInteger(offset) || offset < 1) return 'An offset is a whole number from 1 on.';
    wish[name] = offset;
  }
  if (Object.keys(wish).length === 0) return 'Say which records: a device, a time, or offsets.';
  if (wish.from && wish.to && String(wish.from) > String(wish.to)) return 'The end must lie after the beginning.';
  if (wish.first && wish.last && wish.first > wish.last) return 'The last offset is before the first.';
  return wish;
}

/** The records of an erasure in words. */
export function recordsOf({ device_id: device, from, to, first, last }: Partial<Pick<Erasure, 'device_id' | 'from' | 'to' | 'first' | 'last'>>): string {
  const time = (text: unknown) => new Date(String(text)).toLocaleString();
  const parts = [device ? `of ${device}` : 'of all devices'];
  if (from && to) parts.push(`from ${time(from)} to ${time(to)}`);
  else if (from) parts.push(`from ${time(from)} on`);
  else if (to) parts.push(`up to ${time(to)}`);
  if (first && last) parts.push(`with offsets ${first} to ${last}`);
  else if (first) parts.push(`with offset ${first} and later ones`);
  else if (last) parts.push(`up to offset ${last}`);
  return parts.join(', ');
}
