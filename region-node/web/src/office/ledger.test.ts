import { expect, it } from 'vitest';
import { Client } from '../api/client';
import type { Settlement } from '../api/types';
import { MOST_KEPT, NOTHING_READ, readOn, takeIn } from './ledger';

const fact = (number: number): Settlement => ({
  fact_id: `fact-${String(number).padStart(5, '0')}`,
  payment_id: 'p',
  trip_id: 't',
  tenant: 'cabs',
  kind: 'settlement',
  amount: number,
  currency: 'EUR',
  origin_region: 'eu-west',
  origin_seq: number,
  settled_at: new Date(Date.UTC(2026, 2, 1) + number * 1000).toISOString(),
  late: false,
});
const amounts = (facts: readonly Settlement[]): number[] => facts.map(({ amount }) => amount);

it('shows the newest first, also of what arrives late', () => {
  const before = takeIn(NOTHING_READ, [fact(1), fact(4)]);
  const after = takeIn(before, [fact(5), fact(2)]);
  expect(amounts(after.newest)).toEqual([5, 4, 2, 1]);
  expect(after).toMatchObject({ count: 4, last: fact(2).fact_id });
  expect(takeIn(after, [])).toBe(after);
});

it('keeps no more than it can show, and still counts all', () => {
  const many = Array.from({ length: MOST_KEPT + 20 }, (_, number) => fact(number));
  const ledger = takeIn(NOTHING_READ, many);
  expect(ledger.newest.length).toBe(MOST_KEPT);
  expect(ledger.newest[0]?.amount).toBe(MOST_KEPT + 19);
  expect(ledger.count).toBe(MOST_KEPT + 20);
});

it('reads to the end page by page, and later only what is new', async () => {
  const asked: (string | null)[] = [];
  const stored = [fact(1), fact(2), fact(3)];
  const client = new Client({
    tenant: () => 'cabs',
    fetch: (input) => {
      const after = new URL(input as string, 'http://node').searchParams.get('after');
      asked.push(after);
      const from = stored.findIndex(({ fact_id }) => fact_id === after) + 1;
      const more = stored.length > from + 2;
      return Promise.resolve(Response.json({ items: stored.slice(from, from + 2), next_cursor: more ? 'more' : null }));
    },
  });
  const { signal } = new AbortController();
  const ledger = await readOn(client, 'cabs', NOTHING_READ, signal);
  expect(amounts(ledger.newest)).toEqual([3, 2, 1]);
  stored.push(fact(4));
  expect(amounts((await readOn(client, 'cabs', ledger, signal)).newest)).toEqual([4, 3, 2, 1]);
  expect(asked).toEqual([null, fact(2).fact_id, fact(3).fact_id]);
});
