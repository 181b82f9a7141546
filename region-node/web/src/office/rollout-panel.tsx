import { useId, useState } from 'react';
import { configVersions, endCanary, pinConfig, publishConfig, unpinConfig } from '../api/calls';
import type { Client } from '../api/client';
import type { ConfigAnswer } from '../api/types';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { formatTime } from '../lib/time';
import { Badge, Button, Notice } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';

interface Props {
  client: Client;
  tenant: string;
  config: ConfigAnswer;
  /** Settings publishing would change. */
  changes: number;
  onChange: () => void;
}

/** Which version runs where: publish in every region or in one first, promote or roll back, pin. */
export function RolloutPanel({ client, tenant, config, changes, onChange }: Props) {
  const { published, running, rollout } = config;
  const attempt = useAttemptKey();
  const versions = useLoad(`${tenant} ${String(published?.version)}`, (signal) => configVersions(client, tenant, signal));
  const [region, setRegion] = useState('');
  const [chosen, setChosen] = useState('');
  const ids = { region: useId(), version: useId() };
  const act = useAction(async (command: (key: string) => Promise<unknown>, what: unknown) => {
    await command(attempt.keyFor(what));
    attempt.done();
    onChange();
  });

  const isRolledBack = rollout.canary === null && rollout.stable !== null;
  const canPublish = rollout.canary === null && ((changes > 0 && config.config['auto_publish'] === false) || isRolledBack);
  const version = chosen === '' ? (running.version?.version ?? null) : Number(chosen);
  const pin = (here: boolean) => {
    if (version !== null) void act.run((key) => pinConfig(client, tenant, { version, here }, key), ['pin', version, here]);
  };

  return (
    <section className="card stack-s" aria-labelledby="rollout">
      <div className="row-between">
        <h2 id="rollout">Versions</h2>
        <span className="row">
          <Badge tone={running.version === null ? 'bad' : 'good'}>
            {running.version === null ? 'Nothing runs' : `Version ${running.version.version} runs`} in {running.region}
          </Badge>
          {rollout.canary !== null && (
            <Badge tone="info">
              Version {rollout.canary.version} is tried in {rollout.canary.region}
            </Badge>
          )}
          {isRolledBack && <Badge tone="warn">Rolled back to {rollout.stable}</Badge>}
          {rollout.pinned !== null && <Badge tone="warn">Pinned to {rollout.pinned}</Badge>}
          {rollout.pinned_here !== null && <Badge tone="warn">Pinned to {rollout.pinned_here} here</Badge>}
        </span>
      </div>
      {running.refused.length > 0 && (
        <Notice tone="bad">
          <ul>
            {running.refused.map((refused) => (
              <li key={refused.version}>
                Version {refused.version} is refused in {running.region}: {refused.field} {refused.reason}
              </li>
            ))}
          </ul>
        </Notice>
      )}
      <ErrorNote error={act.error ?? versions.error} />
      {rollout.canary !== null && (
        <div className="row">
          <Button kind="primary" busy={act.busy} onClick={() => void act.run((key) => endCanary(client, tenant, 'promote', key), 'promote')}>
            Promote to all regions
          </Button>
          <Button kind="danger" busy={act.busy} onClick={() => void act.run((key) => endCanary(client, tenant, 'rollback', key), 'rollback')}>
            Roll back
          </Button>
        </div>
      )}
      {canPublish && (
        <div className="row">
          <label htmlFor={ids.region} className="small muted">
            Run it in
          </label>
          <select id={ids.region} className="input" value={region} onChange={(event) => setRegion(event.target.value)}>
            <option value="">every region</option>
            {rollout.regions.map((name) => (
              <option key={name} value={name}>
                {name} first
              </option>
            ))}
          </select>
          <Button
            kind="primary"
            busy={act.busy}
            onClick={() =>
              void act.run((key) => publishConfig(client, tenant, region === '' ? null : region, key), ['publish', config.heads, region, rollout])
            }
          >
            {changes > 0 ? 'Publish the draft' : 'Publish again'}
          </Button>
          {changes > 0 && (
            <span className="small muted">
              {changes} {changes === 1 ? 'setting' : 'settings'} would change
            </span>
          )}
        </div>
      )}
      <div className="row">
        <label htmlFor={ids.version} className="small muted">
          Pin
        </label>
        <select id={ids.version} className="input" value={version ?? ''} onChange={(event) => setChosen(event.target.value)}>
          {(versions.data?.items ?? []).map((item) => (
            <option key={item.version} value={item.version}>
              version {item.version}, {formatTime(item.published_at)}
            </option>
          ))}
        </select>
        <Button busy={act.busy} disabled={version === null} onClick={() => pin(false)}>
          In every region
        </Button>
        <Button busy={act.busy} disabled={version === null} onClick={() => pin(true)}>
          In {running.region} alone
        </Button>
        {rollout.pinned !== null && (
          <Button kind="quiet" busy={act.busy} onClick={() => void act.run(() => unpinConfig(client, tenant, false), 'unpin')}>
            Unpin
          </Button>
        )}
        {rollout.pinned_here !== null && (
          <Button kind="quiet" busy={act.busy} onClick={() => void act.run(() => unpinConfig(client, tenant, true), 'unpin here')}>
            Unpin here
          </Button>
        )}
      </div>
    </section>
  );
}
