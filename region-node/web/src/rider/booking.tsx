import { useEffect, useState, type ReactNode } from 'react';
import { estimate as loadEstimate, requestRide, type Journey, type Wish } from '../api/calls';
import { ApiError } from '../api/problem';
import { clientOf, type Session } from '../api/session';
import type { Place, Ride } from '../api/types';
import { locate } from '../lib/locate';
import type { Point } from '../lib/geo';
import { useAction, useAttemptKey, useLoad, useNow } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { formatDistance, formatDuration, secondsUntil } from '../lib/time';
import { cityAt } from '../map/cities';
import { Map } from '../map/map';
import { describe, placesOf } from '../map/places';
import type { MapMarker } from '../map/types';
import { useTenant } from '../shell/use-tenant';
import { usualClass } from '../shell/vehicle-class';
import { VehicleClassField } from '../shell/vehicle-class-field';
import { Badge, Button, Field, Segments, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { Icon } from '../ui/icon';
import { PlaceField } from '../ui/place-field';
import { PromotionField } from './promotion-field';
import { RideHistory } from './ride-history';
import { WalletCard } from './wallet-card';

type End = 'pickup' | 'dropoff';

const METHODS = [
  { value: 'card', label: 'Card' },
  { value: 'wallet', label: 'Wallet' },
  { value: 'cash', label: 'Cash' },
] as const;

interface BookingProps {
  session: Session;
  history: readonly Ride[];
  notice: ReactNode;
  onRide: (ride: Ride) => void;
  onReload: () => void;
}

/** From two points and a price to a request. */
export function Booking({ session, history, notice, onRide, onReload }: BookingProps) {
  const client = clientOf('rider');
  const { tenant } = useTenant(session.tenant);
  const view = tenant?.view;
  const city = view == null ? null : cityAt(view.centre);
  const places = useLoad(city?.id ?? null, () => (city === null ? Promise.resolve([]) : placesOf(city))).data ?? [];

  const [ends, setEnds] = useState<{ pickup: Place | null; dropoff: Place | null }>({ pickup: null, dropoff: null });
  const [picking, setPicking] = useState<End>('pickup');
  const [chosenClass, setChosenClass] = useState<string | null>(null);
  const classes = tenant?.vehicleClasses ?? [];
  const vehicleClass = chosenClass !== null && classes.includes(chosenClass) ? chosenClass : usualClass(classes);
  const [method, setMethod] = useState<(typeof METHODS)[number]['value']>('card');
  const [when, setWhen] = useState<'now' | 'later'>('now');
  const [later, setLater] = useState('');

  const set = (end: End, point: Point, name?: string): void => {
    const address = name ?? describe(point, places);
    const place: Place = { lat: point.lat, lng: point.lng, ...(address === null ? {} : { address }) };
    setEnds((before) => ({ ...before, [end]: place }));
    setPicking(end === 'pickup' ? 'dropoff' : 'pickup');
  };
  const findMe = useAction(async () => set('pickup', await locate()));

  const { pickup, dropoff } = ends;
  const journey: Journey | null = pickup && dropoff && vehicleClass !== null ? { pickup, dropoff, vehicle_class: vehicleClass } : null;
  const [code, setCode] = useState('');
  const scheduled = when === 'later' && later !== '' ? { scheduled_at: new Date(later).toISOString() } : {};
  const wish: Wish | null = journey && { ...journey, ...scheduled, ...(code === '' ? {} : { promotion_code: code }) };
  const quote = useLoad(wish === null ? null : JSON.stringify(wish), (signal) => {
    if (wish === null) throw new Error('nothing to estimate');
    return loadEstimate(client, wish, signal);
  });
  const now = useNow(1000, quote.data !== null);
  const left = quote.data === null ? 0 : secondsUntil(quote.data.expires_at, now);
  const expired = quote.data !== null && left === 0;
  const renew = quote.reload;
  useEffect(() => {
    if (expired && document.visibilityState === 'visible') renew();
  }, [expired, renew]);

  const attempt = useAttemptKey();
  const request = useAction(async () => {
    if (journey === null || quote.data === null) return;
    const body = { ...journey, payment_method: { type: method }, quote_id: quote.data.quote_id, ...scheduled };
    try {
      const made = await requestRide(client, body, attempt.keyFor(body));
      attempt.done();
      if (made.scheduled_at == null) onRide(made);
      else {
        setEnds({ pickup: null, dropoff: null });
        setWhen('now');
        onReload();
      }
    } catch (error) {
      if (error instanceof ApiError && error.code === 'quote_expired') renew();
      if (error instanceof ApiError && error.code === 'ride_in_progress') onReload();
      throw error;
    }
  });

  const markers: MapMarker[] = [];
  if (pickup) markers.push({ id: 'pickup', kind: 'pickup', lat: pickup.lat, lng: pickup.lng, label: 'Pick-up', showLabel: true, draggable: true });
  if (dropoff) markers.push({ id: 'dropoff', kind: 'dropoff', lat: dropoff.lat, lng: dropoff.lng, label: 'Drop-off', showLabel: true, draggable: true });
  const done = pickup !== null && dropoff !== null;
  const text = (place: Place | null): string => (place === null ? '' : (place.address ?? `${place.lat.toFixed(4)}, ${place.lng.toFixed(4)}`));

  return (
    <div className="split">
      <section className="split-panel stack" aria-label="Book a ride">
        <h1>Where to?</h1>
        {notice}
        <div className="ends card stack">
          <div className="row ends-row">
            <div className="grow">
              <PlaceField
                label="Pick-up"
                value={text(pickup)}
                places={places}
                placeholder="Type a place or tap the map"
                onFocus={() => setPicking('pickup')}
                onChoose={(place) => set('pickup', place, place.name)}
              />
            </div>
            <button type="button" className="icon-button" aria-label="Pick me up where I am" onClick={() => void findMe.run()}>
              {findMe.busy ? <span className="spinner" /> : <Icon name="locate" />}
            </button>
          </div>
          <div className="row ends-row">
            <div className="grow">
              <PlaceField
                label="Drop-off"
                value={text(dropoff)}
                places={places}
                placeholder="Type a place or tap the map"
                onFocus={() => setPicking('dropoff')}
                onChoose={(place) => set('dropoff', place, place.name)}
              />
            </div>
            <button
              type="button"
              className="icon-button"
              aria-label="Swap pick-up and drop-off"
              disabled={!done}
              onClick={() => setEnds({ pickup: dropoff, dropoff: pickup })}
            >
              <Icon name="swap" />
            </button>
          </div>
          {findMe.error != null && <p className="small error-text">Your position is not available. Choose the pick-up on the map.</p>}
        </div>
        {vehicleClass !== null && <VehicleClassField classes={classes} value={vehicleClass} onChange={setChosenClass} />}
        <Segments legend="Pay by" value={method} options={METHODS} onChange={setMethod} />
        <Segments
          legend="When"
          value={when}
          options={[
            { value: 'now', label: 'Now' },
            { value: 'later', label: 'Later' },
          ]}
          onChange={setWhen}
        />
        {when === 'later' && (
          <Field label="Pick-up time" type="datetime-local" value={later} required onChange={(event) => setLater(event.target.value)} />
        )}
        <PromotionField code={code} onCode={setCode} />
        <div aria-live="polite">
          {journey !== null && quote.data === null && quote.error == null && (
            <div className="card">
              <Skeleton lines={2} />
            </div>
          )}
          {quote.data !== null && (
            <div className="card quote">
              <div>
                <p className="price number" data-testid="fare">
                  {formatMoney(quote.data.fare)}
                </p>
                {quote.data.discount !== undefined && (
                  <p className="small" data-testid="discount">
                    {formatMoney(quote.data.discount)} off with {code}
                  </p>
                )}
                <p className="small muted">
                  {formatDistance(quote.data.distance_m)} · about {formatDuration(quote.data.duration_s)}
                </p>
              </div>
              <div className="quote-side">
                {quote.data.surge_multiplier > 1 && <Badge tone="warn">Busy: {quote.data.surge_multiplier.toFixed(1)}×</Badge>}
                {when === 'now' && (
                  <p className="small">
                    {quote.data.pickup_eta_s == null ? 'No car near right now' : `Pick-up in ${formatDuration(quote.data.pickup_eta_s)}`}
                  </p>
                )}
              </div>
            </div>
          )}
        </div>
        {quote.data !== null && (
          <p className="small muted number" aria-hidden="true">
            {expired ? 'Getting a new price…' : `Price holds for ${formatDuration(left)}`}
          </p>
        )}
        <ErrorNote error={quote.error} onRetry={quote.reload} />
        <ErrorNote error={request.error} />
        <Button
          kind="primary"
          wide
          busy={request.busy}
          disabled={quote.data === null || expired || (when === 'later' && later === '')}
          onClick={() => void request.run()}
        >
          {when === 'later' ? 'Schedule ride' : 'Request ride'}
        </Button>
        <WalletCard />
        <RideHistory rides={history} onChanged={onReload} />
      </section>
      <div className="split-map">
        <Map
          label="Map: choose pick-up and drop-off"
          view={view}
          markers={markers}
          lines={pickup && dropoff ? [{ from: pickup, to: dropoff }] : []}
          fit={pickup && dropoff ? [pickup, dropoff] : []}
          message={done ? undefined : picking === 'pickup' ? 'Tap your pick-up' : 'Tap your drop-off'}
          onPick={(point) => set(done ? picking : pickup === null ? picking : 'dropoff', point)}
          onMarkerMove={(id, point) => set(id === 'pickup' ? 'pickup' : 'dropoff', point)}
        />
      </div>
    </div>
  );
}
