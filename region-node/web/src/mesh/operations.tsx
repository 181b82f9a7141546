import { useId, useState } from 'react';
import { giveSyncCommand, quarantine, rejected, syncCommands } from '../api/calls';
import { clientOf } from '../api/session';
import type { FactStream, GivenCommand, PeerStatus, QuarantinedEntry, RegionView, RejectedFact, SyncCommand } from '../api/types';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { usePages } from '../lib/pages';
import { formatTime } from '../lib/time';
import { Badge, Button, Checkbox, Field, Notice } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { words } from './command';
import { behind, bytes, nameOf, seconds } from './lag';

const STREAMS: readonly FactStream[] = ['control', 'config', 'ledger'];
const SHORTEST_REASON = 3;
/** Rows that can be mended one by one; more are mended together. */
const ROWS_WITH_BUTTON = 10;

interface Props {
  regions: readonly RegionView[];
  onChange: () => void;
}

/** What an operator has a region's replication do. Every command is kept with who gave it and why. */
export function Operations({ regions, onChange }: Props) {
  const names = regions.map((region) => region.name);
  const [chosen, setChosen] = useState<string | null>(null);
  const region = regions.find(({ name }) => name === chosen) ?? regions[0];
  const select = useId();
  if (region === undefined) return null;
  return (
    <section className="stack" aria-labelledby="operations">
      <div className="row-between">
        <h2 id="operations">Operations</h2>
        <span className="row">
          <label htmlFor={select} className="small muted">
            Region
          </label>
          <select id={select} className="input" value={region.name} onChange={(event) => setChosen(event.target.value)}>
            {names.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </span>
      </div>
      <RegionOperations key={region.name} region={region} regions={regions} onChange={onChange} />
    </section>
  );
}

interface RegionProps {
  region: RegionView;
  regions: readonly RegionView[];
  onChange: () => void;
}

function RegionOperations({ region, regions, onChange }: RegionProps) {
  const peers = regions.map(({ name }) => name).filter((name) => name !== region.name);
  const client = clientOf('operator');
  const [reason, setReason] = useState('');
  const attempt = useAttemptKey();
  const aside = usePages(`quarantine ${region.name}`, (cursor, signal) => quarantine(client, region.name, cursor, signal));
  const refused = usePages(`rejected ${region.name}`, (cursor, signal) => rejected(client, region.name, cursor, signal));
  const given = useLoad(`commands ${region.name}`, (signal) => syncCommands(client, region.name, signal), 5000);
  const act = useAction(async (command: SyncCommand) => {
    await giveSyncCommand(client, region.name, { command, reason: reason.trim() }, attempt.keyFor([region.name, command, reason]));
    attempt.done();
    given.reload();
    aside.reload();
    refused.reload();
    onChange();
  });
  const ready = reason.trim().length >= SHORTEST_REASON && !act.busy;
  const give = (command: SyncCommand) => () => void act.run(command);

  return (
    <>
      <div className="card stack-s">
        <Field
          label="Reason"
          hint="Kept with the command and your name. Buttons wait for it."
          value={reason}
          maxLength={300}
          onChange={(event) => setReason(event.target.value)}
        />
        <div className="row">
          <Button disabled={!ready} onClick={give('compare')}>
            Compare with all regions
          </Button>
          <Button disabled={!ready} onClick={give('verify')}>
            Verify all logs
          </Button>
          {peers.map((peer) => (
            <Button key={peer} disabled={!ready} onClick={give({ load_snapshot: { peer } })}>
              Load a snapshot of {peer}
            </Button>
          ))}
        </div>
        <Membership region={region} regions={regions} ready={ready} give={give} />
        <LeftBehind ready={ready} give={give} />
        <ErrorNote error={act.error} />
        <Damage region={region} ready={ready} give={give} />
      </div>
      <Peers peers={region.sync?.peers ?? []} ready={ready} give={give} />
      <Quarantine
        items={aside.items}
        error={aside.error}
        ready={ready}
        give={give}
        onMore={aside.hasMore ? aside.more : null}
        onRetry={aside.reload}
      />
      <Rejected
        items={refused.items}
        error={refused.error}
        ready={ready}
        give={give}
        onMore={refused.hasMore ? refused.more : null}
        onRetry={refused.reload}
      />
      <Commands given={given.data?.items ?? []} error={given.error} onRetry={given.reload} />
    </>
  );
}

interface MembershipProps {
  region: RegionView;
  regions: readonly RegionView[];
  ready: boolean;
  give: Give;
}

/** The way out of the mesh and back, and of others that are gone. */
function Membership({ region, regions, ready, give }: MembershipProps) {
  const leaves = region.state === 'draining' || region.state === 'retired';
  const gone = regions.filter((other) => other.name !== region.name && other.state !== 'retired' && !other.health.ready && other.sync === null);
  return (
    <div className="row">
      {!leaves && (
        <Button kind="danger" disabled={!ready} onClick={give('drain')}>
          Drain {region.name}
        </Button>
      )}
      {region.state === 'draining' && (
        <Button kind="danger" disabled={!ready} onClick={give('leave')}>
          Let {region.name} leave
        </Button>
      )}
      {leaves && (
        <Button disabled={!ready} onClick={give('join')}>
          Let {region.name} join again
        </Button>
      )}
      {gone.map(({ name }) => (
        <Button key={name} kind="danger" disabled={!ready} onClick={give({ retire: { region: name } })}>
          Give up {name}
        </Button>
      ))}
    </div>
  );
}

/** What a tenant left in a region it was taken from by force. */
function LeftBehind({ ready, give }: { ready: boolean; give: Give }) {
  const [tenant, setTenant] = useState('');
  const [andGivenUp, setAndGivenUp] = useState(false);
  const named = tenant.trim();
  const erase = { erase_lost: { tenant: named, and_given_up: andGivenUp } };
  return (
    <div className="row">
      <Field
        label="Tenant taken from here by force"
        hint="Its old accounts, rides and balances here are erased for good; then it can move back."
        value={tenant}
        maxLength={40}
        onChange={(event) => {
          setTenant(event.target.value);
          // It was said of another tenant.
          setAndGivenUp(false);
        }}
      />
      <Checkbox
        label="Also with payments or refunds that were given up here"
        hint="Nobody knows whether their money moved: only once somebody has seen to each at the payment provider."
        checked={andGivenUp}
        onChange={setAndGivenUp}
      />
      <Button kind="danger" disabled={!ready || named === ''} onClick={give(erase)}>
        Erase what it left
      </Button>
    </div>
  );
}

function Damage({ region, ready, give }: { region: RegionView; ready: boolean; give: Give }) {
  const damage = region.sync?.damage ?? null;
  const differing = Object.entries(region.sync?.differing ?? {});
  const diverged = Object.entries(region.sync?.diverged ?? {});
  const rows = [...new Set([...(damage?.rows ?? []), ...differing.flatMap(([, keys]) => keys)])];
  if ((damage === null || damage.entries === 0) && differing.length === 0 && diverged.length === 0) return null;
  return (
    <Notice tone="bad">
      <ul>
        {(damage?.named ?? []).map((what) => (
          <li key={what} className="mono">
            {what}
          </li>
        ))}
        {differing.map(([of, keys]) => (
          <li key={of}>
            Others in {of}: <span className="mono">{keys.join(', ')}</span>
          </li>
        ))}
        {diverged.map(([peer, entries]) => (
          <li key={peer}>
            Other logs in {peer}, as these entries show: <span className="mono">{entries.join(', ')}</span>
          </li>
        ))}
      </ul>
      {rows.length > 0 && (
        <div className="row">
          {rows.slice(0, ROWS_WITH_BUTTON).map((key) => (
            <Button key={key} compact disabled={!ready} onClick={give({ mend: { key } })}>
              Mend {key}
            </Button>
          ))}
          {rows.length > 1 && (
            <Button compact disabled={!ready} onClick={give('mend_all')}>
              Mend all {rows.length} rows
            </Button>
          )}
        </div>
      )}
    </Notice>
  );
}

type Give = (command: SyncCommand) => () => void;

function Peers({ peers, ready, give }: { peers: readonly PeerStatus[]; ready: boolean; give: Give }) {
  if (peers.length === 0) return null;
  return (
    <div className="table-wrap tight">
      <table>
        <caption className="visually-hidden">What each peer lacks, by kind of log</caption>
        <thead>
          <tr>
            <th scope="col">Peer</th>
            <th scope="col">Stream</th>
            <th scope="col" className="num">
              Behind
            </th>
            <th scope="col" className="num">
              Bytes
            </th>
            <th scope="col" className="num">
              Lag
            </th>
            <th scope="col" className="num">
              Credit
            </th>
            <th scope="col">
              <span className="visually-hidden">Pause</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {peers.flatMap((peer) =>
            STREAMS.map((stream) => {
              const lag = behind(peer, stream);
              const what = { peer: peer.region, stream };
              const paused = peer.paused?.includes(stream) ?? false;
              return (
                <tr key={`${peer.region} ${stream}`}>
                  <th scope="row">{peer.region}</th>
                  <td>
                    {stream} {paused && <Badge tone="warn">paused</Badge>}
                  </td>
                  <td className="num">{lag.entries}</td>
                  <td className="num">{bytes(lag.bytes)}</td>
                  <td className="num">{seconds(lag.ms)}</td>
                  <td className="num">{lag.credit === null ? '–' : bytes(lag.credit)}</td>
                  <td>
                    <Button compact disabled={!ready} onClick={give(paused ? { resume: what } : { pause: what })}>
                      {paused ? 'Resume' : 'Pause'}
                    </Button>
                  </td>
                </tr>
              );
            }),
          )}
        </tbody>
      </table>
    </div>
  );
}

interface QuarantineProps {
  items: readonly QuarantinedEntry[];
  error: unknown;
  ready: boolean;
  give: Give;
  onMore: (() => void) | null;
  onRetry: () => void;
}

function Quarantine({ items, error, ready, give, onMore, onRetry }: QuarantineProps) {
  return (
    <>
      <h3>Set aside</h3>
      <ErrorNote error={error} onRetry={onRetry} />
      {items.length === 0 && error === null && <p className="muted small">Everything stored is applied.</p>}
      {items.length > 0 && (
        <div className="table-wrap">
          <table>
            <caption className="visually-hidden">Entries stored and not applied, newest first</caption>
            <thead>
              <tr>
                <th scope="col">Entry</th>
                <th scope="col">Kind</th>
                <th scope="col">Why</th>
                <th scope="col">
                  <span className="visually-hidden">Commands</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {items.map(({ origin, incarnation, stream, seq, ...entry }) => {
                const place = { origin, incarnation, stream, seq };
                return (
                  <tr key={nameOf(place)}>
                    <th scope="row" className="mono">
                      {nameOf(place)}
                    </th>
                    <td>
                      {entry.kind} {entry.tenant != null && <span className="muted small">{entry.tenant}</span>}
                    </td>
                    <td>
                      <Badge tone={entry.state === 'skipped' ? 'plain' : 'warn'}>{entry.state}</Badge> {entry.reason}
                    </td>
                    <td>
                      <span className="row">
                        <Button compact disabled={!ready} onClick={give({ retry: place })}>
                          Retry
                        </Button>
                        {entry.state !== 'skipped' && (
                          <Button compact kind="danger" disabled={!ready} onClick={give({ skip: place })}>
                            Skip
                          </Button>
                        )}
                        <Button compact disabled={!ready} onClick={give({ refetch: place })}>
                          Fetch from here anew
                        </Button>
                      </span>
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
      {onMore !== null && <Button onClick={onMore}>Show older</Button>}
    </>
  );
}

interface RejectedProps {
  items: readonly RejectedFact[];
  error: unknown;
  ready: boolean;
  give: Give;
  onMore: (() => void) | null;
  onRetry: () => void;
}

/** Facts of the region's own that may not leave it; what they say is not shown. */
function Rejected({ items, error, ready, give, onMore, onRetry }: RejectedProps) {
  if (items.length === 0 && error === null) return null;
  return (
    <>
      <h3>Refused</h3>
      <ErrorNote error={error} onRetry={onRetry} />
      {items.length > 0 && (
        <div className="table-wrap">
          <table>
            <caption className="visually-hidden">Facts that may not leave the region, newest first</caption>
            <thead>
              <tr>
                <th scope="col">Committed</th>
                <th scope="col">Kind</th>
                <th scope="col">Why</th>
                <th scope="col">
                  <span className="visually-hidden">Commands</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {items.map(({ id, ...fact }) => (
                <tr key={id}>
                  <th scope="row">
                    {formatTime(fact.committed_at)} <span className="muted small mono">{id}</span>
                  </th>
                  <td>
                    {fact.kind} {fact.tenant != null && <span className="muted small">{fact.tenant}</span>}
                  </td>
                  <td>{fact.reason}</td>
                  <td>
                    <span className="row">
                      <Button compact disabled={!ready} onClick={give({ readmit: { id } })}>
                        Readmit
                      </Button>
                      <Button compact kind="danger" disabled={!ready} onClick={give({ dismiss: { id } })}>
                        Dismiss
                      </Button>
                    </span>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {onMore !== null && <Button onClick={onMore}>Show older</Button>}
    </>
  );
}

function Commands({ given, error, onRetry }: { given: readonly GivenCommand[]; error: unknown; onRetry: () => void }) {
  return (
    <>
      <h3>Commands given</h3>
      <ErrorNote error={error} onRetry={onRetry} />
      {given.length === 0 && error === null && <p className="muted small">None yet.</p>}
      {given.length > 0 && (
        <div className="table-wrap">
          <table>
            <caption className="visually-hidden">Commands, newest first</caption>
            <thead>
              <tr>
                <th scope="col">Given</th>
                <th scope="col">By</th>
                <th scope="col">Command</th>
                <th scope="col">Outcome</th>
              </tr>
            </thead>
            <tbody>
              {given.map((command) => (
                <tr key={command.id}>
                  <td>{formatTime(command.made_at)}</td>
                  <td>{command.made_by}</td>
                  <td>
                    {words(command.command)}
                    <p className="muted small">{command.reason}</p>
                  </td>
                  <td>
                    {command.done == null ? <Badge>waits</Badge> : <Badge tone={command.done ? 'good' : 'bad'}>{command.done ? 'done' : 'refused'}</Badge>}{' '}
                    {command.outcome}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}
