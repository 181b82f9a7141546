import { Map } from '../map/map';
import { AccountPanel } from './account-panel';
import { useTenant, useTenantChoice } from './use-tenant';

/** Signing in beside the map of the company chosen so far. */
export function AccountScreen({ role, title, lead }: { role: 'rider' | 'driver'; title: string; lead: string }) {
  const [tenant, chooseTenant] = useTenantChoice();
  const about = useTenant(tenant);
  return (
    <div className="split">
      <section className="split-panel" aria-label="Sign in">
        <AccountPanel role={role} title={title} lead={lead} tenant={tenant} about={about} onTenant={chooseTenant} />
      </section>
      <div className="split-map">
        <Map label="Map of the company's city" view={about.tenant?.view} waiting={tenant === '' ? 'Choose your company to see its city.' : undefined} />
      </div>
    </div>
  );
}
