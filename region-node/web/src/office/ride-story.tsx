import { useEffect, useId, useRef, useState } from 'react';
import { cancelRide, payment as loadPayment, refund, ride as loadRide, rideDispatch, sharesOfRide, trip as loadTrip } from '../api/calls';
import type { Client } from '../api/client';
import type { DispatchCandidate, FareShare, OfferRecord, Payment, Ride, Trip } from '../api/types';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { formatDistance, formatDuration, formatTime } from '../lib/time';
import { Map } from '../map/map';
import { isOver } from '../rider/follow';
import { useTenant } from '../shell/use-tenant';
import { Badge, Button, Empty, Skeleton, type Tone } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { FareLines } from '../ui/fare-lines';
import { PaymentBadge, RideBadge } from '../ui/ride-badge';
import { ShortId } from '../ui/short-id';
import { RiderWallet } from './rider-wallet';

interface RideStoryProps {
  id: string;
  client: Client;
  tenant: string;
  onClose: () => void;
}

/** One ride from the request to the money, with every driver who was considered. */
export function RideStory({ id, client, tenant, onClose }: RideStoryProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const { view } = useTenant(tenant).tenant ?? {};

  const ride = useLoad(id, (signal) => loadRide(client, id, signal), 3000);
  const candidates = useLoad(id, (signal) => rideDispatch(client, id, signal), 3000);
  const tripId = ride.data?.trip_id ?? null;
  const trip = useLoad(tripId, (signal) => loadTrip(client, tripId ?? '', signal), 3000);
  const paymentId = trip.data?.payment_id ?? null;
  const payment = useLoad(paymentId, (signal) => loadPayment(client, paymentId ?? '', signal), 3000);
  const shares = useLoad(trip.data?.shared == null ? null : id, (signal) => sharesOfRide(client, id, signal), 3000);

  return (
    <dialog ref={dialog} className="story" aria-labelledby="story" onClose={onClose}>
      <div className="story-head">
        <div>
          <h2 id="story">Story of a ride</h2>
          <p className="mono muted">{id}</p>
        </div>
        <Button compact onClick={() => dialog.current?.close()}>
          Close
        </Button>
      </div>
      <div className="story-body stack">
        <ErrorNote error={ride.error} onRetry={ride.reload} />
        {ride.loading && <Skeleton lines={6} />}
        {ride.data !== null && (
          <>
            <RideFacts ride={ride.data} client={client} onChanged={ride.reload} />
            <div className="story-map">
              <Map
                label="Map of this ride"
                view={view}
                markers={[
                  { id: 'pickup', kind: 'pickup', lat: ride.data.pickup.lat, lng: ride.data.pickup.lng, label: 'Pick-up', showLabel: true },
                  { id: 'dropoff', kind: 'dropoff', lat: ride.data.dropoff.lat, lng: ride.data.dropoff.lng, label: 'Drop-off', showLabel: true },
                ]}
                lines={[{ from: ride.data.pickup, to: ride.data.dropoff }]}
                fit={[ride.data.pickup, ride.data.dropoff]}
                fitKey={id}
              />
            </div>
          </>
        )}
        {trip.data !== null && <TripFacts trip={trip.data} />}
        {payment.data !== null && <PaymentFacts title="Payment" payment={payment.data} client={client} onChanged={payment.reload} />}
        {ride.data !== null && <RiderWallet client={client} rider={ride.data.rider_id} />}
        <ErrorNote error={shares.error} />
        {shares.data?.items.map((share) => share.payment != null && <PaidShare key={share.id} share={share} id={share.payment.id} client={client} />)}
        <section className="stack-s" aria-labelledby="candidates">
          <h3 id="candidates">Dispatch: who was considered, and why</h3>
          <ErrorNote error={candidates.error} />
          {candidates.data !== null && (
            <>
              {candidates.data.offers.length > 0 && <Offers rows={candidates.data.offers} />}
              <Candidates rows={candidates.data.candidates} isOver={ride.data !== null && isOver(ride.data.status)} />
            </>
          )}
        </section>
      </div>
    </dialog>
  );
}

