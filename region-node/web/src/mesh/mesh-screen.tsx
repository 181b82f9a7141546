import { regions as loadRegions } from '../api/calls';
import { clientOf, useSession } from '../api/session';
import type { RegionView, SyncStatus } from '../api/types';
import { useLoad } from '../lib/hooks';
import { OperatorPanel } from '../shell/client-panel';
import { Badge, Empty, Skeleton, type Tone } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { agreement, furthest, known } from './agreement';
import { MeshDrawing } from './mesh-drawing';
import { Operations } from './operations';
import { TenantsPanel } from './tenants-panel';
import '../styles/mesh.css';

export default function MeshScreen() {
  const session = useSession('operator');
  if (session === null) return <OperatorPanel />;
  return <Mesh />;
}

function Mesh() {
  const view = useLoad('regions', (signal) => loadRegions(clientOf('operator'), signal), 2000);
  const regions = view.data?.regions ?? [];
  const { asked, equal } = agreement(regions);

  return (
    <div className="page stack">
      <div className="row-between">
        <div>
          <h1>Mesh</h1>
          {view.data !== null && <p className="muted small">As {view.data.region} sees it, every two seconds.</p>}
        </div>
        <span role="status" data-testid="agreement">
          {asked > 1 && <Badge tone={equal ? 'good' : 'warn'}>{equal ? `${asked} regions hold the same facts` : 'Catching up: digests differ'}</Badge>}
          {asked === 1 && <Badge>Only one region answers</Badge>}
        </span>
      </div>
      <ErrorNote error={view.error} onRetry={view.reload} />
      {view.loading && <Skeleton lines={6} />}
      {view.data !== null && regions.length === 0 && (
        <div className="card">
          <Empty title="No regions yet">A region appears once it announced itself.</Empty>
        </div>
      )}
      {regions.length > 0 && (
        <>
          <div className="mesh-top">
            <div className="card mesh-card">
              <MeshDrawing regions={regions} />
            </div>
            <div className="region-cards">
              {regions.map((region) => (
                <RegionCard key={region.name} region={region} />
              ))}
            </div>
          </div>
          <TenantsPanel />
          <Links regions={regions} />
          <Vectors regions={regions} />
          <Operations regions={regions} onChange={view.reload} />
        </>
      )}
    </div>
  );
}

const PARTS = ['postgres', 'redis', 'sync'] as const;

function RegionCard({ region }: { region: RegionView }) {
  const tone: Tone = !region.health.ready ? 'bad' : PARTS.every((part) => region.health[part]) ? 'good' : 'warn';
  return (
    <article className="card stack-s" aria-label={region.name}>
      <div className="row-between">
        <h2>{region.name}</h2>
        <Badge tone={tone} dot>
          {region.health.ready ? (tone === 'good' ? 'Ready' : 'Degraded') : 'Not reachable'}
        </Badge>
      </div>
      <p className="row">
        {PARTS.map((part) => (
          <Badge key={part} tone={region.health[part] ? 'plain' : 'bad'}>
            {part} {region.health[part] ? 'up' : 'down'}
          </Badge>
        ))}
        {region.state !== 'active' && <Badge tone="info">{region.state}</Badge>}
      </p>
      <p className="small">
        <a href={region.base_url}>{region.base_url}</a>
      </p>
      {region.sync != null && <Findings sync={region.sync} />}
      <p className="mono muted" title={region.sync?.digest}>
        digest {region.sync === null ? 'unknown' : region.sync.digest.slice(0, 16)}
      </p>
    </article>
  );
}

/** Who leads, and what people should look at. */
function Findings({ sync }: { sync: SyncStatus }) {
  const aside = Object.entries(sync.quarantine ?? {}).filter(([state, count]) => count > 0 && state !== 'skipped');
  const differing = Object.values(sync.differing ?? {}).flat().length;
  const diverged = Object.values(sync.diverged ?? {}).flat().length;
  const damaged = sync.damage?.entries ?? 0;
  return (
    <p className="row small">
      {sync.lease != null && (
        <span className="muted" title={`instance ${sync.lease.holder}`}>
          {sync.lease.valid_for_ms > 0 ? `leader no. ${sync.lease.epoch}` : 'nobody leads'}
        </span>
      )}
      {aside.map(([state, count]) => (
        <Badge key={state} tone="warn">
          {count} {state}
        </Badge>
      ))}
      {damaged > 0 && <Badge tone="bad">{damaged} damaged</Badge>}
      {differing > 0 && <Badge tone="bad">{differing} rows differ</Badge>}
      {diverged > 0 && <Badge tone="bad">{diverged} logs differ</Badge>}
    </p>
  );
}

function Links({ regions }: { regions: readonly RegionView[] }) {
  const rows = regions.flatMap((region) => (region.sync?.peers ?? []).map((peer) => ({ from: region.name, peer })));
  return (
    <section className="stack-s" aria-labelledby="links">
      <h2 id="links">Links</h2>
      {rows.length === 0 ? (
        <div className="card">
          <Empty title="No links">A region alone has nobody to talk to.</Empty>
        </div>
      ) : (
        <div className="table-wrap tight">
          <table>
            <thead>
              <tr>
                <th scope="col">Region</th>
                <th scope="col">Peer</th>
                <th scope="col">Link</th>
                <th scope="col" className="num">
                  Round trip
                </th>
                <th scope="col" className="num">
                  Behind
                </th>
                <th scope="col" className="num">
                  Lag
                </th>
              </tr>
            </thead>
            <tbody>
              {rows.map(({ from, peer }) => (
                <tr key={`${from} ${peer.region}`}>
                  <th scope="row">{from}</th>
                  <td>{peer.region}</td>
                  <td>
                    <Badge tone={peer.connected ? 'good' : 'bad'} dot>
                      {peer.connected ? 'connected' : 'cut'}
                    </Badge>
                  </td>
                  <td className="num">{peer.rtt_ms == null ? '–' : `${peer.rtt_ms.toFixed(peer.rtt_ms < 10 ? 1 : 0)} ms`}</td>
                  <td className="num">{peer.lag_entries == null ? '–' : `${peer.lag_entries} entries`}</td>
                  <td className="num">{peer.lag_ms == null ? '–' : `${Math.round(peer.lag_ms)} ms`}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

function Vectors({ regions }: { regions: readonly RegionView[] }) {
  const origins = furthest(regions);
  const asked = regions.filter((region) => region.sync !== null);
  if (origins.size === 0) return null;
  return (
    <section className="stack-s" aria-labelledby="vectors">
      <h2 id="vectors">Version vectors</h2>
      <p className="small muted">What each region holds of every origin: control · config · ledger. Marked where it is behind the furthest.</p>
      <div className="table-wrap tight">
        <table>
          <thead>
            <tr>
              <th scope="col">Origin</th>
              {asked.map((region) => (
                <th key={region.name} scope="col">
                  {region.name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {[...origins].map(([origin, most]) => (
              <tr key={origin}>
                <th scope="row" className="mono">
                  {origin}
                </th>
                {asked.map((region) => {
                  const vector = region.sync?.version_vector ?? {};
                  const streams = vector[origin];
                  const behind = most - known(vector, origin);
                  return (
                    <td key={region.name}>
                      <span className="row">
                        {streams === undefined ? '–' : `${streams.control} · ${streams.config} · ${streams.ledger}`}
                        {behind > 0 && <Badge tone="warn">−{behind}</Badge>}
                      </span>
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
