import { useMemo, useState } from 'react';
import { nearbyDrivers, rides as loadRides, surge as loadSurge, zones as loadZones } from '../api/calls';
import type { Client } from '../api/client';
import type { RideStatus } from '../api/types';
import { useLoad } from '../lib/hooks';
import { formatTime } from '../lib/time';
import { Map } from '../map/map';
import type { MapLine, MapMarker, MapShape, MapViewport } from '../map/types';
import { useTenant } from '../shell/use-tenant';
import { Badge, Empty, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { RideBadge } from '../ui/ride-badge';
import { ShortId } from '../ui/short-id';
import { scarce, surgeShapes, times, zoneShapes } from './shapes';
import { SurgePanel } from './surge-panel';
import { ZonesPanel } from './zones-panel';

const OPEN: readonly RideStatus[] = ['requested', 'offered', 'accepted', 'arrived', 'in_progress'];
const WIDEST_M = 50_000;
const MOST_DRIVERS = 500;

const nearby = (viewport: MapViewport | null) =>
  viewport && {
    lat: Number(viewport.centre.lat.toFixed(5)),
    lng: Number(viewport.centre.lng.toFixed(5)),
    radius_m: Math.min(WIDEST_M, Math.max(100, Math.round(viewport.radiusM))),
    limit: MOST_DRIVERS,
  };

/** Drivers where they are now, the rides under way, the zones and where prices are raised. */
export function LiveView({ tenant, client, onOpen }: { tenant: string; client: Client; onOpen: (ride: string) => void }) {
  const view = useTenant(tenant).tenant?.view;
  const [viewport, setViewport] = useState<MapViewport | null>(null);

  const around = nearby(viewport ?? (view == null ? null : { centre: view.centre, radiusM: 8000 }));
  const drivers = useLoad(
    around === null ? null : JSON.stringify(around),
    (signal) => {
      if (around === null) throw new Error('nowhere to look');
      return nearbyDrivers(client, around, signal);
    },
    1000,
  );
  const [lastDrivers, setLastDrivers] = useState(drivers.data);
  if (drivers.data !== null && drivers.data !== lastDrivers) setLastDrivers(drivers.data);
  const cars = useMemo(() => (lastDrivers?.items ?? []).map((car) => ({ ...car, busy: car.doing !== undefined && car.doing !== 'free' })), [lastDrivers]);
  const busy = cars.filter((car) => car.busy).length;

  const rides = useLoad(
    `open ${tenant}`,
    async (signal) => {
      const pages = await Promise.all(OPEN.map((status) => loadRides(client, { status, limit: 50 }, signal)));
      return pages.flatMap((page) => page.items).sort((a, b) => (a.id < b.id ? 1 : -1));
    },
    2000,
  );
  const open = useMemo(() => rides.data ?? [], [rides.data]);
  const zones = useLoad(`zones ${tenant}`, (signal) => loadZones(client, signal), 3000);
  const surge = useLoad(`surge ${tenant}`, (signal) => loadSurge(client, signal), 3000);
  const cells = useMemo(() => scarce(surge.data), [surge.data]);
  const shapes: MapShape[] = useMemo(() => [...surgeShapes(cells), ...zoneShapes(zones.data?.items ?? [])], [cells, zones.data]);
  const [hovered, setHovered] = useState<string | null>(null);

  const lines: MapLine[] = useMemo(() => open.map((ride) => ({ from: ride.pickup, to: ride.dropoff })), [open]);
  const markers: MapMarker[] = useMemo(
    () =>
      open
        .filter((ride) => ride.id === hovered)
        .flatMap((ride): MapMarker[] => [
          { id: `${ride.id} from`, kind: 'pickup', lat: ride.pickup.lat, lng: ride.pickup.lng, label: 'Pick-up', showLabel: true },
          { id: `${ride.id} to`, kind: 'dropoff', lat: ride.dropoff.lat, lng: ride.dropoff.lng, label: 'Drop-off', showLabel: true },
        ]),
    [open, hovered],
  );

  return (
    <div className="live">
      <div className="live-map">
        <Map label="Live map of drivers and rides" view={view} cars={cars} lines={lines} shapes={shapes} markers={markers} onViewport={setViewport} />
      </div>
      <section className="live-side stack" aria-labelledby="live">
        <h1 id="live" className="visually-hidden">
          Live map
        </h1>
        <div className="tiles">
          <p className="tile">
            <strong className="number" data-testid="drivers-shown">
              {lastDrivers === null ? '–' : cars.length}
            </strong>
            <span className="small muted">drivers in view, {busy} busy</span>
          </p>
          <p className="tile">
            <strong className="number">{rides.data === null ? '–' : open.length}</strong>
            <span className="small muted">open rides</span>
          </p>
          <p className="tile">
            <strong className="number">{rides.data === null ? '–' : open.filter((ride) => ride.status === 'requested' || ride.status === 'offered').length}</strong>
            <span className="small muted">waiting</span>
          </p>
          <p className="tile">
            <strong className="number" data-testid="surge">
              {surge.data === null ? '–' : times(cells[0]?.surge_multiplier ?? 1)}
            </strong>
            <span className="small muted">{surge.data?.enabled === false ? 'surge is off' : 'highest surge'}</span>
          </p>
        </div>
        <ErrorNote error={drivers.error ?? rides.error ?? zones.error ?? surge.error} />
        {zones.data !== null && zones.data.items.length > 0 && <ZonesPanel client={client} zones={zones.data.items} />}
        {cells.length > 0 && <SurgePanel cells={cells} />}
        <h2>Open rides</h2>
        {rides.loading && <Skeleton lines={5} />}
        {rides.data !== null && open.length === 0 && <Empty title="No open rides">Requests appear here within two seconds.</Empty>}
        <ul className="ride-list">
          {open.map((ride) => (
            <li key={ride.id}>
              <button
                type="button"
                onClick={() => onOpen(ride.id)}
                onMouseEnter={() => setHovered(ride.id)}
                onMouseLeave={() => setHovered(null)}
                onFocus={() => setHovered(ride.id)}
                onBlur={() => setHovered(null)}
              >
                <span className="row-between">
                  <ShortId id={ride.id} />
                  <RideBadge status={ride.status} />
                </span>
                <span className="small muted row-between">
                  <span>{ride.pickup.address ?? ride.vehicle_class}</span>
                  <span>{formatTime(ride.requested_at)}</span>
                </span>
              </button>
            </li>
          ))}
        </ul>
        {cars.length >= MOST_DRIVERS && <Badge tone="warn">Only the nearest {MOST_DRIVERS} drivers are shown</Badge>}
      </section>
    </div>
  );
}
