import { cancelRide } from '../api/calls';
import { clientOf } from '../api/session';
import type { Ride } from '../api/types';
import { useAction, useAttemptKey } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { formatTime } from '../lib/time';
import { Badge, Button } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { RideBadge } from '../ui/ride-badge';

const isBooked = (ride: Ride): boolean => ride.scheduled_at != null && ride.status === 'requested';

/** The rider's last rides and those booked ahead. */
export function RideHistory({ rides, onChanged }: { rides: readonly Ride[]; onChanged: () => void }) {
  if (rides.length === 0) return null;
  return (
    <section className="stack-s" aria-labelledby="history">
      <h2 id="history">Your rides</h2>
      <ul className="history">
        {rides.map((ride) => (
          <li key={ride.id}>
            <div className="grow">
              <p>{ride.dropoff.address ?? `${ride.dropoff.lat.toFixed(3)}, ${ride.dropoff.lng.toFixed(3)}`}</p>
              <p className="small muted">
                {ride.scheduled_at == null ? formatTime(ride.requested_at) : `Booked for ${formatTime(ride.scheduled_at)}`}
              </p>
              {isBooked(ride) && <CancelBooking ride={ride} onCancelled={onChanged} />}
            </div>
            <div className="history-side">
              <span className="number">{formatMoney(ride.fare)}</span>
              {isBooked(ride) ? <Badge tone="info">Booked</Badge> : <RideBadge status={ride.status} />}
            </div>
          </li>
        ))}
      </ul>
    </section>
  );
}

function CancelBooking({ ride, onCancelled }: { ride: Ride; onCancelled: () => void }) {
  const attempt = useAttemptKey();
  const cancel = useAction(async () => {
    await cancelRide(clientOf('rider'), ride.id, 'Changed my plans', attempt.keyFor(ride.id));
    attempt.done();
    onCancelled();
  });
  return (
    <>
      <Button compact kind="quiet" busy={cancel.busy} onClick={() => void cancel.run()}>
        Cancel booking
      </Button>
      <ErrorNote error={cancel.error} />
    </>
  );
}
