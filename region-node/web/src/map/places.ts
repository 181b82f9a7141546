import { distanceM, type Point } from '../lib/geo';
import type { City } from './cities';

/** A named point people can choose without a map. */
export interface NamedPlace extends Point {
  name: string;
}

const loaded = new Map<string, Promise<NamedPlace[]>>();

/** The named places of a city; loaded once. */
export function placesOf(city: City): Promise<NamedPlace[]> {
  let places = loaded.get(city.id);
  if (places === undefined) {
    places = load(city.places);
    places.catch(() => loaded.delete(city.id));
    loaded.set(city.id, places);
  }
  return places;
}

async function load(url: string): Promise<NamedPlace[]> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`places: HTTP ${response.status}`);
  const rows = (await response.json()) as [string, number, number][];
  return rows.map(([name, lat, lng]) => ({ name, lat, lng }));
}

/** "Alameda" at the spot, "near Alameda" around it, nothing when all names are too far away to help. */
export function describe(point: Point, places: readonly NamedPlace[]): string | null {
  let best: NamedPlace | null = null;
  let bestM = Infinity;
  for (const place of places) {
    const away = distanceM(place, point);
    if (away < bestM) {
      best = place;
      bestM = away;
    }
  }
  if (best === null || bestM > 3000) return null;
  return bestM < 60 ? best.name : `near ${best.name}`;
}

const fold = (text: string): string =>
  text
    .normalize('NFD')
    .replace(/\p{Diacritic}/gu, '')
    .toLowerCase();

/** Places whose name holds every word typed; names that begin with it first. */
export function search(text: string, places: readonly NamedPlace[], limit = 8): NamedPlace[] {
  const words = fold(text).split(/\s+/).filter(Boolean);
  if (words.length === 0) return places.slice(0, limit);
  const found = places.filter((place) => {
    const name = fold(place.name);
    return words.every((word) => name.includes(word));
  });
  const begins = (place: NamedPlace): number => (fold(place.name).startsWith(words[0] ?? '') ? 0 : 1);
  return found.sort((a, b) => begins(a) - begins(b) || a.name.localeCompare(b.name)).slice(0, limit);
}
