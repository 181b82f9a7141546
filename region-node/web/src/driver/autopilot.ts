import { distanceM, stepTowards, type Point } from '../lib/geo';

/**
 * How fast the car drives by itself, km/h. The region counts no leg of a trip that is faster than any taxi (216 km/h):
 * a fare must not grow by a leap of the receiver.
 */
export const SPEEDS = [
  { value: '40', label: 'City' },
  { value: '100', label: 'Fast' },
  { value: '200', label: 'Demo' },
] as const;

export type Speed = (typeof SPEEDS)[number]['value'];

/** Where the car is `elapsedMs` later on the straight line to `target`; null when it is there already. */
export function drive(from: Point, target: Point, speed: Speed, elapsedMs: number): Point | null {
  if (distanceM(from, target) < 1) return null;
  return stepTowards(from, target, (Number(speed) / 3.6) * (elapsedMs / 1000));
}
