import { useState } from 'react';
import { offers as loadOffers, ride as loadRide, rides as loadRides, setDriverStatus, trip as loadTrip } from '../api/calls';
import { clientOf, type Session } from '../api/session';
import { useSocket } from '../api/socket';
import type { Offer, Ride, Trip } from '../api/types';
import { useAction, useLoad } from '../lib/hooks';
import type { Point } from '../lib/geo';
import { formatDuration } from '../lib/time';
import { cityAt } from '../map/cities';
import { Map } from '../map/map';
import { placesOf } from '../map/places';
import type { MapMarker } from '../map/types';
import { useTenant } from '../shell/use-tenant';
import { Badge, Button, Empty, Notice, Segments } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { PlaceField } from '../ui/place-field';
import { SPEEDS, type Speed } from './autopilot';
import { EarningsCard } from './earnings-card';
import { OfferCard } from './offer-card';
import { useAutopilot, usePosition, useReporting } from './position';
import { TripCard } from './trip-card';

const onlineKey = (subject: string): string => `gocomet.driver.online.${subject}`;
const isActive = (trip: Trip): boolean => trip.status !== 'completed' && trip.status !== 'cancelled';

/** The driver's one screen: position, offers and the trip. */
export function Cockpit({ session }: { session: Session }) {
  const client = clientOf('driver');
  const view = useTenant(session.tenant).tenant?.view;
  const city = view == null ? null : cityAt(view.centre);
  const places = useLoad(city?.id ?? null, () => (city === null ? Promise.resolve([]) : placesOf(city))).data ?? [];

  const [online, setOnline] = useState(() => localStorage.getItem(onlineKey(session.subject)) === 'true');
  const [offer, setOffer] = useState<Offer | null>(null);
  const [withdrawn, setWithdrawn] = useState<string | null>(null);
  const [job, setJob] = useState<Trip | null>(null);
  // Accepted to follow the present trip.
  const [next, setNext] = useState<Trip | null>(null);
  const [autopilot, setAutopilot] = useState(false);
  const [speed, setSpeed] = useState<Speed>('100');

  const onRide = (ride: Ride): void => {
    if (ride.id === next?.ride_id && ride.status === 'cancelled') setNext(null);
    if (job === null || ride.id !== job.ride_id || ride.trip_id == null || !isActive(job)) return;
    if (ride.status === (job.status === 'paused' ? 'in_progress' : job.status)) return;
    // If this fails, the next look at the ride tries again.
    loadTrip(client, ride.trip_id).then(setJob, () => undefined);
  };

  const { live, socket } = useSocket(session, {
    'ride:offer': (made) => {
      setWithdrawn(null);
      setOffer(made);
    },
    'ride:offer_withdrawn': (gone) => {
      if (next?.ride_id === gone.ride_id) {
        setNext(null);
        setWithdrawn(gone.reason);
      }
      if (offer?.ride_id !== gone.ride_id) return;
      setOffer(null);
      setWithdrawn(gone.reason);
    },
    'ride:update': onRide,
  });

  // A trip under way is found again after a reload.
  const open = useLoad(
    session.subject,
    async (signal) => {
      const page = await loadRides(client, { limit: 5 }, signal);
      const ride = page.items.find((one) => ['accepted', 'arrived', 'in_progress'].includes(one.status) && one.driver_ends_trip_first !== true);
      return ride?.trip_id == null ? null : loadTrip(client, ride.trip_id, signal);
    },
    undefined,
    (found) => {
      if (found !== null) setJob((known) => known ?? found);
    },
  );

  // The socket brings offers at once; asking now and then finds those made while it was down.
  const waiting = online && (job === null || !isActive(job));
  const nearlyDone = online && job?.status === 'in_progress' && next === null;
  useLoad(
    waiting || nearlyDone ? session.subject : null,
    (signal) => loadOffers(client, session.subject, signal),
    live === 'live' ? 10_000 : 2500,
    ({ items: [found] }) => {
      if (found !== undefined && Date.parse(found.expires_at) > Date.now()) setOffer((known) => known ?? found);
    },
  );

  // The socket tells of a cancelled ride; this finds out without it.
  const rideId = job !== null && isActive(job) ? job.ride_id : null;
  const current = useLoad(rideId, (signal) => loadRide(client, rideId ?? '', signal), live === 'live' ? 15_000 : 4000, onRide);

  const position = usePosition(session.subject);
  const { here, place } = position;
  // The first metres of a trip count: where it begins is told as soon as it has.
  const onTrip = job?.status === 'in_progress' || job?.status === 'paused';
  const { lateS, settle } = useReporting(online, session.subject, here, socket, job?.status ?? '', onTrip);
  const target: Point | null = job?.status === 'accepted' ? job.pickup : job?.status === 'in_progress' ? job.dropoff : null;
  useAutopilot(autopilot, here, target, speed, place);

  const toggle = useAction(async () => {
    const next = online ? 'offline' : 'online';
    await setDriverStatus(client, session.subject, next);
    localStorage.setItem(onlineKey(session.subject), String(!online));
    setOnline(!online);
    setOffer(null);
  });

  const markers: MapMarker[] = [];
  const ends = job !== null && isActive(job) ? job : offer;
  if (ends !== null) {
    markers.push({ id: 'pickup', kind: 'pickup', lat: ends.pickup.lat, lng: ends.pickup.lng, label: 'Pick-up', showLabel: true });
    markers.push({ id: 'dropoff', kind: 'dropoff', lat: ends.dropoff.lat, lng: ends.dropoff.lng, label: 'Drop-off', showLabel: true });
  }
  if (here !== null) {
    markers.push({ id: 'me', kind: 'me', lat: here.lat, lng: here.lng, heading: here.heading, label: 'You', draggable: true });
  }
  const fit: Point[] = ends === null ? [] : [ends.pickup, ends.dropoff, ...(here === null ? [] : [here])];

  return (
    <div className="split">
      <section className="split-panel stack" aria-label="Driving">
        <div className="online-card card">
          <div>
            <h1 className="plain-heading">
              <span role="status" data-testid="driver-status">
                {online ? 'You are online' : 'You are offline'}
              </span>
            </h1>
            <p className="small muted">{online ? (live === 'live' ? 'Offers arrive live.' : 'Reconnecting; still asking for offers.') : 'Go online to get rides.'}</p>
          </div>
          <Button kind={online ? 'plain' : 'primary'} busy={toggle.busy} disabled={!online && here === null} onClick={() => void toggle.run()}>
            {online ? 'Go offline' : 'Go online'}
          </Button>
        </div>
        <ErrorNote error={toggle.error} />
        {here === null && <Notice tone="warn">Say where you are first: use your position, type a place, or tap the map.</Notice>}
        <div role="status" data-testid="late">
          {lateS !== null && (
            <Notice tone="warn">
              Riders cannot find you: your positions are {formatDuration(lateS)} old when they arrive. If the clock of this device is slow, that is
              put right within a minute or two.
            </Notice>
          )}
        </div>
        <div role="status">
          {withdrawn !== null && offer === null && <Notice>The offer was withdrawn ({withdrawn.replaceAll('_', ' ')}).</Notice>}
        </div>

        {offer !== null && (waiting || nearlyDone) && (
          <OfferCard
            key={offer.offer_id}
            offer={offer}
            driver={session.subject}
            onAccepted={(trip) => {
              if (trip.after_trip_id == null) setJob(trip);
              else setNext(trip);
              setOffer(null);
            }}
            onGone={() => setOffer(null)}
          />
        )}
        {next !== null && <Notice>Your next ride waits at {next.pickup.address ?? 'the place shown when this one ends'}.</Notice>}
        {job !== null && (
          <TripCard
            trip={job}
            riderName={current.data?.rider?.name ?? null}
            here={here}
            beforeEnd={settle}
            onTrip={setJob}
            onDone={() => {
              setJob(null);
              setAutopilot(false);
              if (next === null) return;
              setNext(null);
              // If this fails, the trip is found again like any other.
              loadTrip(client, next.id).then(setJob, open.reload);
            }}
          />
        )}
        {waiting && offer === null && job === null && (
          <Empty title="Waiting for a ride">You will see an offer here as soon as somebody near you asks.</Empty>
        )}
        <ErrorNote error={open.error} onRetry={open.reload} />

        <EarningsCard driver={session.subject} trip={job === null ? '' : `${job.id} ${job.status}`} />

        <section className="card stack" aria-labelledby="position">
          <div className="row-between">
            <h2 id="position">Your position</h2>
            {here !== null && (
              <Badge>
                <span className="number">
                  {here.lat.toFixed(4)}, {here.lng.toFixed(4)}
                </span>
              </Badge>
            )}
          </div>
          <PlaceField label="Place me at" value="" places={places} placeholder="Type a place, or drag the car" onChoose={place} />
          <div className="actions">
            <Button compact aria-pressed={position.following} onClick={() => position.follow(!position.following)}>
              {position.following ? 'Stop following' : 'Use my position'}
            </Button>
            <Button compact aria-pressed={autopilot} disabled={here === null} onClick={() => setAutopilot(!autopilot)}>
              {autopilot ? 'Stop driving' : 'Drive for me'}
            </Button>
          </div>
          {autopilot && <Segments legend="Speed" value={speed} options={SPEEDS} onChange={setSpeed} />}
          <p role="status" className="small error-text">
            {position.error}
          </p>
        </section>
      </section>
      <div className="split-map">
        <Map
          label="Map: where you are and where to go"
          view={view}
          markers={markers}
          lines={here !== null && target !== null ? [{ from: here, to: target }] : []}
          fit={fit}
          fitKey={ends === null ? '' : 'offer_id' in ends ? ends.offer_id : `${ends.id}${ends.status}`}
          message={here === null ? 'Tap where you are' : undefined}
          onPick={here === null ? place : undefined}
          onMarkerMove={(id, point) => {
            if (id === 'me') place(point);
          }}
        />
      </div>
    </div>
  );
}
