import { useState } from 'react';
import { useSession } from '../api/session';
import { Map } from '../map/map';
import { useQuery } from '../router';
import { AccountPanel } from '../shell/account-panel';
import { lastTenant, viewOf } from '../shell/tenants';
import { Cockpit } from './cockpit';

export default function DriverScreen() {
  const session = useSession('driver');
  const asked = useQuery('tenant');
  const [tenant, setTenant] = useState(asked ?? lastTenant());
  if (session !== null) return <Cockpit key={session.subject} session={session} />;
  const view = viewOf(tenant);
  return (
    <div className="split">
      <section className="split-panel" aria-label="Sign in">
        <AccountPanel role="driver" title="Drive with us" lead="Sign in, go online, and rides near you come to this screen." onTenant={setTenant} />
      </section>
      <div className="split-map">
        <Map label="Map of the company's city" centre={view.centre} zoom={view.zoom} />
      </div>
    </div>
  );
}
