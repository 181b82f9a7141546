import { useEffect } from 'react';
import { receipt } from '../api/calls';
import { clientOf } from '../api/session';
import { useLoad } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { ErrorNote } from '../ui/error-note';
import { PaymentBadge } from '../ui/ride-badge';
import { nameOf, notesOn, partsOf } from './receipt-parts';

interface PaidPartsProps {
  tripId: string;
  /** Changes with each news of a payment. */
  news: string;
}

/** Each of a trip's payments, where the rider pays more than one: his part, a share that has fallen back to him, a tip. */
export function PaidParts({ tripId, news }: PaidPartsProps) {
  const client = clientOf('rider');
  const loaded = useLoad(tripId, (signal) => receipt(client, tripId, signal), 15_000);
  const { reload } = loaded;
  useEffect(() => reload(), [news, reload]);
  const parts = partsOf(loaded.data?.payments ?? []);
  if (parts.length === 0) return loaded.error == null ? null : <ErrorNote error={loaded.error} onRetry={reload} />;
  return (
    <section className="card stack" aria-labelledby="paid-parts">
      <h2 id="paid-parts">Payments</h2>
      <ErrorNote error={loaded.error} onRetry={reload} />
      <ul className="history" data-testid="paid-parts">
        {parts.map((part) => (
          <li key={part.id}>
            <div className="grow">
              <p>{nameOf(part)}</p>
              {notesOn(part).map((note, index) => (
                <p key={`${note} ${index}`} className="small muted">
                  {note}
                </p>
              ))}
            </div>
            <div className="history-side">
              <span className="number">{formatMoney(part.amount)}</span>
              <PaymentBadge status={part.status} />
            </div>
          </li>
        ))}
      </ul>
    </section>
  );
}
