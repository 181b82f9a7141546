import { useState } from 'react';
import { cancelMove, directory as loadDirectory, moves as loadMoves, rehome } from '../api/calls';
import { clientOf } from '../api/session';
import type { Move, MoveMode } from '../api/types';
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
  voting: 'warn',
  completed: 'good',
  failed: 'bad',
  cancelled: 'info',
};

const QUESTIONS: Record<MoveMode, (tenant: string, target: string) => string> = {
  planned: (tenant, target) => `Move ${tenant} to ${target}? Its writes pause for about a second.`,
  failover: (tenant, target) =>
    `Is the home of ${tenant} gone? Then ${target} takes its place. Accounts and open rides stay at the old home: riders and drivers register anew.`,
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
                    <LastMove move={latest.get(tenant)} onChanged={moves.reload} />
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

/** A move in these states has not handed the home over. */
const CANCELLABLE: ReadonlySet<Move['state']> = new Set(['requested', 'copying', 'pausing']);

function LastMove({ move, onChanged }: { move: Move | undefined; onChanged: () => void }) {
  const [error, setError] = useState<unknown>(null);
  if (move === undefined) return <>–</>;
  const { mode, from_region, to_region, state, rows_moved, paused_ms, failure } = move;
  return (
    <span className="stack-s small" data-testid={`move-${move.tenant}`}>
      <span className="row">
        {from_region} → {to_region} {mode === 'failover' && 'by force '}
        <Badge tone={TONES[state]}>{state.replace('_', ' ')}</Badge>
      </span>
      <span className="muted">
        {mode === 'planned' && CANCELLABLE.has(state) && (
          <Button
            compact
            onClick={() => {
              cancelMove(clientOf('operator'), move.tenant, newKey()).then(onChanged, setError);
            }}
          >
            Cancel
          </Button>
        )}
        {mode === 'planned' && `${rows_moved} rows`}
        {paused_ms !== null && `, writes paused for ${paused_ms} ms`}
        {failure !== null && `: ${failure}`}
      </span>
      <ErrorNote error={error} />
    </span>
  );
}

function MoveForm({ tenant, targets, onMoved }: { tenant: string; targets: readonly string[]; onMoved: () => void }) {
  const [chosen, setChosen] = useState('');
  const [mode, setMode] = useState<MoveMode>('planned');
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const target = targets.includes(chosen) ? chosen : '';
  const move = async (): Promise<void> => {
    if (!window.confirm(QUESTIONS[mode](tenant, target))) return;
    setBusy(true);
    setError(null);
    try {
      await rehome(clientOf('operator'), tenant, target, mode, newKey());
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
        <select aria-label={`How to move ${tenant}`} value={mode} onChange={(event) => setMode(event.target.value as MoveMode)}>
          <option value="planned">Planned</option>
          <option value="failover">By force</option>
        </select>
        <Button compact busy={busy} disabled={target === ''} onClick={() => void move()}>
          Move
        </Button>
      </span>
      <ErrorNote error={error} />
    </>
  );
}
