import { settlements as loadSettlements } from '../api/calls';
import type { Client } from '../api/client';
import { formatMoney } from '../lib/money';
import { usePages } from '../lib/pages';
import { formatTime } from '../lib/time';
import { Badge, Button, Empty, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';

/** The replicated ledger of this company, as this region knows it. */
export function SettlementsView({ client, tenant }: { client: Client; tenant: string }) {
  const pages = usePages(`settlements ${tenant}`, (after, signal) =>
    loadSettlements(client, { limit: 50, tenant, ...(after === undefined ? {} : { after }) }, signal),
  );
  return (
    <section className="stack" aria-labelledby="settlements">
      <div className="row-between">
        <div>
          <h1 id="settlements">Settlements</h1>
          <p className="muted small">Money that moved; every region holds the same list.</p>
        </div>
        <Button compact onClick={pages.reload}>
          Refresh
        </Button>
      </div>
      <ErrorNote error={pages.error} onRetry={pages.reload} />
      {pages.loading && pages.items.length === 0 && <Skeleton lines={6} />}
      {!pages.loading && pages.items.length === 0 && pages.error == null && (
        <div className="card">
          <Empty title="No settlements yet">The first paid trip appears here.</Empty>
        </div>
      )}
      {pages.items.length > 0 && (
        <div className="table-wrap">
          <table>
            <caption className="visually-hidden">Settlements</caption>
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
              {pages.items.map((fact) => (
                <tr key={fact.fact_id}>
                  <td>{formatTime(fact.settled_at)}</td>
                  <td>
                    <span className="row">
                      {fact.kind} {fact.late && <Badge tone="warn">late</Badge>}
                    </span>
                  </td>
                  <td className="num">{formatMoney({ amount: fact.kind === 'refund' ? -fact.amount : fact.amount, currency: fact.currency })}</td>
                  <td className="mono">…{fact.trip_id.slice(-8)}</td>
                  <td className="mono">…{fact.payment_id.slice(-8)}</td>
                  <td>{fact.origin_region}</td>
                  <td className="num">{fact.origin_seq}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {pages.hasMore && <Button onClick={pages.more}>Show more</Button>}
    </section>
  );
}
