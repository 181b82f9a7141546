import type { Ride } from '../api/types';
import { formatMoney } from '../lib/money';
import { formatTime } from '../lib/time';
import { RideBadge } from '../ui/ride-badge';

/** The rider's last rides and those booked ahead. */
export function RideHistory({ rides }: { rides: readonly Ride[] }) {
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
            </div>
            <div className="history-side">
              <span className="number">{formatMoney(ride.fare)}</span>
              <RideBadge status={ride.status} />
            </div>
          </li>
        ))}
      </ul>
    </section>
  );
}
