import { useId, useState } from 'react';
import { anonymous } from '../api/session';
import { route } from '../api/calls';
import { useLoad } from '../lib/hooks';
import { explain } from '../api/problem';
import { knownTenants } from './tenants';

const SLUG = /^[a-z0-9-]{2,40}$/;

/** The company: one of a list or any other by its id; says at once whether it exists and which region is its home. */
export function TenantField({ value, onChange }: { value: string; onChange: (tenant: string) => void }) {
  const id = useId();
  const known = knownTenants();
  const [typing, setTyping] = useState(value !== '' && known.every((tenant) => tenant.id !== value));
  const valid = SLUG.test(value);
  const home = useLoad(valid ? value : null, (signal) => route(anonymous(value), signal));
  const OTHER = '…other';

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
        {known.map((tenant) => (
          <option key={tenant.id} value={tenant.id}>
            {tenant.name}
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
      <span id={`${id}-home`} className={home.error != null ? 'error' : 'hint'} aria-live="polite">
        {home.data !== null && `At home in ${home.data.home_region}`}
        {home.error != null && explain(home.error)}
        {home.loading && 'Looking it up…'}
        {value !== '' && !valid && 'Lower-case letters, digits and hyphens'}
      </span>
    </div>
  );
}
