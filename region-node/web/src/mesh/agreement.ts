import type { RegionView, VersionVector } from '../api/types';

/** Whether the regions that could be asked hold the same facts. */
export function agreement(regions: readonly RegionView[]): { asked: number; equal: boolean } {
  const digests = regions.flatMap((region) => (region.sync === null ? [] : [region.sync.digest]));
  return { asked: digests.length, equal: new Set(digests).size <= 1 };
}

/** Every origin any region knows, and how far the furthest has come in all streams together. */
export function furthest(regions: readonly RegionView[]): Map<string, number> {
  const most = new Map<string, number>();
  for (const region of regions) {
    for (const origin of Object.keys(region.sync?.version_vector ?? {})) {
      const has = known(region.sync?.version_vector ?? {}, origin);
      most.set(origin, Math.max(has, most.get(origin) ?? 0));
    }
  }
  return new Map([...most].sort(([a], [b]) => a.localeCompare(b)));
}

/** Entries of one origin in a vector, all streams together. */
export function known(vector: VersionVector, origin: string): number {
  const streams = vector[origin];
  return streams === undefined ? 0 : streams.control + streams.config + streams.ledger;
}
