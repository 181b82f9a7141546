import { useEffect, useState } from 'react';
import { endShare, inviteToShare, pay, sharesOfRide } from '../api/calls';
import { clientOf } from '../api/session';
import type { FareShare, Page, Ride } from '../api/types';
import { useAction, useAttemptKey, useLoad, type Loaded } from '../lib/hooks';
import { formatMoney, parseMoney } from '../lib/money';
import { Button, Field } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { PaymentBadge, ShareBadge } from '../ui/ride-badge';

function useShares(ride: Ride, news: number): Loaded<Page<FareShare>> {
  const client = clientOf('rider');
  const shares = useLoad(ride.id, (signal) => sharesOfRide(client, ride.id, signal), 15_000);
  const { reload } = shares;
  useEffect(() => reload(), [news, reload]);
  return shares;
}

interface SplitFareProps {
  ride: Ride;
  /** Grows with each news. */
  news: number;
}

/** Asks others to pay a part of the fare, until the trip ends. */
export function SplitFare({ ride, news }: SplitFareProps) {
  const client = clientOf('rider');
  const shares = useShares(ride, news);
  const [open, setOpen] = useState(false);
  const [phone, setPhone] = useState('');
  const [typed, setTyped] = useState('');
  const amount = typed.trim() === '' ? undefined : parseMoney(typed, ride.fare.currency);
  const attempt = useAttemptKey();
  const invite = useAction(async () => {
    if (amount === null) return;
    const body = { phone: phone.replaceAll(/[\s()-]/g, ''), ...(amount === undefined ? {} : { amount }) };
    await inviteToShare(client, ride.id, body, attempt.keyFor([ride.id, body]));
    attempt.done();
    setPhone('');
    setTyped('');
    setOpen(false);
    shares.reload();
  });
  const asked = shares.data?.items.filter(({ status }) => status !== 'withdrawn') ?? [];

  return (
    <section className="card stack" aria-labelledby="split-fare">
      <h2 id="split-fare">Split the fare</h2>
      {asked.length > 0 && (
        <ul className="history" data-testid="shares">
          {asked.map((share) => (
            <AskedShare key={share.id} share={share} onChanged={shares.reload} />
          ))}
        </ul>
      )}
      <ErrorNote error={shares.error} onRetry={shares.reload} />
      {open ? (
        <form
          className="stack"
          onSubmit={(event) => {
            event.preventDefault();
            void invite.run();
          }}
        >
          <Field label="Phone of another rider" type="tel" value={phone} autoComplete="off" required onChange={(event) => setPhone(event.target.value)} />
          <Field
            label={`Amount in ${ride.fare.currency}`}
            hint="Leave it empty to share the rest in equal parts."
            inputMode="decimal"
            value={typed}
            autoComplete="off"
            error={amount === null ? 'Write an amount such as 12.50.' : undefined}
            onChange={(event) => setTyped(event.target.value)}
          />
          <ErrorNote error={invite.error} />
          <div className="row">
            <Button type="submit" kind="primary" busy={invite.busy} disabled={phone.trim() === '' || amount === null}>
              Ask
            </Button>
            <Button kind="quiet" onClick={() => setOpen(false)}>
              Not now
            </Button>
          </div>
        </form>
      ) : (
        <>
          <p className="small muted">Whoever accepts pays by their own card when you arrive. The rest is yours.</p>
          <Button onClick={() => setOpen(true)}>Ask somebody to share</Button>
        </>
      )}
    </section>
  );
}

function AskedShare({ share, onChanged }: { share: FareShare; onChanged: () => void }) {
  const attempt = useAttemptKey();
  const withdraw = useAction(async () => {
    await endShare(clientOf('rider'), share.id, 'withdraw', attempt.keyFor(share.id));
    attempt.done();
    onChanged();
  });
  const open = share.status === 'invited' || share.status === 'accepted';
  return (
    <li>
      <div className="grow">
        <p>{share.rider}</p>
        {open && (
          <Button compact kind="quiet" busy={withdraw.busy} aria-label={`Take back the share of ${share.rider}`} onClick={() => void withdraw.run()}>
            Take back
          </Button>
        )}
        <ErrorNote error={withdraw.error} />
      </div>
      <div className="history-side">
        {share.amount != null && <span className="number">{formatMoney(share.amount)}</span>}
        <ShareBadge status={share.status} />
      </div>
    </li>
  );
}

interface PaidSharesProps extends SplitFareProps {
  tripId: string;
}

/** What others pay of a fare, and what of that has come back to its rider. */
export function PaidShares({ ride, tripId, news }: PaidSharesProps) {
  const shares = useShares(ride, news);
  const fixed = shares.data?.items.filter(({ status }) => status === 'fixed' || status === 'fallen_back') ?? [];
  return (
    <section className="card stack" aria-labelledby="paid-shares">
      <h2 id="paid-shares">Shared with</h2>
      <ErrorNote error={shares.error} onRetry={shares.reload} />
      <ul className="history" data-testid="paid-shares">
        {fixed.map((share) => (
          <PaidShare key={share.id} share={share} tripId={tripId} onPaid={shares.reload} />
        ))}
      </ul>
    </section>
  );
}

function PaidShare({ share, tripId, onPaid }: { share: FareShare; tripId: string; onPaid: () => void }) {
  const attempt = useAttemptKey();
  const charge = useAction(async () => {
    const body = { trip_id: tripId, share_id: share.id, method: { type: 'card' as const } };
    await pay(clientOf('rider'), body, attempt.keyFor([body, share.payment?.id]));
    attempt.done();
    onPaid();
  });
  const mine = share.status === 'fallen_back';
  return (
    <li>
      <div className="grow">
        <p>{share.rider}</p>
        {mine && <p className="small muted">Their card was declined, so this share is yours.</p>}
        {mine && share.payment?.status === 'failed' && (
          <Button compact busy={charge.busy} onClick={() => void charge.run()}>
            Pay by card
          </Button>
        )}
        <ErrorNote error={charge.error} />
      </div>
      <div className="history-side">
        {share.amount != null && <span className="number">{formatMoney(share.amount)}</span>}
        {share.payment == null ? <ShareBadge status={share.status} /> : <PaymentBadge status={share.payment.status} />}
      </div>
    </li>
  );
}
