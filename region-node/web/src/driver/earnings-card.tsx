import { driverBalance, payouts as loadPayouts } from '../api/calls';
import { clientOf } from '../api/session';
import { useLoad } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { formatTime } from '../lib/time';
import { Badge } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { StatementDownload } from '../ui/statement-download';

const EVERY_MS = 10_000;
const PAYOUTS = 3;

/** What the driver has coming and was paid lately; read again when the trip (`trip`: which, and how far it is) changes. */
export function EarningsCard({ driver, trip }: { driver: string; trip: string }) {
  const client = clientOf('driver');
  const balance = useLoad(`balance ${driver} ${trip}`, (signal) => driverBalance(client, driver, signal), EVERY_MS);
  const paid = useLoad(`payouts ${driver}`, (signal) => loadPayouts(client, { limit: PAYOUTS }, signal), EVERY_MS);
  const balances = balance.data?.balances ?? [];
  const payouts = paid.data?.items ?? [];

  return (
    <section className="card stack" aria-labelledby="earnings" data-testid="earnings">
      <h2 id="earnings">Earnings</h2>
      {balance.data !== null && balances.length === 0 && <p className="small muted">What you earn appears here once a trip is paid.</p>}
      {balances.map(({ balance, held }) => (
        <div key={balance.currency} className="stack-s">
          <div className="row-between">
            <span>{balance.amount < 0 ? 'You owe' : 'Your balance'}</span>
            <strong className="number" data-testid="balance">
              {formatMoney({ ...balance, amount: Math.abs(balance.amount) })}
            </strong>
          </div>
          {balance.amount < 0 && <p className="small muted">Commission and tax of trips paid in cash; your next card trips settle it.</p>}
          {held.amount > 0 && <p className="small muted">{formatMoney(held)} are paid out once a second region has stored their settlements.</p>}
        </div>
      ))}
      {payouts.length > 0 && (
        <ul className="stack-s" aria-label="Latest payouts">
          {payouts.map((payout) => (
            <li key={payout.payout_id} className="row-between small">
              <span>
                {formatTime(payout.created_at)} <Badge tone="good">paid out</Badge>
              </span>
              <span className="number">{formatMoney(payout.amount)}</span>
            </li>
          ))}
        </ul>
      )}
      {balances.length > 0 && <StatementDownload client={client} driver={driver} />}
      <ErrorNote error={balance.error ?? paid.error} onRetry={balance.reload} />
    </section>
  );
}
