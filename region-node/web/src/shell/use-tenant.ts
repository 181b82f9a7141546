import { useState } from 'react';
import { useLoad } from '../lib/hooks';
import { useQuery } from '../router';
import { lastTenant, loadTenant, localTenant, type Tenant } from './tenants';

const AGAIN_MS = 60_000;
const SLUG = /^[a-z0-9-]{2,40}$/;

/** What was heard last, so that the next screen need not wait for it. */
const heard = new Map<string, Tenant>();

export interface AboutTenant {
  tenant: Tenant | null;
  error: unknown;
  loading: boolean;
}

/** What a company tells of itself, asked again each minute since its config may change. */
export function useTenant(id: string | null): AboutTenant {
  const known = id !== null && SLUG.test(id) ? id : null;
  const { data, error, loading } = useLoad(known, (signal) => loadTenant(known ?? '', signal), AGAIN_MS, (tenant) => heard.set(tenant.id, tenant));
  return { tenant: data ?? heard.get(known ?? '') ?? null, error, loading };
}

/** The company to sign in at: the one asked for, the one used last, or the one at home here. */
export function useTenantChoice(): [string, (tenant: string) => void] {
  const asked = useQuery('tenant');
  const [chosen, choose] = useState(asked ?? lastTenant());
  const local = useLoad(chosen === null ? 'local' : null, localTenant);
  return [chosen ?? local.data ?? '', choose];
}