function RideFacts({ ride, client, onChanged }: { ride: Ride; client: Client; onChanged: () => void }) {
  const attempt = useAttemptKey();
  const cancel = useAction(async () => {
    await cancelRide(client, ride.id, 'Cancelled by the back office', attempt.keyFor(ride.id));
    attempt.done();
    onChanged();
  });
  const open = ['requested', 'offered', 'accepted', 'arrived'].includes(ride.status);
  return (
    <section className="stack-s" aria-labelledby="ride-facts">
      <div className="row-between">
        <h3 id="ride-facts">Ride</h3>
        <RideBadge status={ride.status} />
      </div>
      <dl className="facts">
        <dt>Requested</dt>
        <dd>{formatTime(ride.requested_at)}</dd>
        {ride.scheduled_at != null && (
          <>
            <dt>Booked for</dt>
            <dd>{formatTime(ride.scheduled_at)}</dd>
          </>
        )}
        <dt>From</dt>
        <dd>{ride.pickup.address ?? `${ride.pickup.lat.toFixed(5)}, ${ride.pickup.lng.toFixed(5)}`}</dd>
        <dt>To</dt>
        <dd>{ride.dropoff.address ?? `${ride.dropoff.lat.toFixed(5)}, ${ride.dropoff.lng.toFixed(5)}`}</dd>
        <dt>Class</dt>
        <dd>{ride.vehicle_class}</dd>
        <dt>Price shown</dt>
        <dd>{formatMoney(ride.fare)}</dd>
        <dt>Rider</dt>
        <dd className="mono">{ride.rider_id}</dd>
        {ride.driver_id != null && (
          <>
            <dt>Driver</dt>
            <dd className="mono">{ride.driver_id}</dd>
          </>
        )}
        {ride.cancelled_by != null && (
          <>
            <dt>Cancelled by</dt>
            <dd>
              {ride.cancelled_by}
              {ride.cancel_reason != null && `: ${ride.cancel_reason}`}
              {ride.cancellation_fee != null && `, ${ride.cancelled_by === 'driver' ? 'no-show ' : ''}fee ${formatMoney(ride.cancellation_fee)}`}
            </dd>
          </>
        )}
      </dl>
      <ErrorNote error={cancel.error} />
      {open && (
        <div>
          <Button compact kind="danger" busy={cancel.busy} onClick={() => void cancel.run()}>
            Cancel this ride
          </Button>
        </div>
      )}
    </section>
  );
}

function TripFacts({ trip }: { trip: Trip }) {
  const times: [string, string | null | undefined][] = [
    ['Accepted', trip.accepted_at],
    ['Arrived', trip.arrived_at],
    ['Started', trip.started_at],
    ['Ended', trip.ended_at],
  ];
  return (
    <section className="stack-s" aria-labelledby="trip-facts">
      <div className="row-between">
        <h3 id="trip-facts">Trip</h3>
        <RideBadge status={trip.status} />
      </div>
      <dl className="facts">
        {times.map(([words, at]) =>
          at == null ? null : (
            <div key={words} className="facts-row">
              <dt>{words}</dt>
              <dd>{formatTime(at)}</dd>
            </div>
          ),
        )}
        {trip.distance_m != null && trip.duration_s != null && (
          <>
            <dt>Driven</dt>
            <dd>
              {formatDistance(trip.distance_m)} in {formatDuration(trip.duration_s)}
            </dd>
          </>
        )}
      </dl>
      {trip.fare != null && <FareLines fare={trip.fare} />}
    </section>
  );
}

/** What somebody else pays of the fare, or the rider in their place. */
function PaidShare({ share, id, client }: { share: FareShare; id: string; client: Client }) {
  const payment = useLoad(id, (signal) => loadPayment(client, id, signal), 3000);
  if (payment.data === null) return <ErrorNote error={payment.error} />;
  const title = `Share of ${share.rider}${share.status === 'fallen_back' ? `, paid by ${share.invited_by}` : ''}`;
  return <PaymentFacts title={title} payment={payment.data} client={client} onChanged={payment.reload} />;
}

interface PaymentFactsProps {
  title: string;
  payment: Payment;
  client: Client;
  onChanged: () => void;
}

