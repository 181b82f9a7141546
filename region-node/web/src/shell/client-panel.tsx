import type { SubmitEvent } from 'react';
import { signIn } from '../api/session';
import { useAction } from '../lib/hooks';
import { Button, Field } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { TenantField, type TenantFieldProps } from './tenant-field';
import { rememberTenant } from './tenants';
import { useTenant, useTenantChoice } from './use-tenant';

/** Signs a company's back office in. */
export function OfficePanel() {
  const [tenant, chooseTenant] = useTenantChoice();
  const about = useTenant(tenant);
  return (
    <ClientPanel
      role="tenant_admin"
      title="Back office"
      lead="See your drivers and rides as they move, and what became of each."
      company={{ value: tenant, about, onChange: chooseTenant }}
    />
  );
}

/** Signs an operator in. */
export function OperatorPanel() {
  return <ClientPanel role="operator" title="Mesh" lead="For operators: all regions, the links between them, and whether they agree." />;
}

interface ClientPanelProps {
  role: 'tenant_admin' | 'operator';
  title: string;
  lead: string;
  /** The company whose back office signs in; an operator belongs to none. */
  company?: TenantFieldProps;
}

function ClientPanel({ role, title, lead, company }: ClientPanelProps) {
  const enter = useAction(async (client_id: string, client_secret: string) => {
    await signIn(role, company?.value ?? null, { grant_type: 'client_credentials', client_id, client_secret });
    if (company !== undefined) rememberTenant(company.value, company.about.tenant?.name ?? company.value);
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
        {company !== undefined && <TenantField {...company} />}
        <Field label="Client id" name="client_id" autoComplete="username" autoCapitalize="none" spellCheck={false} required />
        <Field label="Client secret" name="client_secret" type="password" autoComplete="current-password" required />
        <p className="small muted">
          {company === undefined ? 'The operator is named in the configuration of each region.' : 'The operator hands these out when a company is created.'} In the
          demo, <code>.local/cluster.json</code> lists them.
        </p>
        <ErrorNote error={enter.error} />
        <Button type="submit" kind="primary" wide busy={enter.busy} disabled={company !== undefined && company.about.tenant === null}>
          Sign in
        </Button>
      </form>
    </div>
  );
}
