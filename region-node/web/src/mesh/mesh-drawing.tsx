import type { PeerStatus, RegionView } from '../api/types';

const RADIUS = 118;
/** Room around the outermost regions for their circles and names. */
const MARGIN = { x: 64, y: 64 };

interface Spot {
  x: number;
  y: number;
}

function place(index: number, count: number): Spot {
  const angle = (index / count) * 2 * Math.PI - Math.PI / 2;
  const radius = count === 1 ? 0 : RADIUS;
  return { x: Math.cos(angle) * radius * 1.35, y: Math.sin(angle) * radius };
}

function linkOf(a: RegionView, b: RegionView): PeerStatus[] {
  const there = a.sync?.peers.find((peer) => peer.region === b.name);
  const back = b.sync?.peers.find((peer) => peer.region === a.name);
  return [there, back].filter((peer) => peer !== undefined);
}

/** All regions on a ring and the links between them; the table below says the same in words. */
export function MeshDrawing({ regions }: { regions: readonly RegionView[] }) {
  const spots = regions.map((_, index) => place(index, regions.length));
  const pairs = regions.flatMap((a, i) => regions.slice(i + 1).map((b, j) => ({ a, b, i, k: i + 1 + j })));
  const left = Math.min(...spots.map(({ x }) => x)) - MARGIN.x;
  const right = Math.max(...spots.map(({ x }) => x)) + MARGIN.x;
  const top = Math.min(...spots.map(({ y }) => y)) - MARGIN.y;
  const bottom = Math.max(...spots.map(({ y }) => y)) + MARGIN.y;
  return (
    <svg className="mesh" viewBox={`${left} ${top} ${right - left} ${bottom - top}`} role="img" aria-label={`${regions.length} regions and the links between them`}>
      {pairs.map(({ a, b, i, k }) => {
        const from = spots[i];
        const to = spots[k];
        const ways = linkOf(a, b);
        if (from === undefined || to === undefined) return null;
        const up = ways.filter((peer) => peer.connected);
        const state = ways.length === 0 ? 'unknown' : up.length === 0 ? 'cut' : up.length < ways.length ? 'half' : 'up';
        const rtt = up.map((peer) => peer.rtt_ms).find((ms) => ms != null);
        const lag = Math.max(0, ...ways.map((peer) => peer.lag_entries ?? 0));
        const words = state === 'cut' ? 'cut' : state === 'unknown' ? '?' : `${rtt == null ? '–' : Math.round(rtt)} ms${lag > 0 ? ` · ${lag} behind` : ''}`;
        const middle = { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 };
        return (
          <g key={`${a.name} ${b.name}`}>
            <line className={`link ${state}`} x1={from.x} y1={from.y} x2={to.x} y2={to.y} />
            <rect className="link-label" x={middle.x - words.length * 3.7 - 8} y={middle.y - 12} width={words.length * 7.4 + 16} height={24} rx={12} />
            <text className="link-words" x={middle.x} y={middle.y + 4}>
              {words}
            </text>
          </g>
        );
      })}
      {regions.map((region, index) => {
        const spot = spots[index];
        if (spot === undefined) return null;
        return (
          <g key={region.name} transform={`translate(${spot.x} ${spot.y})`}>
            <circle className={region.health.ready ? 'node' : 'node down'} r={30} />
            <circle className={region.health.ready ? 'node-core' : 'node-core down'} r={9} />
            {/* On the side away from the others, where no link passes. */}
            <text className="node-name" y={spot.y < 0 ? -40 : 48}>
              {region.name}
            </text>
          </g>
        );
      })}
    </svg>
  );
}
