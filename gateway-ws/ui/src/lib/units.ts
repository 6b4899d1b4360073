// Units, guessed from the names of readings: only endings and words that leave little doubt. No guess is better than a wrong one.

const ENDINGS: [RegExp, string][] = [
  [/(_|\b)(percent|pct)$/, '%'],
  [/(_|\b)(celsius|degc|deg_c)$/, '°C'],
  [/(_|\b)(hpa)$/, 'hPa'],
  [/(_|\b)(bytes)$/, 'B'],
  [/(_|\b)(ms|millis)$/, 'ms'],
  [/(_|\b)(seconds|secs)$/, 's'],
  [/(_|\b)(volts?|voltage)$/, 'V'],
  [/(_|\b)(amps?|amperes?)$/, 'A'],
  [/(_|\b)(watts?)$/, 'W'],
  [/(_|\b)(kmh|kph)$/, 'km/h'],
  [/(_|\b)(lux)$/, 'lx'],
  [/(_|\b)(ppm)$/, 'ppm'],
  [/(_|\b)(dbm|rssi)$/, 'dBm'],
  [/^(rel(ative)?_)?humidity$/, '%'],
  [/^(air_|water_|cpu_|soil_)?temp(erature)?$/, '°C'],
  [/^battery(_level)?$/, '%'],
];

/** The unit of a reading, or an empty text. */
export function unitOf(name: string): string {
  const last = (name.split('.').pop() ?? '').replace(/([a-z])([A-Z])/g, '$1_$2').toLowerCase();
  return ENDINGS.find(([ending]) => ending.test(last))?.[1] ?? '';
}
