import { useEffect, useRef, useState } from 'react';
import { acceptRide, declineRide } from '../api/calls';
import { ApiError } from '../api/problem';
import { clientOf } from '../api/session';
import type { Offer, Trip } from '../api/types';
import { useAction, useAttemptKey, useNow } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { distanceM } from '../lib/geo';
import { formatDistance, formatDuration, secondsUntil } from '../lib/time';
import { Button } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';

interface OfferCardProps {
  offer: Offer;
  driver: string;
  onAccepted: (trip: Trip) => void;
  onGone: () => void;
}

const GONE = new Set(['ride_already_taken', 'offer_expired', 'not_found', 'invalid_transition']);

/** A ride put to this driver for a few seconds. */
export function OfferCard({ offer, driver, onAccepted, onGone }: OfferCardProps) {
  const client = clientOf('driver');
  const now = useNow(250);
  const [shownAt] = useState(now);
  const left = secondsUntil(offer.expires_at, now);
  const attempt = useAttemptKey();
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => heading.current?.focus(), []);

  const accept = useAction(async () => {
    onAccepted(await acceptRide(client, driver, offer.ride_id, attempt.keyFor(offer.offer_id)));
  });
  const decline = useAction(async () => {
    try {
      await declineRide(client, driver, offer.ride_id);
    } catch (error) {
      if (!(error instanceof ApiError && GONE.has(error.code))) throw error;
    }
    onGone();
  });
  const lost = accept.error instanceof ApiError && GONE.has(accept.error.code);
  const over = left === 0 && !accept.busy;
  useEffect(() => {
    if (!over && !lost) return;
    const timer = window.setTimeout(onGone, 2500);
    return () => window.clearTimeout(timer);
  }, [over, lost, onGone]);

  const whole = Math.max(1, (Date.parse(offer.expires_at) - shownAt) / 1000);
  return (
    <section className="card stack offer" aria-labelledby="offer" data-testid="offer">
      <div className="row-between">
        <h2 id="offer" ref={heading} tabIndex={-1}>
          <span role="status">{over ? 'The offer has run out' : offer.after_trip_id == null ? 'New ride' : 'Next ride'}</span>
        </h2>
        <span className="number" aria-hidden="true">
          {left} s
        </span>
      </div>
      <div className="countdown" role="timer" aria-label={`${left} seconds to answer`}>
        <div style={{ width: `${Math.min(100, (left / whole) * 100)}%` }} />
      </div>
      <div className="row-between">
        <p className="price number">{formatMoney(offer.fare)}</p>
        <p className="small muted">Pick-up in {formatDuration(offer.pickup_eta_s)}</p>
      </div>
      <dl className="facts">
        <dt>From</dt>
        <dd>{offer.pickup.address ?? 'See the map'}</dd>
        <dt>To</dt>
        <dd>{offer.dropoff.address ?? 'See the map'}</dd>
        <dt>Straight line</dt>
        <dd>{formatDistance(distanceM(offer.pickup, offer.dropoff))}</dd>
      </dl>
      <ErrorNote error={accept.error ?? decline.error} />
      <div className="actions">
        <Button busy={decline.busy} disabled={over || accept.busy} onClick={() => void decline.run()}>
          Decline
        </Button>
        <Button kind="primary" busy={accept.busy} disabled={over || lost || decline.busy} onClick={() => void accept.run()}>
          Accept
        </Button>
      </div>
    </section>
  );
}
