import { expect, it } from 'vitest';
import type { SurgeCell } from '../api/types';
import { scarce, surgeShapes, times, zoneShapes } from './shapes';

const HERE = { lat: 41.15, lng: -8.61 };

function cell(name: string, vehicle_class: string, surge_multiplier: number): SurgeCell {
  return { ...HERE, cell: name, corners: [HERE, HERE, HERE], vehicle_class, demand: 3, supply: 1, surge_multiplier };
}

it('draws round zones and cornered ones, and says how many wait', () => {
  const [round, cornered] = zoneShapes([
    { id: 'rank', name: 'Airport', area: { circle: { center: HERE, radius_m: 500 } }, waiting: 3 },
    { id: 'shore', name: '', area: { polygon: [HERE, HERE, HERE] }, waiting: null },
  ]);
  expect(round?.corners.length).toBeGreaterThan(20);
  expect(round?.label).toBe('Airport\n3 waiting');
  expect(cornered?.corners).toEqual([HERE, HERE, HERE]);
  expect(cornered?.label).toBe('shore\nno queue');
});

it('shows where prices are raised, by the class that is scarcest, and nothing while surge is off', () => {
  const items = [cell('a', 'standard', 1.25), cell('b', 'standard', 1.01), cell('a', 'xl', 1.5), cell('c', 'standard', 3)];
  const surge = { enabled: true, computed_at: null, items };
  expect(scarce(surge).map((one) => one.surge_multiplier)).toEqual([3, 1.5, 1.25]);
  expect(surgeShapes(scarce(surge)).map(({ id, label, weight }) => [id, label, weight])).toEqual([
    ['c', '3.0×', 1],
    ['a', '1.5×', 0.5],
  ]);
  expect(scarce({ ...surge, enabled: false })).toEqual([]);
  expect(scarce(null)).toEqual([]);
});

it('writes multipliers short and exact', () => {
  expect([1, 1.25, 1.5].map(times)).toEqual(['1.0×', '1.25×', '1.5×']);
});
