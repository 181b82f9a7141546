import { useState } from 'react';
import { rides as loadRides } from '../api/calls';
import type { Client } from '../api/client';
import type { RideStatus } from '../api/types';
import { formatMoney } from '../lib/money';
import { usePages } from '../lib/pages';
import { formatTime } from '../lib/time';
import { Button, Empty, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { RideBadge } from '../ui/ride-badge';
import { ShortId } from '../ui/short-id';

const STATUSES: readonly RideStatus[] = ['requested', 'offered', 'accepted', 'arrived', 'in_progress', 'completed', 'cancelled', 'expired'];

/** All rides of the company, newest first. */
export function RidesView({ client, selected, onOpen }: { client: Client; selected: string | null; onOpen: (ride: string) => void }) {
  const [status, setStatus] = useState('');
  const pages = usePages(`rides ${status}`, (cursor, signal) =>
    loadRides(client, { limit: 25, ...(status === '' ? {} : { status }), ...(cursor === undefined ? {} : { cursor }) }, signal),
  );

  return (
    <section className="stack" aria-labelledby="rides">
      <div className="row-between">
        <h1 id="rides">Rides</h1>
        <div className="row">
          <label htmlFor="status-filter" className="label">
            Status
          </label>
          <select id="status-filter" className="input auto" value={status} onChange={(event) => setStatus(event.target.value)}>
            <option value="">All</option>
            {STATUSES.map((one) => (
              <option key={one} value={one}>
                {one.replace('_', ' ')}
              </option>
            ))}
          </select>
          <Button compact onClick={pages.reload}>
            Refresh
          </Button>
        </div>
      </div>
      <ErrorNote error={pages.error} onRetry={pages.reload} />
      {pages.loading && pages.items.length === 0 && <Skeleton lines={6} />}
      {!pages.loading && pages.items.length === 0 && pages.error == null && (
        <div className="card">
          <Empty title="No rides">{status === '' ? 'Nobody has asked for a ride yet.' : 'No ride is in this state.'}</Empty>
        </div>
      )}
      {pages.items.length > 0 && (
        <div className="table-wrap">
          <table>
            <caption className="visually-hidden">Rides, newest first</caption>
            <thead>
              <tr>
                <th scope="col">Ride</th>
                <th scope="col">Status</th>
                <th scope="col">Requested</th>
                <th scope="col">From</th>
                <th scope="col">To</th>
                <th scope="col">Class</th>
                <th scope="col" className="num">
                  Price
                </th>
              </tr>
            </thead>
            <tbody>
              {pages.items.map((ride) => (
                <tr key={ride.id} className={ride.id === selected ? 'selected' : ''}>
                  <td>
                    <button type="button" className="link-button" onClick={() => onOpen(ride.id)}>
                      <span className="visually-hidden">Story of ride </span>
                      <ShortId id={ride.id} />
                    </button>
                  </td>
                  <td>
                    <RideBadge status={ride.status} />
                  </td>
                  <td>{formatTime(ride.requested_at)}</td>
                  <td>{ride.pickup.address ?? `${ride.pickup.lat.toFixed(3)}, ${ride.pickup.lng.toFixed(3)}`}</td>
                  <td>{ride.dropoff.address ?? `${ride.dropoff.lat.toFixed(3)}, ${ride.dropoff.lng.toFixed(3)}`}</td>
                  <td>{ride.vehicle_class}</td>
                  <td className="num">{formatMoney(ride.fare)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {pages.hasMore && <Button onClick={pages.more}>Show older rides</Button>}
    </section>
  );
}
