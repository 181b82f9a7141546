import { expect, it } from 'vitest';
import type { Position } from '../api/calls';
import { Unsent } from './unsent';

const START = Date.parse('2026-03-01T12:00:00.000Z');
const at = (second: number): Position => ({ lat: 41.1466, lng: -8.6148, recorded_at: new Date(START + second * 1000).toISOString() });
const seconds = (from: number, to: number): Position[] => Array.from({ length: to - from }, (_, index) => at(from + index));

it('what was not acknowledged goes with the next position, oldest first, a hundred at once', () => {
  const unsent = new Unsent();
  expect(unsent.withOldest(at(0))).toEqual([at(0)]);
  unsent.keep([at(1)]);
  unsent.keep([at(0), at(1)]);
  unsent.keep(seconds(2, 150));
  const first = unsent.withOldest(at(150));
  expect(first).toEqual([...seconds(0, 99), at(150)]);
  unsent.keep(first);
  expect(unsent.withOldest(at(151))).toEqual([...seconds(0, 99), at(151)]);
  expect(unsent.withOldest(at(152))).toEqual([...seconds(99, 151), at(152)]);
  expect(unsent.isEmpty).toBe(true);
});

it('a trip without a connection for hours keeps a coarser trace, from its beginning to its end', () => {
  const unsent = new Unsent();
  for (let second = 0; second < 10_000; second++) unsent.keep([at(second)]);
  const kept: Position[] = [];
  while (!unsent.isEmpty) kept.push(...unsent.withOldest(at(10_000)).slice(0, -1));
  expect(kept.length).toBeGreaterThan(1800);
  expect(kept.length).toBeLessThanOrEqual(3600);
  expect(Date.parse(kept[0]?.recorded_at ?? '')).toBeLessThan(START + 8000);
  expect(kept.at(-1)).toEqual(at(9999));
});