function PaymentFacts({ title, payment, client, onChanged }: PaymentFactsProps) {
  const heading = useId();
  const [asking, setAsking] = useState(false);
  const attempt = useAttemptKey();
  const giveBack = useAction(async (to: 'source' | 'wallet') => {
    await refund(client, payment.id, { reason: 'Refunded by the back office', to }, attempt.keyFor([payment.id, to]));
    attempt.done();
    setAsking(false);
    onChanged();
  });
  return (
    <section className="stack-s" aria-labelledby={heading}>
      <div className="row-between">
        <h3 id={heading}>{title}</h3>
        <PaymentBadge status={payment.status} />
      </div>
      <dl className="facts">
        <dt>Amount</dt>
        <dd>{formatMoney(payment.amount)}</dd>
        <dt>Method</dt>
        <dd>{payment.method.type}</dd>
        {payment.settled_at != null && (
          <>
            <dt>Settled</dt>
            <dd>{formatTime(payment.settled_at)}</dd>
          </>
        )}
        <dt>In another region</dt>
        <dd>{payment.remote_durable_at == null ? 'not yet' : formatTime(payment.remote_durable_at)}</dd>
        {payment.failure_code != null && (
          <>
            <dt>Failure</dt>
            <dd>
              {payment.failure_code}
              {payment.failure_reason != null && `: ${payment.failure_reason}`}
            </dd>
          </>
        )}
      </dl>
      <ErrorNote error={giveBack.error} />
      {(payment.status === 'settled' || payment.status === 'partially_refunded') &&
        (asking ? (
          <div className="row">
            <Button compact kind="danger" busy={giveBack.busy} onClick={() => void giveBack.run('source')}>
              Refund what is left
            </Button>
            {payment.method.type !== 'wallet' && (
              <Button compact kind="danger" busy={giveBack.busy} onClick={() => void giveBack.run('wallet')}>
                Into the wallet
              </Button>
            )}
            <Button compact kind="quiet" onClick={() => setAsking(false)}>
              Keep
            </Button>
          </div>
        ) : (
          <div>
            <Button compact onClick={() => setAsking(true)}>
              Refund…
            </Button>
          </div>
        ))}
    </section>
  );
}

const OFFER_TONES: Record<OfferRecord['status'], Tone> = { live: 'info', accepted: 'good', declined: 'bad', expired: 'warn', withdrawn: 'plain' };

function Offers({ rows }: { rows: readonly OfferRecord[] }) {
  return (
    <ol className="offers small" aria-label="Offers made">
      {rows.map((row) => (
        <li key={row.offer_id} className="row">
          <span className="number">{formatTime(row.offered_at)}</span>
          <ShortId id={row.driver_id} />
          <Badge tone={OFFER_TONES[row.status]}>{row.status}</Badge>
          {row.answered_at !== null && (
            <span className="muted">after {formatDuration((Date.parse(row.answered_at) - Date.parse(row.offered_at)) / 1000)}</span>
          )}
        </li>
      ))}
    </ol>
  );
}

function Candidates({ rows, isOver }: { rows: readonly DispatchCandidate[]; isOver: boolean }) {
  if (rows.length === 0 && isOver) return <Empty title="Nobody known">No driver was considered for this ride, or that is not kept any more.</Empty>;
  if (rows.length === 0) return <Empty title="Nobody yet">No driver has been considered for this ride so far.</Empty>;
  return (
    <div className="table-wrap">
      <table>
        <thead>
          <tr>
            <th scope="col">Round</th>
            <th scope="col">Driver</th>
            <th scope="col">Reason</th>
            <th scope="col" className="num">
              Pick-up
            </th>
            <th scope="col" className="num">
              Away
            </th>
            <th scope="col">At</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row, index) => (
            <tr key={`${row.driver_id} ${row.round} ${index}`}>
              <td>{row.round + 1}</td>
              <td>
                <ShortId id={row.driver_id} />
              </td>
              <td>
                <code>{row.reason}</code>
                <span className="line-note small muted">{row.explanation}</span>
              </td>
              <td className="num">{row.pickup_eta_s == null ? '–' : formatDuration(row.pickup_eta_s)}</td>
              <td className="num">{row.distance_m == null ? '–' : formatDistance(row.distance_m)}</td>
              <td>{formatTime(row.considered_at)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
