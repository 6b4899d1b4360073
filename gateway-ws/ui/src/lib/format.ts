// Numbers, sizes and times as people read them.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

export function count(n: number): string {
  return whole.format(n);
}

export function rate(n: number): string {
  return n > 0 && n < 10 ? n.toFixed(1) : whole.format(n);
}

export function bytes(n: number): string {
  if (n < 1000) return `${n} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let value = n;
  let unit = -1;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value < 10 ? value.toFixed(1) : whole.format(value)} ${units[unit] ?? 'B'}`;
}

/** A time span in milliseconds, short: `0.4 ms`, `12 ms`, `1.2 s`, `3 min 20 s`, `2 h 5 min`, `664 d`. */
export function span(ms: number | null): string {
  if (ms === null) return '–';
  const sign = ms < 0 ? '−' : '';
  const n = Math.abs(ms);
  if (n > 0 && n < 0.1) return `${sign}< 0.1 ms`;
  if (n < 10) return `${sign}${n.toFixed(1)} ms`;
  if (n < 1000) return `${sign}${Math.round(n)} ms`;
  if (n < 10_000) return `${sign}${(n / 1000).toFixed(1)} s`;
  return sign + clock(n);
}

/** A duration in whole seconds and up. */
export function clock(ms: number): string {
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${whole.format(Math.floor(s / 86_400))} d`;
}

/** `14:03:07.250` in local time. */
export function timeOfDay(ms: number): string {
  const d = new Date(ms);
  const two = (n: number) => String(n).padStart(2, '0');
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, '0')}`;
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** A label of a time axis whose labels are `step` seconds apart, in local time: seconds only where they tell something, the day where it begins. */
export function timeTick(seconds: number, step: number): string {
  const d = new Date(seconds * 1000);
  const two = (n: number) => String(n).padStart(2, '0');
  if (step >= 86_400 || (step >= 60 && d.getHours() === 0 && d.getMinutes() === 0)) return `${MONTHS[d.getMonth()]} ${d.getDate()}`;
  const time = `${two(d.getHours())}:${two(d.getMinutes())}`;
  return step >= 60 ? time : `${time}:${two(d.getSeconds())}`;
}

/** A time under the cursor of a chart: milliseconds where little is shown, the day where much is. */
export function timeUnder(seconds: number, shown: number): string {
  const d = new Date(seconds * 1000);
  const time = timeOfDay(d.getTime());
  const far = shown > 43_200 || d.toDateString() !== new Date().toDateString();
  return `${far ? `${MONTHS[d.getMonth()]} ${d.getDate()}, ` : ''}${shown <= 10 ? time : time.slice(0, shown > 43_200 ? 5 : 8)}`;
}

/** A length of time as short as it can be said: `5m`, `1h`, `1d`, `2m 30s`. */
export function short(seconds: number): string {
  const units: [number, string][] = [[86_400, 'd'], [3600, 'h'], [60, 'm'], [1, 's']];
  let left = Math.max(1, Math.round(seconds));
  const parts: string[] = [];
  for (const [length, unit] of units) {
    const n = Math.floor(left / length);
    left -= n * length;
    if (n > 0) parts.push(`${n}${unit}`);
  }
  return parts.slice(0, 2).join(' ');
}

const LARGE: [number, string][] = [[1e12, ' T'], [1e9, ' G'], [1e6, ' M']];

/** A label of an axis whose labels are `step` apart. */
export function tick(value: number, step: number): string {
  const [unit, suffix] = LARGE.find(([size]) => Math.abs(value) >= size) ?? [1, ''];
  const size = step / unit;
  let digits = Math.min(8, Math.max(0, -Math.floor(Math.log10(size) + 1e-9)));
  // Steps of 0.25 have a digit more than steps of 0.2.
  if (digits < 8 && Math.abs(size * 10 ** digits - Math.round(size * 10 ** digits)) > 1e-6) digits++;
  return `${(value / unit).toFixed(digits)}${suffix}`;
}

/** A reading and its unit, which takes the prefix of a large number: `79.4` and `GB`, `1.5 M` without a unit. */
export function measure(value: number, unit: string): [string, string] {
  const [digits, prefix] = reading(value).split(' ');
  if (!prefix) return [reading(value), unit];
  return unit ? [digits ?? '', prefix + unit] : [reading(value), ''];
}

/** A reading with the digits that matter. */
export function reading(value: number): string {
  const large = LARGE.find(([size]) => Math.abs(value) >= size);
  if (large) return `${Number((value / large[0]).toPrecision(5))}${large[1]}`;
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(1) : size >= 1 ? value.toFixed(2) : value.toPrecision(3);
}
