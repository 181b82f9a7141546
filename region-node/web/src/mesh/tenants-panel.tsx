import { useState } from 'react';
import { directory as loadDirectory, moves as loadMoves, rehome } from '../api/calls';
import { clientOf } from '../api/session';
import type { Move } from '../api/types';
import { useLoad } from '../lib/hooks';
import { newKey } from '../lib/key';
import { Badge, Button, Empty, type Tone } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';

const TONES: Record<Move['state'], Tone> = {
  requested: 'info',
  copying: 'info',
  pausing: 'warn',
  handed_over: 'good',
  erasing: 'good',
  completed: 'good',
  failed: 'bad',
};

/** Where each tenant is at home, and its moves to other regions. */
export function TenantsPanel() {
  const directory = useLoad('directory', (signal) => loadDirectory(clientOf('operator'), signal), 2000);
  const moves = useLoad('moves', (signal) => loadMoves(clientOf('operator'), signal), 1000);
  const regions = Object.entries(directory.data?.regions ?? {});
  const active = regions.filter(([, region]) => region.state === 'active').map(([name]) => name);
  const homes = Object.entries(directory.data?.homes ?? {}).sort(([a], [b]) => a.localeCompare(b));
  const latest = new Map<string, Move>();
  for (const move of moves.data?.items ?? []) if (!latest.has(move.tenant)) latest.set(move.tenant, move);

  return (
    <section className="stack-s" aria-labelledby="tenants">
      <h2 id="tenants">Tenants</h2>
      <ErrorNote error={directory.error ?? moves.error} onRetry={directory.reload} />
      {directory.data !== null && homes.length === 0 ? (
        <div className="card">
          <Empty title="No tenants yet">A tenant appears once it was made.</Empty>
        </div>
      ) : (
        <div className="table-wrap tight">
          <table>
            <thead>
              <tr>
                <th scope="col">Tenant</th>
                <th scope="col">Home</th>
                <th scope="col">Last move</th>
                <th scope="col">Move to</th>
              </tr>
            </thead>
            <tbody>
              {homes.map(([tenant, home]) => (
                <tr key={tenant}>
                  <th scope="row">
                    {home.name} <span className="mono muted small">{tenant}</span>
                  </th>
                  <td>
                    {home.region} {home.state === 'moving' && <Badge tone="warn">paused</Badge>}
                  </td>
                  <td>
                    <LastMove move={latest.get(tenant)} />
                  </td>
                  <td>
                    <MoveForm tenant={tenant} targets={active.filter((name) => name !== home.region)} onMoved={moves.reload} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function LastMove({ move }: { move: Move | undefined }) {
  if (move === undefined) return <>–</>;
  const { from_region, to_region, state, rows_moved, paused_ms, failure } = move;
  return (
    <span className="stack-s small" data-testid={`move-${move.tenant}`}>
      <span className="row">
        {from_region} → {to_region} <Badge tone={TONES[state]}>{state.replace('_', ' ')}</Badge>
      </span>
      <span className="muted">
        {rows_moved} rows{paused_ms !== null && `, writes paused for ${paused_ms} ms`}
        {failure !== null && `: ${failure}`}
      </span>
    </span>
  );
}

function MoveForm({ tenant, targets, onMoved }: { tenant: string; targets: readonly string[]; onMoved: () => void }) {
  const [chosen, setChosen] = useState('');
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const target = targets.includes(chosen) ? chosen : '';
  const move = async (): Promise<void> => {
    if (!window.confirm(`Move ${tenant} to ${target}? Its writes pause for about a second.`)) return;
    setBusy(true);
    setError(null);
    try {
      await rehome(clientOf('operator'), tenant, target, newKey());
      setChosen('');
      onMoved();
    } catch (refused) {
      setError(refused);
    } finally {
      setBusy(false);
    }
  };
  return (
    <>
      <span className="row">
        <select aria-label={`Where to move ${tenant}`} value={target} onChange={(event) => setChosen(event.target.value)}>
          <option value="">Choose…</option>
          {targets.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
        <Button compact busy={busy} disabled={target === ''} onClick={() => void move()}>
          Move
        </Button>
      </span>
      <ErrorNote error={error} />
    </>
  );
}
