import { useState, type Dispatch } from 'react';
import { pay, payment as loadPayment, receiptFile, trip as loadTrip } from '../api/calls';
import { ApiError } from '../api/problem';
import { clientOf } from '../api/session';
import type { Payment, Ride } from '../api/types';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { saveFile } from '../lib/save-file';
import { formatDistance, formatDuration } from '../lib/time';
import { formatMoney } from '../lib/money';
import { Button, Notice, Segments, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { FareLines } from '../ui/fare-lines';
import { Rating } from '../ui/rating';
import { PaymentBadge } from '../ui/ride-badge';
import { isFinal, type FollowEvent } from './follow';
import { PaidParts } from './paid-parts';
import { PaidShares } from './split-fare';
import { Tip } from './tip';

interface AfterRideProps {
  ride: Ride;
  tripId: string;
  payment: Payment | null;
  shareNews: number;
  tell: Dispatch<FollowEvent>;
}

const METHODS = [
  { value: 'card', label: 'Card' },
  { value: 'wallet', label: 'Wallet' },
  { value: 'cash', label: 'Cash' },
] as const;

/** The fare, paying it, the receipt and the stars. */
export function AfterRide({ ride, tripId, payment, shareNews, tell }: AfterRideProps) {
  const client = clientOf('rider');
  const trip = useLoad(tripId, (signal) => loadTrip(client, tripId, signal));
  // Begun elsewhere or before a reload: the trip knows its payment. Until it is decided, we keep asking.
  const paymentId = payment?.id ?? trip.data?.payment_id ?? null;
  const open = payment === null || !isFinal(payment);
  useLoad(
    open ? paymentId : null,
    (signal) => loadPayment(client, paymentId ?? '', signal),
    3000,
    (news) => tell({ type: 'payment', payment: news }),
  );
  const [method, setMethod] = useState(ride.payment_method.type);
  const attempt = useAttemptKey();
  const charge = useAction(async () => {
    const tries = payment?.status === 'failed' ? payment.id : null;
    try {
      const made = await pay(client, { trip_id: tripId, method: { type: method } }, attempt.keyFor([tripId, tries, method]));
      attempt.done();
      tell({ type: 'payment', payment: made });
    } catch (error) {
      if (!(error instanceof ApiError && error.code === 'already_paid')) throw error;
      trip.reload();
    }
  });
  const download = useAction(async (type: 'application/pdf' | 'text/html') => {
    const file = await receiptFile(client, tripId, type);
    saveFile(await file.blob(), type === 'application/pdf' ? `receipt-${tripId}.pdf` : `receipt-${tripId}.html`);
  });
  const fare = trip.data?.fare;
  const shared = trip.data?.shared ?? null;
  const own = fare == null || shared === null ? fare?.total : { ...fare.total, amount: fare.total.amount - shared.amount };
  // Another method may pay what this one did not.
  const refused = charge.error instanceof ApiError && charge.error.code === 'wallet_insufficient';
  const paid = payment !== null && payment.status !== 'failed';

  return (
    <>
      <section className="card stack" aria-labelledby="fare">
        <div className="row-between">
          <h2 id="fare">{payment?.status === 'settled' ? 'Receipt' : 'Your fare'}</h2>
          <span role="status" data-testid="payment-status">
            {payment !== null && <PaymentBadge status={payment.status} />}
          </span>
        </div>
        {trip.loading && <Skeleton />}
        <ErrorNote error={trip.error} onRetry={trip.reload} />
        {fare != null && <FareLines fare={fare} />}
        {trip.data?.distance_m != null && trip.data.duration_s != null && (
          <p className="small muted" data-testid="driven">
            {formatDistance(trip.data.distance_m)} in {formatDuration(trip.data.duration_s)}
          </p>
        )}
        {payment?.status === 'unknown' && (
          <Notice tone="warn">We are asking the payment provider what became of this payment. You will not be charged twice.</Notice>
        )}
        {payment?.status === 'failed' && (
          <Notice tone="bad">
            {payment.failure_reason != null
              ? `The payment failed: ${payment.failure_reason}.`
              : `The payment was declined${payment.failure_code == null ? '' : ` (${payment.failure_code.replaceAll('_', ' ')})`}.`}{' '}
            You can try again.
          </Notice>
        )}
        {payment?.remote_durable_at != null && <p className="small muted">Your payment is safe in a second region.</p>}
        <ErrorNote error={charge.error} />
        {(payment?.status === 'failed' || refused) && <Segments legend="Pay by" value={method} options={METHODS} onChange={setMethod} />}
        {!paid && (payment !== null || paymentId === null) && own != null && (
          <Button kind="primary" wide busy={charge.busy} onClick={() => void charge.run()}>
            Pay {shared !== null && 'your part, '}
            {formatMoney(own)}
          </Button>
        )}
        <div className="row">
          <Button compact busy={download.busy} onClick={() => void download.run('application/pdf')}>
            Receipt as PDF
          </Button>
          <Button compact busy={download.busy} onClick={() => void download.run('text/html')}>
            Receipt as web page
          </Button>
        </div>
        <ErrorNote error={download.error} />
      </section>
      {shared !== null && <PaidShares ride={ride} tripId={tripId} news={shareNews} />}
      {fare != null && <PaidParts tripId={tripId} news={`${payment?.status ?? ''} ${shareNews}`} />}
      {payment?.status === 'settled' && fare != null && <Tip ride={ride} tripId={tripId} fare={fare.total} />}
      <Rating role="rider" tripId={tripId} question="How was your driver?" />
    </>
  );
}
