import { attendRefund, givenUp, retry, type Movement } from '../api/calls';
import type { Client } from '../api/client';
import type { GivenUp } from '../api/types';
import { formatMoney } from '../lib/money';
import { usePages } from '../lib/pages';
import { formatTime } from '../lib/time';
import { Button, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { ShortId } from '../ui/short-id';
import { RowAction } from './row-action';

/**
 * Payments and refunds nobody goes on with by itself: somebody looks at why, and has them tried again. Refunds that banks have sent back:
 * somebody finds another way, and says so.
 */
export function GivenUpMoney({ client, tenant }: { client: Client; tenant: string }) {
  return (
    <section className="stack" aria-labelledby="given-up">
      <div>
        <h2 id="given-up">Given up and sent back</h2>
        <p className="muted small">
          The payment service never said what became of what is given up. Trying again asks it first: nothing is charged or given back twice. A
          refund its bank has sent back is booked back, and the rider does not have the money: give it back another way, such as into the
          wallet.
        </p>
      </div>
      <GivenUpList client={client} tenant={tenant} what="payments" />
      <GivenUpList client={client} tenant={tenant} what="refunds" />
    </section>
  );
}

interface ListProps {
  client: Client;
  tenant: string;
  what: Movement;
}

function GivenUpList({ client, tenant, what }: ListProps) {
  const found = usePages(`given up ${what} ${tenant}`, (cursor, signal) => givenUp(client, what, cursor, signal));
  return (
    <>
      <ErrorNote error={found.error} onRetry={found.reload} />
      {found.loading && <Skeleton lines={2} />}
      {!found.loading && found.error === null && found.items.length === 0 && <p className="muted small">No {what} wait for anybody.</p>}
      {found.items.length > 0 && (
        <div className="table-wrap">
          <table>
            <caption className="visually-hidden">{what === 'payments' ? 'Given up payments' : 'Given up and sent back refunds'}, newest first</caption>
            <thead>
              <tr>
                <th scope="col">Begun</th>
                <th scope="col">{what === 'payments' ? 'Payment' : 'Refund'}</th>
                <th scope="col" className="num">
                  Amount
                </th>
                <th scope="col" className="num">
                  Attempts
                </th>
                <th scope="col">Why</th>
                <th scope="col">
                  <span className="visually-hidden">What to do</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {found.items.map((movement) =>
                movement.sent_back === true ? (
                  <SentBackRow key={movement.id} client={client} refund={movement} onAttended={found.reload} />
                ) : (
                  <GivenUpRow key={movement.id} client={client} what={what} movement={movement} onTried={found.reload} />
                ),
              )}
            </tbody>
          </table>
        </div>
      )}
      {found.hasMore && <Button onClick={found.more}>Show older {what}</Button>}
    </>
  );
}

interface RowProps {
  client: Client;
  what: Movement;
  movement: GivenUp;
  onTried: () => void;
}

function GivenUpRow({ client, what, movement, onTried }: RowProps) {
  return (
    <tr>
      <td>{formatTime(movement.created_at)}</td>
      <td>
        <ShortId id={movement.id} />
      </td>
      <td className="num">{formatMoney(movement.amount)}</td>
      <td className="num">{movement.attempts}</td>
      <td>
        {movement.last_error}
        {movement.retried_by != null && <p className="muted small">Tried again by {movement.retried_by}</p>}
      </td>
      <td>
        <RowAction about={[movement.id, movement.attempts]} run={(key) => retry(client, what, movement.id, key)} onDone={onTried}>
          Try again
        </RowAction>
      </td>
    </tr>
  );
}

function SentBackRow({ client, refund, onAttended }: { client: Client; refund: GivenUp; onAttended: () => void }) {
  return (
    <tr>
      <td>{formatTime(refund.created_at)}</td>
      <td>
        <ShortId id={refund.id} />
      </td>
      <td className="num">{formatMoney(refund.amount)}</td>
      <td className="num"></td>
      <td>
        Sent back by the bank: {refund.failure_code}
        {refund.payment_id !== undefined && (
          <p className="muted small">
            Of payment <ShortId id={refund.payment_id} />
          </p>
        )}
      </td>
      <td>
        <RowAction about={[refund.id]} run={(key) => attendRefund(client, refund.id, key)} onDone={onAttended}>
          Seen to
        </RowAction>
      </td>
    </tr>
  );
}
