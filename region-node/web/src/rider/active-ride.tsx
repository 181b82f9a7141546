import { useEffect, useRef, useState, type Dispatch } from 'react';
import { cancelRide } from '../api/calls';
import { clientOf, type Session } from '../api/session';
import type { Live } from '../api/socket';
import type { Ride, RideStatus } from '../api/types';
import { useAction, useAttemptKey } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { distanceM, type Point } from '../lib/geo';
import { formatDistance, formatDuration } from '../lib/time';
import { Map } from '../map/map';
import type { MapMarker } from '../map/types';
import { useTenant } from '../shell/use-tenant';
import { Badge, Button, Notice } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { AfterRide } from './after-ride';
import { SplitFare } from './split-fare';
import { hasDriver, isOver, type Followed, type FollowEvent } from './follow';

const HEADLINE: Record<RideStatus, string> = {
  requested: 'Looking for a driver',
  offered: 'Asking a driver',
  accepted: 'Your driver is on the way',
  arrived: 'Your driver is here',
  in_progress: 'On the way to your drop-off',
  completed: 'You have arrived',
  cancelled: 'Ride cancelled',
  expired: 'No driver found',
};

const STEPS: readonly { label: string; from: readonly RideStatus[] }[] = [
  { label: 'Requested', from: ['requested', 'offered', 'accepted', 'arrived', 'in_progress', 'completed'] },
  { label: 'Pick-up', from: ['accepted', 'arrived', 'in_progress', 'completed'] },
  { label: 'Riding', from: ['in_progress', 'completed'] },
  { label: 'Arrived', from: ['completed'] },
];

interface ActiveRideProps {
  session: Session;
  followed: Followed;
  live: Live;
  /** Grows with each news of a shared fare. */
  shareNews: number;
  tell: Dispatch<FollowEvent>;
  onLeave: () => void;
}

/** Follows one ride from the request to the receipt. */
export function ActiveRide({ session, followed, live, shareNews, tell, onLeave }: ActiveRideProps) {
  const { ride, car, payment } = followed;
  const heading = useRef<HTMLHeadingElement>(null);
  const id = ride?.id;
  useEffect(() => heading.current?.focus(), [id]);
  const { tenant } = useTenant(session.tenant);
  if (ride === null) return null;

  const shown: Point[] = [ride.pickup, ride.dropoff];
  const markers: MapMarker[] = [
    { id: 'pickup', kind: 'pickup', lat: ride.pickup.lat, lng: ride.pickup.lng, label: 'Pick-up', showLabel: !isOver(ride.status) },
    { id: 'dropoff', kind: 'dropoff', lat: ride.dropoff.lat, lng: ride.dropoff.lng, label: 'Drop-off', showLabel: !isOver(ride.status) },
  ];
  if (car !== null) {
    markers.push({ id: 'car', kind: 'car', lat: car.lat, lng: car.lng, heading: car.heading, label: 'Your driver' });
    shown.push(car);
  }
  const driving = car !== null && ride.status === 'accepted';
  const riding = car !== null && ride.status === 'in_progress';

  return (
    <div className="split">
      <section className="split-panel stack" aria-label="Your ride">
        <div className="stack-s">
          <div className="row-between">
            <h1 ref={heading} tabIndex={-1}>
              <span role="status" data-testid="ride-headline">
                {HEADLINE[ride.status]}
              </span>
            </h1>
            {live !== 'live' && !isOver(ride.status) && <Badge tone="warn">Reconnecting…</Badge>}
          </div>
          <Lead ride={ride} away={driving ? distanceM(car, ride.pickup) : null} />
        </div>
        {ride.status !== 'cancelled' && ride.status !== 'expired' && (
          <ol className="steps" aria-label="Progress">
            {STEPS.map((step) => (
              <li key={step.label} className={step.from.includes(ride.status) ? 'reached' : ''}>
                {step.label}
              </li>
            ))}
          </ol>
        )}
        {ride.pin != null && (ride.status === 'accepted' || ride.status === 'arrived') && (
          <div className="card pin">
            <p className="small muted">Tell your driver this PIN to start</p>
            <p className="pin-digits" data-testid="pin">
              {ride.pin}
            </p>
          </div>
        )}
        {ride.driver != null && !isOver(ride.status) && (
          <div className="card driver-card">
            <div className="avatar" aria-hidden="true">
              {ride.driver.name.slice(0, 1).toUpperCase()}
            </div>
            <div className="grow">
              <p>
                <strong>{ride.driver.name}</strong>
                {ride.driver.rating != null && <span className="muted small"> ★ {ride.driver.rating.toFixed(1)}</span>}
              </p>
              <p className="small muted">{ride.driver.vehicle.model}</p>
            </div>
            <span className="plate">{ride.driver.vehicle.plate}</span>
          </div>
        )}
        <dl className="facts card">
          <dt>From</dt>
          <dd>{ride.pickup.address ?? `${ride.pickup.lat.toFixed(4)}, ${ride.pickup.lng.toFixed(4)}`}</dd>
          <dt>To</dt>
          <dd>{ride.dropoff.address ?? `${ride.dropoff.lat.toFixed(4)}, ${ride.dropoff.lng.toFixed(4)}`}</dd>
          <dt>Agreed price</dt>
          <dd>{formatMoney(ride.fare)}</dd>
          <dt>Pay by</dt>
          <dd className="capital">{ride.payment_method.type}</dd>
        </dl>
        {ride.status === 'completed' && ride.trip_id != null && (
          <AfterRide ride={ride} tripId={ride.trip_id} payment={payment} shareNews={shareNews} tell={tell} />
        )}
        {!isOver(ride.status) && ride.payment_method.type !== 'cash' && <SplitFare ride={ride} news={shareNews} />}
        {!isOver(ride.status) && ride.status !== 'in_progress' && <Cancel ride={ride} tell={tell} />}
        {isOver(ride.status) && (
          <Button wide onClick={onLeave}>
            Book another ride
          </Button>
        )}
      </section>
      <div className="split-map">
        <Map
          label="Map of your ride"
          view={tenant?.view}
          markers={markers}
          lines={isOver(ride.status) ? [] : [driving ? { from: car, to: ride.pickup } : { from: riding ? car : ride.pickup, to: ride.dropoff }]}
          fit={driving ? [car, ride.pickup] : shown}
          fitKey={`${ride.id}${ride.status}`}
        />
      </div>
    </div>
  );
}

