import { rollup as loadRollup } from '../api/calls';
import type { Client } from '../api/client';
import { useLoad } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';

const EVERY_MS = 10_000;

/** What riders paid, day by day, of facts every region holds: the same in all of them. */
export function RollupTable({ client, tenant }: { client: Client; tenant: string }) {
  const { data, error, loading, reload } = useLoad(`rollup ${tenant}`, (signal) => loadRollup(client, signal), EVERY_MS);
  const days = data?.items.toReversed() ?? [];
  return (
    <section className="stack" aria-labelledby="rollup">
      <div>
        <h2 id="rollup">By day</h2>
        <p className="muted small">The last 30 days (UTC) by when money was asked for, from the settlements every region holds.</p>
      </div>
      <ErrorNote error={error} onRetry={reload} />
      {loading && <Skeleton lines={4} />}
      {data !== null && days.length === 0 && <p className="muted small">No money moved on these days.</p>}
      {days.length > 0 && (
        <div className="table-wrap">
          <table>
            <caption className="visually-hidden">Settlements by day, newest first</caption>
            <thead>
              <tr>
                <th scope="col">Day</th>
                <th scope="col" className="num">
                  Payments
                </th>
                <th scope="col" className="num">
                  Gross
                </th>
                <th scope="col" className="num">
                  Refunded
                </th>
                <th scope="col" className="num">
                  Adjusted
                </th>
                <th scope="col" className="num">
                  Net
                </th>
              </tr>
            </thead>
            <tbody>
              {days.map((day) => (
                <tr key={`${day.day} ${day.gross.currency}`}>
                  <td>{day.day}</td>
                  <td className="num">{day.count}</td>
                  <td className="num">{formatMoney(day.gross)}</td>
                  <td className="num">
                    {day.refund_count > 0 && `${formatMoney(day.refunds)} (${day.refund_count})`}
                  </td>
                  <td className="num">{day.adjustments.amount !== 0 && formatMoney(day.adjustments)}</td>
                  <td className="num">{formatMoney(day.net)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}
