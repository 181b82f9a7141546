import { settlements } from '../api/calls';
import type { Client } from '../api/client';
import type { Settlement } from '../api/types';

/** What this device holds of a company's settled money. */
export interface Ledger {
  /** The newest, newest first. */
  newest: readonly Settlement[];
  /** All there are, shown or not. */
  count: number;
  /** The last one read; the region hands out what came after it. */
  last: string | null;
}

export const NOTHING_READ: Ledger = { newest: [], count: 0, last: null };
export const MOST_KEPT = 500;
const A_PAGE = 1000;

/** Adds what arrived after `ledger.last`. Regions learn of facts in different orders, so time decides what is newer. */
export function takeIn(ledger: Ledger, arrived: readonly Settlement[]): Ledger {
  const last = arrived.at(-1);
  if (last === undefined) return ledger;
  const newest = [...ledger.newest, ...arrived]
    .sort((a, b) => Date.parse(b.settled_at) - Date.parse(a.settled_at) || b.fact_id.localeCompare(a.fact_id))
    .slice(0, MOST_KEPT);
  return { newest, count: ledger.count + arrived.length, last: last.fact_id };
}

/** Reads on from where `ledger` ends, to the end. */
export async function readOn(client: Client, tenant: string, ledger: Ledger, signal: AbortSignal): Promise<Ledger> {
  for (let known = ledger; ; ) {
    const page = await settlements(client, { limit: A_PAGE, tenant, ...(known.last === null ? {} : { after: known.last }) }, signal);
    known = takeIn(known, page.items);
    if (page.next_cursor === null) return known;
  }
}
