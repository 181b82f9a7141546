import { useState, type SubmitEvent } from 'react';
import { signIn } from '../api/session';
import { useAction } from '../lib/hooks';
import { useQuery } from '../router';
import { Button, Field } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { TenantField } from './tenant-field';
import { lastTenant, rememberTenant } from './tenants';

/** Signs a back office or an operator in with a client id and secret. */
export function ClientPanel({ role, title, lead }: { role: 'tenant_admin' | 'operator'; title: string; lead: string }) {
  const asked = useQuery('tenant');
  const [tenant, setTenant] = useState(asked ?? lastTenant());
  const needsTenant = role === 'tenant_admin';
  const enter = useAction(async (client_id: string, client_secret: string) => {
    await signIn(role, needsTenant ? tenant : null, { grant_type: 'client_credentials', client_id, client_secret });
    if (needsTenant) rememberTenant(tenant);
  });
  const submit = (event: SubmitEvent<HTMLFormElement>): void => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const text = (name: string): string => {
      const value = form.get(name);
      return typeof value === 'string' ? value.trim() : '';
    };
    void enter.run(text('client_id'), text('client_secret'));
  };

  return (
    <div className="page narrow">
      <form className="card stack" onSubmit={submit}>
        <div className="stack-s">
          <h1>{title}</h1>
          <p className="muted">{lead}</p>
        </div>
        {needsTenant && <TenantField value={tenant} onChange={setTenant} />}
        <Field label="Client id" name="client_id" autoComplete="username" autoCapitalize="none" spellCheck={false} required />
        <Field label="Client secret" name="client_secret" type="password" autoComplete="current-password" required />
        <ErrorNote error={enter.error} />
        <Button type="submit" kind="primary" wide busy={enter.busy} disabled={needsTenant && tenant === ''}>
          Sign in
        </Button>
      </form>
    </div>
  );
}