function Lead({ ride, away }: { ride: Ride; away: number | null }) {
  switch (ride.status) {
    case 'requested':
    case 'offered':
      return (
        <p className="muted row">
          <span className="spinner" /> This usually takes less than a minute.
        </p>
      );
    case 'accepted':
      return (
        <p className="muted number">
          {ride.driver_ends_trip_first === true && 'Ends another ride first. '}
          {away !== null ? `${formatDistance(away)} away` : ride.pickup_eta_s != null ? `About ${formatDuration(ride.pickup_eta_s)}` : 'See the car on the map.'}
        </p>
      );
    case 'arrived':
      return <p className="muted">Meet at your pick-up.</p>;
    case 'in_progress':
      return <p className="muted">Enjoy the ride.</p>;
    case 'completed':
      return <p className="muted">Thank you for riding.</p>;
    case 'cancelled':
      return (
        <div className="stack-s">
          <p className="muted">
            Cancelled{ride.cancelled_by != null && ` by the ${ride.cancelled_by}`}
            {ride.cancel_reason != null && `: ${ride.cancel_reason}`}.
          </p>
          {ride.cancellation_fee != null && ride.cancellation_fee.amount > 0 && (
            <Notice tone="warn">
              {ride.cancelled_by === 'driver' ? 'Your driver waited in vain: a no-show fee' : 'A cancellation fee'} of {formatMoney(ride.cancellation_fee)} applies.
            </Notice>
          )}
        </div>
      );
    case 'expired':
      return <p className="muted">Nobody was free in time. You pay nothing; try again in a moment.</p>;
  }
}

const REASONS = ['Changed my plans', 'Waiting too long', 'Wrong pick-up', 'Driver asked me to'];

function Cancel({ ride, tell }: { ride: Ride; tell: Dispatch<FollowEvent> }) {
  const [open, setOpen] = useState(false);
  const [reason, setReason] = useState(REASONS[0] ?? '');
  const attempt = useAttemptKey();
  const cancel = useAction(async () => {
    const cancelled = await cancelRide(clientOf('rider'), ride.id, reason, attempt.keyFor([ride.id, reason]));
    attempt.done();
    tell({ type: 'ride', ride: cancelled });
  });
  if (!open) {
    return (
      <Button kind="quiet" wide onClick={() => setOpen(true)}>
        Cancel ride
      </Button>
    );
  }
  return (
    <div className="card stack">
      <h2>Cancel this ride?</h2>
      {hasDriver(ride.status) && ride.driver_ends_trip_first !== true && (
        <p className="small muted">A driver is on the way; a fee may apply.</p>
      )}
      <div className="field">
        <label htmlFor="cancel-reason">Reason</label>
        <select id="cancel-reason" className="input" value={reason} onChange={(event) => setReason(event.target.value)}>
          {REASONS.map((one) => (
            <option key={one}>{one}</option>
          ))}
        </select>
      </div>
      <ErrorNote error={cancel.error} />
      <div className="row">
        <Button kind="danger" busy={cancel.busy} onClick={() => void cancel.run()}>
          Cancel ride
        </Button>
        <Button kind="quiet" onClick={() => setOpen(false)}>
          Keep it
        </Button>
      </div>
    </div>
  );
}
