import { useRef, useState } from 'react';
import type { Client } from '../api/client';
import { useLoad } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { formatTime } from '../lib/time';
import { Badge, Button, Empty, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { ShortId } from '../ui/short-id';
import { NOTHING_READ, readOn } from './ledger';

const EVERY_MS = 2000;
const SHOWN_AT_ONCE = 50;

/** The replicated ledger of this company as this region knows it, newest first and growing while one looks. */
export function SettlementsView({ client, tenant }: { client: Client; tenant: string }) {
  const read = useRef(NOTHING_READ);
  const { data, error, loading, reload } = useLoad(
    `ledger ${tenant}`,
    (signal) => readOn(client, tenant, read.current, signal),
    EVERY_MS,
    (ledger) => {
      read.current = ledger;
    },
  );
  const [most, setMost] = useState(SHOWN_AT_ONCE);
  const { newest, count } = data ?? NOTHING_READ;
  const shown = newest.slice(0, most);

  return (
    <section className="stack" aria-labelledby="settlements">
      <div className="row-between">
        <div>
          <h1 id="settlements">Settlements</h1>
          <p className="muted small">Money that moved; every region holds the same list. New ones appear by themselves.</p>
        </div>
        {data !== null && (
          <Badge>
            <span className="number">{count}</span> {count === 1 ? 'entry' : 'entries'}
          </Badge>
        )}
      </div>
      <ErrorNote error={error} onRetry={reload} />
      {loading && <Skeleton lines={6} />}
      {data !== null && count === 0 && (
        <div className="card">
          <Empty title="No settlements yet">The first paid trip appears here.</Empty>
        </div>
      )}
      {shown.length > 0 && (
        <div className="table-wrap">
          <table>
            <caption className="visually-hidden">Settlements, newest first</caption>
            <thead>
              <tr>
                <th scope="col">When</th>
                <th scope="col">Kind</th>
                <th scope="col" className="num">
                  Amount
                </th>
                <th scope="col">Trip</th>
                <th scope="col">Payment</th>
                <th scope="col">Origin</th>
                <th scope="col" className="num">
                  Number
                </th>
              </tr>
            </thead>
            <tbody>
              {shown.map((fact) => (
                <tr key={fact.fact_id}>
                  <td>{formatTime(fact.settled_at)}</td>
                  <td>
                    <span className="row">
                      {fact.kind} {fact.late && <Badge tone="warn">late</Badge>}
                    </span>
                  </td>
                  <td className="num">{formatMoney({ amount: fact.kind === 'refund' ? -fact.amount : fact.amount, currency: fact.currency })}</td>
                  <td>
                    <ShortId id={fact.trip_id} />
                  </td>
                  <td>
                    <ShortId id={fact.payment_id} />
                  </td>
                  <td>{fact.origin_region}</td>
                  <td className="num">{fact.origin_seq}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {most < newest.length && <Button onClick={() => setMost(most + SHOWN_AT_ONCE)}>Show older settlements</Button>}
      {most >= newest.length && count > newest.length && (
        <p className="muted small">
          These are the newest {newest.length}; the API hands out all of them.
        </p>
      )}
    </section>
  );
}
