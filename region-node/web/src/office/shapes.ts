import type { Surge, SurgeCell, Zone } from '../api/types';
import { circle } from '../lib/geo';
import type { MapShape } from '../map/types';

/** From twice the price on a cell stands out as much as it can. */
const STRONGEST = 2;

/** What raises prices by less fades, and is not worth a place on the map. */
const NOTABLE = 1.05;

/** "1.5×" */
export const times = (multiplier: number): string => `${multiplier.toFixed(2).replace(/0$/, '')}×`;

export const waitingIn = (zone: Zone): string => (zone.waiting === null ? 'no queue' : `${zone.waiting} waiting`);

/** Zones as the map draws them, with how many wait there. */
export function zoneShapes(zones: readonly Zone[]): MapShape[] {
  return zones.map((zone) => ({
    id: zone.id,
    kind: 'zone',
    corners: zone.area.circle === undefined ? (zone.area.polygon ?? []) : circle(zone.area.circle.center, zone.area.circle.radius_m),
    label: `${zone.name === '' ? zone.id : zone.name}\n${waitingIn(zone)}`,
    weight: zone.waiting === null ? 0 : 0.25,
  }));
}

/** Where prices are notably raised, the most scarce first; nothing while they aren't. */
export function scarce(surge: Surge | null): SurgeCell[] {
  const raised = surge?.enabled === true ? surge.items.filter((cell) => cell.surge_multiplier >= NOTABLE) : [];
  return raised.sort((a, b) => b.surge_multiplier - a.surge_multiplier || b.demand - b.supply - (a.demand - a.supply));
}

/** Cells as the map draws them: each once, by the class of vehicle of which there are fewest. */
export function surgeShapes(cells: readonly SurgeCell[]): MapShape[] {
  const highest = new Map<string, SurgeCell>();
  for (const cell of cells) {
    const known = highest.get(cell.cell);
    if (known === undefined || known.surge_multiplier < cell.surge_multiplier) highest.set(cell.cell, cell);
  }
  return [...highest.values()].map((cell) => ({
    id: cell.cell,
    kind: 'surge',
    corners: cell.corners,
    label: times(cell.surge_multiplier),
    weight: Math.min(1, (cell.surge_multiplier - 1) / (STRONGEST - 1)),
  }));
}
