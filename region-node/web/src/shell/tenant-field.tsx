import { useId, useState } from 'react';
import { explain } from '../api/problem';
import { knownTenants } from './tenants';
import type { AboutTenant } from './use-tenant';

const OTHER = '…other';

export interface TenantFieldProps {
  value: string;
  about: AboutTenant;
  onChange: (tenant: string) => void;
}

/** The company: one of a list or any other by its id; says at once whether it exists and which region is its home. */
export function TenantField({ value, about, onChange }: TenantFieldProps) {
  const id = useId();
  const known = knownTenants();
  const [typing, setTyping] = useState(value !== '' && known.every((tenant) => tenant.id !== value));
  const { tenant, error, loading } = about;

  return (
    <div className="field">
      <label htmlFor={id}>Company</label>
      <select
        id={id}
        className="input"
        aria-describedby={`${id}-home`}
        value={typing ? OTHER : value}
        onChange={(event) => {
          const other = event.target.value === OTHER;
          setTyping(other);
          onChange(other ? '' : event.target.value);
        }}
      >
        <option value="" disabled>
          Choose a company
        </option>
        {known.map((one) => (
          <option key={one.id} value={one.id}>
            {one.name}
          </option>
        ))}
        <option value={OTHER}>Another company…</option>
      </select>
      {typing && (
        <input
          className="input"
          aria-label="Company id"
          placeholder="company-id"
          autoCapitalize="none"
          spellCheck={false}
          value={value}
          onChange={(event) => onChange(event.target.value.trim().toLowerCase())}
        />
      )}
      <span id={`${id}-home`} className={error != null ? 'error' : 'hint'} aria-live="polite">
        {error != null && explain(error)}
        {error == null && tenant !== null && `${typing ? `${tenant.name}. ` : ''}At home in ${tenant.homeRegion}`}
        {loading && tenant === null && 'Looking it up…'}
        {value !== '' && tenant === null && error == null && !loading && 'Lower-case letters, digits and hyphens'}
      </span>
    </div>
  );
}
