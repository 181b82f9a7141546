import { clientOf, useSession, type Session } from '../api/session';
import { replaceQuery, useQuery } from '../router';
import { OfficePanel } from '../shell/client-panel';
import { ConfigView } from './config-view';
import { LiveView } from './live-view';
import { MoneyView } from './money-view';
import { RideStory } from './ride-story';
import { RidesView } from './rides-view';
import { SettlementsView } from './settlements-view';
import '../styles/office.css';

const VIEWS = [
  { id: 'live', label: 'Live map' },
  { id: 'rides', label: 'Rides' },
  { id: 'settlements', label: 'Settlements' },
  { id: 'money', label: 'Money' },
  { id: 'config', label: 'Config' },
] as const;

export default function OfficeScreen() {
  const session = useSession('tenant_admin');
  if (session === null) return <OfficePanel />;
  return <Office key={`${session.tenant ?? ''} ${session.subject}`} session={session} />;
}

function Office({ session }: { session: Session }) {
  const tenant = session.tenant ?? '';
  const asked = useQuery('view');
  const story = useQuery('ride');
  const view = VIEWS.find((one) => one.id === asked)?.id ?? 'live';
  const client = clientOf('tenant_admin');
  const openStory = (id: string): void => replaceQuery('ride', id);

  return (
    <div className="office">
      <nav className="office-tabs" aria-label="Back office">
        {VIEWS.map((one) => (
          <button
            key={one.id}
            type="button"
            aria-current={one.id === view ? 'page' : undefined}
            onClick={() => {
              replaceQuery('ride', null);
              replaceQuery('view', one.id);
            }}
          >
            {one.label}
          </button>
        ))}
      </nav>
      <div className={view === 'live' ? 'office-body full' : 'office-body'}>
        {view === 'live' && <LiveView tenant={tenant} client={client} onOpen={openStory} />}
        {view === 'rides' && <RidesView client={client} selected={story} onOpen={openStory} />}
        {view === 'settlements' && <SettlementsView client={client} tenant={tenant} />}
        {view === 'money' && <MoneyView client={client} tenant={tenant} />}
        {view === 'config' && <ConfigView client={client} tenant={tenant} />}
      </div>
      {story !== null && <RideStory key={story} id={story} client={client} tenant={tenant} onClose={() => replaceQuery('ride', null)} />}
    </div>
  );
}
