import { useState, type SubmitEvent } from 'react';
import { registerDriver, registerRider } from '../api/calls';
import { ApiError } from '../api/problem';
import { anonymous, signIn } from '../api/session';
import { useAction, useAttemptKey } from '../lib/hooks';
import { Button, Field, Segments } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { TenantField } from './tenant-field';
import { rememberTenant } from './tenants';
import type { AboutTenant } from './use-tenant';
import { usualClass } from './vehicle-class';
import { VehicleClassField } from './vehicle-class-field';

type Mode = 'sign-in' | 'register';

/** Signs riders and drivers in, or makes them an account first. */
export function AccountPanel({ role, title, lead, tenant, about, onTenant }: {
  role: 'rider' | 'driver';
  title: string;
  lead: string;
  tenant: string;
  about: AboutTenant;
  onTenant: (tenant: string) => void;
}) {
  const [mode, setMode] = useState<Mode>('sign-in');
  const [chosenClass, setChosenClass] = useState<string | null>(null);
  const classes = about.tenant?.vehicleClasses ?? [];
  const vehicleClass = chosenClass !== null && classes.includes(chosenClass) ? chosenClass : usualClass(classes);
  const attempt = useAttemptKey();

  const enter = useAction(async (form: FormData) => {
    const text = (name: string): string => {
      const value = form.get(name);
      return typeof value === 'string' ? value.trim() : '';
    };
    const secret = form.get('password');
    const password = typeof secret === 'string' ? secret : '';
    const phone = text('phone').replace(/[\s()./-]/g, '');
    if (mode === 'register') {
      const account = { name: text('name'), phone, password };
      if (role === 'rider') {
        await registerRider(anonymous(tenant), account, attempt.keyFor([tenant, account]));
      } else if (vehicleClass !== null) {
        const vehicle = { class: vehicleClass, plate: text('plate'), model: text('model'), seats: Number(text('seats')) };
        await registerDriver(anonymous(tenant), { ...account, vehicle }, attempt.keyFor([tenant, account, vehicle]));
      }
      attempt.done();
    }
    await signIn(role, tenant, { grant_type: 'password', phone, password });
    rememberTenant(tenant, about.tenant?.name ?? tenant);
  });

  const problem = enter.error instanceof ApiError ? enter.error : null;
  const fieldError = (name: string): string | undefined => problem?.fieldError(name);
  const submit = (event: SubmitEvent<HTMLFormElement>): void => {
    event.preventDefault();
    void enter.run(new FormData(event.currentTarget));
  };

  return (
    <form className="stack" onSubmit={submit}>
      <div className="stack-s">
        <h1>{title}</h1>
        <p className="muted">{lead}</p>
      </div>
      <Segments
        legend="Account"
        hideLegend
        value={mode}
        options={[
          { value: 'sign-in', label: 'Sign in' },
          { value: 'register', label: 'Create account' },
        ]}
        onChange={(next) => {
          enter.clear();
          setMode(next);
        }}
      />
      <TenantField value={tenant} about={about} onChange={onTenant} />
      {mode === 'register' && <Field label="Name" name="name" autoComplete="name" required maxLength={80} error={fieldError('name')} />}
      <Field
        label="Phone"
        name="phone"
        type="tel"
        inputMode="tel"
        autoComplete="username"
        required
        placeholder="+1 555 0100"
        error={fieldError('phone')}
      />
      <Field
        label="Password"
        name="password"
        type="password"
        autoComplete={mode === 'register' ? 'new-password' : 'current-password'}
        required
        minLength={mode === 'register' ? 8 : undefined}
        {...(mode === 'register' ? { hint: 'At least 8 characters' } : {})}
        error={fieldError('password')}
      />
      {mode === 'register' && role === 'driver' && (
        <fieldset className="stack card">
          <legend className="visually-hidden">Vehicle</legend>
          {vehicleClass !== null && <VehicleClassField classes={classes} value={vehicleClass} onChange={setChosenClass} />}
          <Field label="Model" name="model" required maxLength={60} placeholder="Toyota Camry" error={fieldError('model')} />
          <div className="field-row">
            <Field label="Plate" name="plate" required maxLength={16} autoCapitalize="characters" error={fieldError('plate')} />
            <Field label="Seats" name="seats" type="number" min={1} max={60} defaultValue={4} required error={fieldError('seats')} />
          </div>
        </fieldset>
      )}
      <ErrorNote error={enter.error} />
      <Button type="submit" kind="primary" wide busy={enter.busy} disabled={about.tenant === null}>
        {mode === 'register' ? 'Create account' : 'Sign in'}
      </Button>
    </form>
  );
}
