import { distanceM, type Point } from '../lib/geo';

/** A city whose streets this app carries. */
export interface City {
  id: 'new-york' | 'porto' | 'bengaluru';
  name: string;
  centre: Point;
  /** Water lies under everything, so that areas are the land; elsewhere the ground is land. */
  ground: 'water' | 'land';
  roads: string;
  areas?: string;
  background?: string;
  traces?: string;
  places: string;
  /** Whose data the map shows, and what of it is made up. */
  attribution: string;
}

const OSM = '© <a href="https://www.openstreetmap.org/copyright" target="_blank" rel="noopener">OpenStreetMap contributors</a>';

export const CITIES: readonly City[] = [
  {
    id: 'new-york',
    name: 'New York',
    centre: { lat: 40.7549, lng: -73.984 },
    ground: 'water',
    roads: '/maps/new-york/roads.geojson',
    areas: '/maps/new-york/areas.geojson',
    places: '/maps/new-york/places.json',
    attribution: `${OSM} · NYC TLC`,
  },
  {
    id: 'porto',
    name: 'Porto',
    centre: { lat: 41.1466, lng: -8.611 },
    ground: 'land',
    roads: '/maps/porto/roads.geojson',
    background: '/maps/porto/background.geojson',
    traces: '/maps/porto/traces.json',
    places: '/maps/porto/places.json',
    attribution: `${OSM} · ECML/PKDD 2015, CC BY 4.0`,
  },
  {
    id: 'bengaluru',
    name: 'Bengaluru',
    centre: { lat: 12.9655, lng: 77.5868 },
    ground: 'land',
    roads: '/maps/bengaluru/roads.geojson',
    areas: '/maps/bengaluru/areas.geojson',
    places: '/maps/bengaluru/places.json',
    attribution: `${OSM} · DataMeet, CC BY-SA 2.5 IN · Demo rides are synthetic`,
  },
];

const NEAR_M = 80_000;

/** The city a point lies in or near, if we carry its streets. */
export function cityAt(point: Point): City | null {
  let best: City | null = null;
  let bestM = NEAR_M;
  for (const city of CITIES) {
    const away = distanceM(city.centre, point);
    if (away < bestM) {
      best = city;
      bestM = away;
    }
  }
  return best;
}
