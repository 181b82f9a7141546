import type { Point } from '../lib/geo';
import { CITIES } from '../map/cities';

/** A company offered in the list; any other can be typed. */
export interface KnownTenant {
  id: string;
  name: string;
  view?: { centre: Point; zoom: number };
}

const cityView = (id: string): { centre: Point; zoom: number } => {
  const city = CITIES.find((one) => one.id === id);
  if (city === undefined) throw new Error(`no city ${id}`);
  return { centre: city.centre, zoom: city.zoom };
};

// The companies every demo cluster has.
const DEMO: readonly KnownTenant[] = [
  { id: 'manhattan-cabs', name: 'Manhattan Cabs · New York', view: cityView('new-york') },
  { id: 'porto-taxis', name: 'Porto Taxis · Porto', view: cityView('porto') },
  { id: 'bengaluru-rides', name: 'Bengaluru Rides · Bengaluru', view: cityView('bengaluru') },
];

const KEY = 'gocomet.tenants';

function remembered(): string[] {
  try {
    const ids: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(ids) ? ids.filter((id) => typeof id === 'string') : [];
  } catch {
    return [];
  }
}

/** The demo companies and those used on this device before. */
export function knownTenants(): KnownTenant[] {
  const others = remembered().filter((id) => DEMO.every((tenant) => tenant.id !== id));
  return [...DEMO, ...others.map((id) => ({ id, name: id }))];
}

export function rememberTenant(id: string): void {
  const ids = [id, ...remembered().filter((one) => one !== id)].slice(0, 8);
  localStorage.setItem(KEY, JSON.stringify(ids));
}

export function lastTenant(): string {
  return remembered()[0] ?? '';
}

const WORLD = { centre: { lat: 20, lng: 10 }, zoom: 2 };

/** Where a tenant's map opens. */
export function viewOf(tenant: string | null): { centre: Point; zoom: number } {
  return DEMO.find((known) => known.id === tenant)?.view ?? WORLD;
}
