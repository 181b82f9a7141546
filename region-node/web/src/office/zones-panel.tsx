import { useState } from 'react';
import { zoneQueue } from '../api/calls';
import type { Client } from '../api/client';
import type { Zone, ZoneQueueEntry } from '../api/types';
import { useLoad } from '../lib/hooks';
import { formatTime } from '../lib/time';
import { Badge, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { ShortId } from '../ui/short-id';
import { waitingIn } from './shapes';

/** The company's zones; whoever waits in one is shown when it is opened. */
export function ZonesPanel({ client, zones }: { client: Client; zones: readonly Zone[] }) {
  return (
    <section className="stack-s" aria-labelledby="zones">
      <h2 id="zones">Zones</h2>
      <ul className="zone-list">
        {zones.map((zone) => (
          <li key={zone.id}>{zone.waiting === null ? <ZoneName zone={zone} /> : <ZoneWithQueue zone={zone} client={client} />}</li>
        ))}
      </ul>
    </section>
  );
}

function ZoneName({ zone }: { zone: Zone }) {
  return (
    <span className="row-between">
      <span>{zone.name === '' ? zone.id : zone.name}</span>
      <span className="small muted">{waitingIn(zone)}</span>
    </span>
  );
}

function ZoneWithQueue({ zone, client }: { zone: Zone; client: Client }) {
  const [open, setOpen] = useState(false);
  const queue = useLoad(open ? zone.id : null, (signal) => zoneQueue(client, zone.id, signal), 2000);
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <ZoneName zone={zone} />
      </summary>
      <ErrorNote error={queue.error} />
      {queue.loading && <Skeleton lines={3} />}
      {queue.data !== null && queue.data.items.length === 0 && <p className="small muted">Nobody waits here.</p>}
      {queue.data !== null && queue.data.items.length > 0 && <Queue name={zone.name} entries={queue.data.items} />}
    </details>
  );
}

function Queue({ name, entries }: { name: string; entries: readonly ZoneQueueEntry[] }) {
  return (
    <table className="queue">
      <caption className="visually-hidden">Queue of {name}, first to last</caption>
      <thead>
        <tr>
          <th scope="col" className="num">
            Place
          </th>
          <th scope="col">Driver</th>
          <th scope="col">Class</th>
          <th scope="col">Since</th>
        </tr>
      </thead>
      <tbody>
        {entries.map((entry) => (
          <tr key={entry.driver_id}>
            <td className="num">{entry.place}</td>
            <td>
              <ShortId id={entry.driver_id} />
            </td>
            <td>
              <span className="row">
                {entry.vehicle_class}
                {entry.declines > 0 && <Badge tone="warn">{entry.declines} declined</Badge>}
                {entry.away_since !== null && <Badge tone="warn">Away</Badge>}
              </span>
            </td>
            <td>{formatTime(entry.entered_at)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
