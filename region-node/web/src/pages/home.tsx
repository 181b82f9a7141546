import { health } from '../api/calls';
import { anonymous } from '../api/session';
import { useLoad } from '../lib/hooks';
import { followLink } from '../router';
import { Badge } from '../ui/controls';
import { Icon } from '../ui/icon';

const DOORS = [
  { path: '/rider', title: 'Ride', words: 'See the price, request, and follow your driver to the door.' },
  { path: '/driver', title: 'Drive', words: 'Go online, take offers near you, and get paid per trip.' },
  { path: '/office', title: 'Back office', words: 'Your fleet live, every ride’s story, settlements and config.' },
  { path: '/mesh', title: 'Mesh', words: 'All regions, their links, and whether they agree.' },
] as const;

export default function Home() {
  const node = useLoad('health', (signal) => health(anonymous(null), signal), 5000);
  return (
    <div className="page home">
      <div className="home-head">
        <h1>Rides that keep running, region by region.</h1>
        <p className="muted">
          GoComet DAW runs ride-hailing companies on independent regions. Each one takes, drives and settles rides on its own, and shares what must be
          known everywhere.
        </p>
        <p role="status">
          {node.data !== null && (
            <Badge tone={node.data.status === 'ok' ? 'good' : 'warn'} dot>
              {node.data.region ?? 'This node'} {node.data.status === 'ok' ? 'is up' : 'runs degraded'}
            </Badge>
          )}
          {node.error != null && (
            <Badge tone="bad" dot>
              This node does not answer
            </Badge>
          )}
        </p>
      </div>
      <ul className="doors">
        {DOORS.map((door) => (
          <li key={door.path}>
            <a className="door" href={door.path} onClick={followLink}>
              <h2>
                {door.title}
                <Icon name="arrow" />
              </h2>
              <p className="muted">{door.words}</p>
            </a>
          </li>
        ))}
      </ul>
      <footer className="small muted home-foot">
        <a href="/docs">API documentation</a>
        <a href="/credits" onClick={followLink}>
          Map data and credits
        </a>
      </footer>
    </div>
  );
}
