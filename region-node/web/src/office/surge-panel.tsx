import type { SurgeCell } from '../api/types';
import { times } from './shapes';

/** What more cells there are is on the map. */
const SHOWN = 5;

/** Where drivers are scarcest, and what that does to prices. */
export function SurgePanel({ cells }: { cells: readonly SurgeCell[] }) {
  return (
    <section className="stack-s" aria-labelledby="surge">
      <h2 id="surge">Surge</h2>
      <ul className="zone-list">
        {cells.slice(0, SHOWN).map((cell) => (
          <li key={`${cell.cell} ${cell.vehicle_class}`} className="row-between">
            <span>
              <strong className="number">{times(cell.surge_multiplier)}</strong> {cell.vehicle_class}
            </span>
            <span className="small muted">
              {cell.demand.toFixed(1)} rides, {cell.supply.toFixed(1)} drivers
            </span>
          </li>
        ))}
      </ul>
      {cells.length > SHOWN && <p className="small muted">and {cells.length - SHOWN} more on the map</p>}
    </section>
  );
}
