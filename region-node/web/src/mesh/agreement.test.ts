import { expect, it } from 'vitest';
import type { RegionView } from '../api/types';
import { agreement, furthest, known } from './agreement';

function region(name: string, digest: string | null, ledger = 0): RegionView {
  return {
    name,
    base_url: '',
    state: 'active',
    health: { ready: true, postgres: true, redis: true, sync: digest !== null },
    sync: digest === null ? null : { region: name, leader: true, digest, peers: [], version_vector: { 'us-east/1': { control: 1, config: 2, ledger } } },
  };
}

it('compares only the regions that answer', () => {
  expect(agreement([region('a', 'x'), region('b', 'x'), region('c', null)])).toEqual({ asked: 2, equal: true });
  expect(agreement([region('a', 'x'), region('b', 'y')])).toEqual({ asked: 2, equal: false });
});

it('finds who has come furthest', () => {
  const regions = [region('a', 'x', 5), region('b', 'y', 9)];
  expect(furthest(regions).get('us-east/1')).toBe(12);
  expect(known(regions[0]?.sync?.version_vector ?? {}, 'us-east/1')).toBe(8);
});
