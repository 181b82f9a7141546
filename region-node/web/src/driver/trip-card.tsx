import { useState } from 'react';
import { cancelRide, stepTrip, trip as loadTrip, type TripStep } from '../api/calls';
import { ApiError } from '../api/problem';
import { clientOf } from '../api/session';
import type { Trip } from '../api/types';
import { useAction, useAttemptKey } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { distanceM, type Point } from '../lib/geo';
import { formatDistance, formatDuration } from '../lib/time';
import { Button, Field } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { FareLines } from '../ui/fare-lines';
import { Rating } from '../ui/rating';
import { RideBadge } from '../ui/ride-badge';
import { nextSteps, STEP_WORDS, TRIP_HEADLINE } from './trip-steps';

interface TripCardProps {
  trip: Trip;
  /** The rider's first name, once known. */
  riderName: string | null;
  here: Point | null;
  /** The fare is counted from positions: they are sent before. */
  beforeEnd: () => Promise<void>;
  onTrip: (trip: Trip) => void;
  onDone: () => void;
}

/** The trip under way, step by step, and what it earned. */
export function TripCard({ trip, riderName, here, beforeEnd, onTrip, onDone }: TripCardProps) {
  const client = clientOf('driver');
  const [pin, setPin] = useState('');
  const attempt = useAttemptKey();
  const step = useAction(async (next: TripStep) => {
    if (next === 'end') await beforeEnd();
    const body = next === 'start' && pin.trim() !== '' ? { pin: pin.trim() } : {};
    try {
      const moved = await stepTrip(client, trip.id, next, body, attempt.keyFor([trip.id, trip.status, next, body]));
      attempt.done();
      onTrip(moved);
    } catch (error) {
      if (error instanceof ApiError && error.code === 'invalid_transition') onTrip(await loadTrip(client, trip.id));
      throw error;
    }
  });
  const cancel = useAction(async () => {
    const reason = 'Driver cancelled';
    await cancelRide(client, trip.ride_id, reason, attempt.keyFor([trip.ride_id, reason]));
    attempt.done();
    onTrip(await loadTrip(client, trip.id));
  });

  const { pickup, dropoff } = trip;
  const goal = trip.status === 'accepted' ? pickup : trip.status === 'in_progress' ? dropoff : null;
  const steps = nextSteps(trip.status);
  const over = trip.status === 'completed' || trip.status === 'cancelled';

  return (
    <>
      <section className="card stack" aria-labelledby="trip">
        <div className="row-between">
          <h2 id="trip">
            <span role="status" data-testid="trip-headline">
              {TRIP_HEADLINE[trip.status]}
            </span>
          </h2>
          <RideBadge status={trip.status} />
        </div>
        {goal !== null && here !== null && (
          <p className="muted number" data-testid="distance-left">
            {distanceM(here, goal) < 25 ? 'You are there' : `${formatDistance(distanceM(here, goal))} to go`}
          </p>
        )}
        {!over && (
          <dl className="facts">
            {riderName !== null && (
              <>
                <dt>Rider</dt>
                <dd>{riderName}</dd>
              </>
            )}
            <dt>Pick-up</dt>
            <dd>{pickup.address ?? `${pickup.lat.toFixed(4)}, ${pickup.lng.toFixed(4)}`}</dd>
            <dt>Drop-off</dt>
            <dd>{dropoff.address ?? `${dropoff.lat.toFixed(4)}, ${dropoff.lng.toFixed(4)}`}</dd>
          </dl>
        )}
        {trip.status === 'arrived' && (
          <Field
            label="Rider's PIN"
            inputMode="numeric"
            autoComplete="off"
            value={pin}
            hint="Ask your rider for it."
            onChange={(event) => setPin(event.target.value)}
          />
        )}
        <ErrorNote error={step.error ?? cancel.error} />
        {steps.length > 0 && (
          <div className={steps.length > 1 ? 'actions' : ''}>
            {steps.map((next, index) => (
              <Button key={next} wide kind={index === 0 ? 'primary' : 'plain'} busy={step.busy} onClick={() => void step.run(next)}>
                {STEP_WORDS[next]}
              </Button>
            ))}
          </div>
        )}
        {(trip.status === 'accepted' || trip.status === 'arrived') && (
          <Button kind="quiet" wide busy={cancel.busy} onClick={() => void cancel.run()}>
            Cancel ride
          </Button>
        )}
        {trip.status === 'completed' && (
          <>
            {trip.fare != null && (
              <>
                <p className="price number" data-testid="earned">
                  {formatMoney(trip.fare.total)}
                </p>
                <FareLines fare={trip.fare} />
              </>
            )}
            {trip.distance_m != null && trip.duration_s != null && (
              <p className="small muted">
                {formatDistance(trip.distance_m)} in {formatDuration(trip.duration_s)}
              </p>
            )}
          </>
        )}
        {over && (
          <Button kind="primary" wide onClick={onDone}>
            Back to waiting
          </Button>
        )}
      </section>
      {trip.status === 'completed' && <Rating role="driver" tripId={trip.id} question="How was your rider?" />}
    </>
  );
}
