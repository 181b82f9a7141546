import { Fragment, useState } from 'react';
import { config as loadConfig, patchConfig } from '../api/calls';
import type { Client } from '../api/client';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { formatTime } from '../lib/time';
import { Badge, Empty, Notice, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { compare, pathOf } from './compare';
import { patchOf } from './edit';
import { RolloutPanel } from './rollout-panel';
import { LabelForm, SettingEditor } from './setting-editor';

function show(value: unknown): string {
  if (value === undefined) return '–';
  if (typeof value === 'string') return value;
  if (Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === 'string')) return value.join(', ');
  return JSON.stringify(value);
}

/** A path that breaks between its names. */
function Path({ keys }: { keys: readonly string[] }) {
  return keys.map((key, index) => (
    <Fragment key={index}>
      {index > 0 && (
        <>
          .<wbr />
        </>
      )}
      {key}
    </Fragment>
  ));
}

/** The company's config: the merged draft beside what runs, where edits in two regions disagreed, and new edits. */
export function ConfigView({ client, tenant }: { client: Client; tenant: string }) {
  const loaded = useLoad(tenant, (signal) => loadConfig(client, tenant, signal), 5000);
  const attempt = useAttemptKey();
  const [editing, setEditing] = useState<string | null>(null);
  const write = useAction(async (keys: readonly string[], value: unknown) => {
    const heads = loaded.data?.heads ?? [];
    await patchConfig(client, tenant, patchOf(keys, value), heads, attempt.keyFor([keys, value, heads]));
    attempt.done();
    setEditing(null);
    loaded.reload();
  });
  const { data } = loaded;
  const rows = data === null ? [] : compare(data.published?.config ?? {}, data.config);
  const changed = rows.filter((row) => row.differs);

  return (
    <section className="stack" aria-labelledby="config">
      <div className="row-between">
        <h1 id="config">Config</h1>
        {data !== null && (
          <span className="row">
            {data.published === null ? (
              <Badge tone="warn">Nothing published</Badge>
            ) : (
              <Badge tone="good">
                Version {data.published.version}, {formatTime(data.published.published_at)}
              </Badge>
            )}
            {changed.length > 0 ? <Badge tone="warn">Draft differs</Badge> : <Badge>Draft is published</Badge>}
          </span>
        )}
      </div>
      <ErrorNote error={loaded.error} onRetry={loaded.reload} />
      {loaded.loading && <Skeleton lines={8} />}
      {data !== null && (
        <>
          {data.rejected.length > 0 && (
            <Notice tone="warn">
              <div>
                <p>The draft is not published:</p>
                <ul>
                  {data.rejected.map((reason) => (
                    <li key={reason}>{reason}</li>
                  ))}
                </ul>
              </div>
            </Notice>
          )}
          {data.conflicts.length > 0 && (
            <div className="card stack-s">
              <h2>Conflicts</h2>
              <p className="small muted">Two regions changed the same setting at once. The winner is in the draft; write the value you want to settle it.</p>
              <div className="table-wrap">
                <table>
                  <thead>
                    <tr>
                      <th scope="col">Setting</th>
                      <th scope="col">Values</th>
                      <th scope="col">Winner</th>
                    </tr>
                  </thead>
                  <tbody>
                    {data.conflicts.map((conflict) => (
                      <tr key={conflict.path}>
                        <td className="mono">{conflict.path}</td>
                        <td className="mono">{conflict.values.map(show).join(' | ')}</td>
                        <td className="mono">{show(conflict.winner)}</td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            </div>
          )}
          <ErrorNote error={write.error} />
          <RolloutPanel client={client} tenant={tenant} config={data} changes={changed.length} onChange={loaded.reload} />
          {rows.length === 0 ? (
            <div className="card">
              <Empty title="Everything is at its default">Nothing was set for this company.</Empty>
            </div>
          ) : (
            <div className="table-wrap settings">
              <table>
                <caption className="visually-hidden">Settings, draft and published</caption>
                <thead>
                  <tr>
                    <th scope="col">Setting</th>
                    <th scope="col">Published</th>
                    <th scope="col">Draft</th>
                    <th scope="col">
                      <span className="visually-hidden">Change</span>
                    </th>
                  </tr>
                </thead>
                <tbody>
                  {rows.map((row) => {
                    const path = pathOf(row.keys);
                    return (
                      <tr key={path} className={row.differs ? 'selected' : ''}>
                        <th scope="row" className="mono">
                          <Path keys={row.keys} />
                        </th>
                        {editing === path ? (
                          <td colSpan={3}>
                            <SettingEditor
                              keys={row.keys}
                              value={row.after}
                              busy={write.busy}
                              onSave={(value) => void write.run(row.keys, value)}
                              onRemove={row.keys[0] === 'labels' ? () => void write.run(row.keys, null) : undefined}
                              onCancel={() => setEditing(null)}
                            />
                          </td>
                        ) : (
                          <>
                            <td className="mono">{show(row.before)}</td>
                            <td className="mono">{row.differs ? <strong>{show(row.after)}</strong> : show(row.after)}</td>
                            <td className="edit-cell">
                              {row.after !== undefined && (
                                <button type="button" className="link-button" aria-label={`Edit ${path}`} onClick={() => setEditing(path)}>
                                  Edit
                                </button>
                              )}
                            </td>
                          </>
                        )}
                      </tr>
                    );
                  })}
                </tbody>
              </table>
            </div>
          )}
          <LabelForm busy={write.busy} onAdd={(name, value) => write.run(['labels', name], value)} />
          <details>
            <summary className="small muted">Version of the draft</summary>
            <ul className="mono">
              {data.heads.map((head) => (
                <li key={head}>{head}</li>
              ))}
            </ul>
          </details>
        </>
      )}
    </section>
  );
}
