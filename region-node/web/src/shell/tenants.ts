import { route } from '../api/calls';
import { Client } from '../api/client';
import { anonymous } from '../api/session';
import type { Route } from '../api/types';
import type { View } from '../map/types';

/** A company offered in the list; any other can be typed. */
export interface KnownTenant {
  id: string;
  name: string;
}

/** What a company tells everybody of itself. */
export interface Tenant extends KnownTenant {
  homeRegion: string;
  /** Where its map opens; null until it says so. */
  view: View | null;
  vehicleClasses: readonly string[];
}

// The companies every demo cluster has.
const DEMO: readonly KnownTenant[] = [
  { id: 'manhattan-cabs', name: 'Manhattan Cabs · New York' },
  { id: 'porto-taxis', name: 'Porto Táxis · Porto' },
  { id: 'bengaluru-rides', name: 'Bengaluru Rides · Bengaluru' },
];

const KEY = 'gocomet.tenants';
const MOST_REMEMBERED = 8;

const isKnown = (value: unknown): value is KnownTenant =>
  typeof value === 'object' && value !== null && 'id' in value && 'name' in value && typeof value.id === 'string' && typeof value.name === 'string';

function remembered(): KnownTenant[] {
  try {
    const tenants: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(tenants) ? tenants.filter(isKnown) : [];
  } catch {
    return [];
  }
}

/** The demo companies and those used on this device before. */
export function knownTenants(): KnownTenant[] {
  return [...DEMO, ...remembered().filter(({ id }) => DEMO.every((demo) => demo.id !== id))];
}

export function rememberTenant(id: string, name: string): void {
  const tenants = [{ id, name }, ...remembered().filter((one) => one.id !== id)].slice(0, MOST_REMEMBERED);
  localStorage.setItem(KEY, JSON.stringify(tenants));
}

/** The company used last on this device. */
export function lastTenant(): string | null {
  return remembered()[0]?.id ?? null;
}

export function tenantOf({ tenant, home_region, name, map, vehicle_classes }: Route): Tenant {
  return {
    id: tenant,
    name,
    homeRegion: home_region,
    view: map === undefined ? null : { centre: { lat: map.lat, lng: map.lng }, zoom: map.zoom },
    // What every company has unless it says otherwise.
    vehicleClasses: vehicle_classes ?? ['standard'],
  };
}

export async function loadTenant(id: string, signal: AbortSignal): Promise<Tenant> {
  return tenantOf(await route(anonymous(id), signal));
}

/** The demo company at home in the region that answers, else any there is. */
export async function localTenant(signal: AbortSignal): Promise<string | null> {
  let region: string | null = null;
  const routes = await Promise.all(
    DEMO.map(async ({ id }) => {
      const client = new Client({ tenant: () => id, onServedBy: ({ edge }) => (region = edge) });
      return route(client, signal).catch(() => null);
    }),
  );
  return atHomeIn(region, routes.filter((one) => one !== null));
}

export function atHomeIn(region: string | null, routes: readonly Route[]): string | null {
  const here = routes.find((one) => one.home_region === region) ?? routes[0];
  return here?.tenant ?? null;
}
