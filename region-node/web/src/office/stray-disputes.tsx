import { attendDispute, strayDisputes } from '../api/calls';
import type { Client } from '../api/client';
import type { StrayDispute } from '../api/types';
import { formatMoney } from '../lib/money';
import { usePages } from '../lib/pages';
import { formatTime } from '../lib/time';
import { Badge, Button, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { ShortId } from '../ui/short-id';
import { RowAction } from './row-action';

/** What banks take back of charges whose payments are not here, so that nothing could be booked. */
export function StrayDisputes({ client, tenant }: { client: Client; tenant: string }) {
  const found = usePages(`stray disputes ${tenant}`, (cursor, signal) => strayDisputes(client, cursor, signal));
  return (
    <section className="stack" aria-labelledby="stray-disputes">
      <div>
        <h2 id="stray-disputes">Disputes without a payment here</h2>
        <p className="muted small">
          Their payments are gone with an old home or an old backup, so nothing is booked of them. Answer the bank at the payment service.
        </p>
      </div>
      <ErrorNote error={found.error} onRetry={found.reload} />
      {found.loading && <Skeleton lines={1} />}
      {!found.loading && found.error === null && found.items.length === 0 && <p className="muted small">No disputes wait for anybody.</p>}
      {found.items.length > 0 && (
        <div className="table-wrap">
          <table>
            <caption className="visually-hidden">Disputes without a payment here, newest first</caption>
            <thead>
              <tr>
                <th scope="col">Opened</th>
                <th scope="col">Payment</th>
                <th scope="col" className="num">
                  Amount
                </th>
                <th scope="col">Status</th>
                <th scope="col">There</th>
                <th scope="col">
                  <span className="visually-hidden">What to do</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {found.items.map((dispute) => (
                <Row key={dispute.id} client={client} dispute={dispute} onAttended={found.reload} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {found.hasMore && <Button onClick={found.more}>Show older disputes</Button>}
    </section>
  );
}

function Row({ client, dispute, onAttended }: { client: Client; dispute: StrayDispute; onAttended: () => void }) {
  return (
    <tr>
      <td>{formatTime(dispute.opened_at)}</td>
      <td>
        <ShortId id={dispute.payment_id} />
      </td>
      <td className="num">{formatMoney(dispute.amount)}</td>
      <td>
        <Badge tone={dispute.status === 'won' ? 'good' : 'bad'}>{dispute.status}</Badge>
      </td>
      <td>
        <span className="mono">{dispute.provider_ref}</span>
        <p className="muted small">
          Charge <span className="mono">{dispute.charge_ref}</span>, {dispute.provider}
        </p>
      </td>
      <td>
        <RowAction about={[dispute.id, dispute.status]} run={(key) => attendDispute(client, dispute.id, key)} onDone={onAttended}>
          Seen to
        </RowAction>
      </td>
    </tr>
  );
}
