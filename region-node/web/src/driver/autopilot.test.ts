import { expect, it } from 'vitest';
import { distanceM } from '../lib/geo';
import { drive, SPEEDS } from './autopilot';

/** What the region believes of a car; faster legs count nothing towards the fare. */
const BELIEVED_M_PER_S = 60;
const PICKUP = { lat: 41.1466, lng: -8.6148 };
const DROPOFF = { lat: 41.1496, lng: -8.5855 };

it.each(SPEEDS)('every leg at $value km/h counts, however late a tick comes', ({ value }) => {
  let here = PICKUP;
  let driven = 0;
  const ticks = [1000, 1040, 960, 2500];
  for (let tick = 0; tick < 500; tick++) {
    const elapsedMs = ticks[tick % ticks.length] ?? 1000;
    const next = drive(here, DROPOFF, value, elapsedMs);
    if (next === null) break;
    const leg = distanceM(here, next);
    expect(leg).toBeLessThanOrEqual((BELIEVED_M_PER_S * elapsedMs) / 1000);
    driven += leg;
    here = next;
  }
  expect(here).toEqual(DROPOFF);
  expect(driven).toBeCloseTo(distanceM(PICKUP, DROPOFF), 0);
});
