// Where devices are, by readings that are coordinates.
import type { Track } from './series.ts';

export interface Place {
  device: string;
  latitude: number;
  longitude: number;
  /** Where it was before, oldest first: longitudes and latitudes. */
  trail: [number, number][];
}

/** Points of a trail, at most. */
const TRAIL = 300;
const LATITUDE = /(^|[._])(lat|latitude)$/i;
const LONGITUDE = /(^|[._])(lon|lng|long|longitude)$/i;

/** The names of a device's coordinates: two readings beside each other. */
export function coordinatesOf(names: readonly string[]): [latitude: string, longitude: string] | null {
  const folder = (name: string) => name.slice(0, name.lastIndexOf('.') + 1);
  for (const latitude of names.filter((name) => LATITUDE.test(name))) {
    const longitude = names.find((name) => LONGITUDE.test(name) && folder(name) === folder(latitude));
    if (longitude) return [latitude, longitude];
  }
  return null;
}

/** Where a device is, and was since `from` (seconds); null: it does not say. */
export function placeOf(track: Track, from: number): Place | null {
  const names = coordinatesOf(track.names);
  if (!names) return null;
  const [latitudes, longitudes] = [track.points(names[0], from)[1], track.points(names[1], from)[1]];
  const all: [number, number][] = [];
  for (let i = 0; i < latitudes.length; i++) {
    const [latitude, longitude] = [latitudes[i], longitudes[i]];
    if (typeof latitude !== 'number' || typeof longitude !== 'number' || Math.abs(latitude) > 90 || Math.abs(longitude) > 180) continue;
    const last = all.at(-1);
    if (!last || last[0] !== longitude || last[1] !== latitude) all.push([longitude, latitude]);
  }
  const last = all.at(-1);
  if (!last) return null;
  const step = Math.max(1, Math.ceil(all.length / TRAIL));
  return { device: track.device, longitude: last[0], latitude: last[1], trail: all.filter((_, i) => i % step === 0 || i === all.length - 1) };
}
