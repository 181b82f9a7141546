import { useState } from 'react';
import { differencesOf, reconcile, reconciliations } from '../api/calls';
import type { Client } from '../api/client';
import type { Difference, Reconciliation } from '../api/types';
import { useAction, useAttemptKey } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { usePages } from '../lib/pages';
import { formatTime } from '../lib/time';
import { Badge, Button, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { ShortId } from '../ui/short-id';
import { inWords } from './differences';

/** What payment services have done, compared with the books here: each day, and when somebody asks. */
export function Reconciliations({ client, tenant }: { client: Client; tenant: string }) {
  const found = usePages(`reconciliations ${tenant}`, (cursor, signal) => reconciliations(client, cursor, signal));
  const attempt = useAttemptKey();
  const compare = useAction(async () => {
    await reconcile(client, attempt.keyFor([tenant]));
    attempt.done();
    found.reload();
  });
  return (
    <section className="stack" aria-labelledby="reconciliations">
      <div>
        <h2 id="reconciliations">Compared with the payment service</h2>
        <p className="muted small">
          Each day what the payment service has done is compared with the payments and the ledger here. Nothing is mended by itself.
        </p>
      </div>
      <div>
        <Button compact busy={compare.busy} onClick={() => void compare.run()}>
          Compare the last day
        </Button>{' '}
        <Button compact onClick={found.reload}>
          Look again
        </Button>
      </div>
      <ErrorNote error={compare.error} />
      <ErrorNote error={found.error} onRetry={found.reload} />
      {found.loading && <Skeleton lines={2} />}
      {!found.loading && found.error === null && found.items.length === 0 && <p className="muted small">Nothing was compared yet.</p>}
      {found.items.length > 0 && (
        <div className="table-wrap">
          <table>
            <caption className="visually-hidden">Comparisons, newest first</caption>
            <thead>
              <tr>
                <th scope="col">Of</th>
                <th scope="col">Account</th>
                <th scope="col" className="num">
                  Listed there
                </th>
                <th scope="col">Result</th>
                <th scope="col">
                  <span className="visually-hidden">Differences</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {found.items.map((one) => (
                <Row key={one.id} client={client} one={one} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {found.hasMore && <Button onClick={found.more}>Show older comparisons</Button>}
    </section>
  );
}

function Row({ client, one }: { client: Client; one: Reconciliation }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <tr>
        <td>{one.day ?? `${formatTime(one.from)} to ${formatTime(one.to)}`}</td>
        <td>{one.provider}</td>
        <td className="num">{one.listed}</td>
        <td>
          <Result one={one} />
        </td>
        <td>
          {one.differences > 0 && (
            <Button compact aria-expanded={open} onClick={() => setOpen(!open)}>
              {open ? 'Hide' : 'Show'}
            </Button>
          )}
        </td>
      </tr>
      {open && (
        <tr>
          <td colSpan={5}>
            <Differences client={client} id={one.id} />
          </td>
        </tr>
      )}
    </>
  );
}

function Result({ one }: { one: Reconciliation }) {
  if (one.status === 'failed') {
    return (
      <>
        <Badge tone="bad">failed</Badge> <span className="muted small">{one.failure}</span>
      </>
    );
  }
  if (one.status === 'running') return <Badge tone="info">under way</Badge>;
  if (one.differences === 0) return <Badge tone="good">nothing differs</Badge>;
  return <Badge tone="bad">{one.differences === 1 ? '1 difference' : `${one.differences} differences`}</Badge>;
}

function Differences({ client, id }: { client: Client; id: string }) {
  const found = usePages(`differences ${id}`, (cursor, signal) => differencesOf(client, id, cursor, signal));
  return (
    <div className="stack">
      <ErrorNote error={found.error} onRetry={found.reload} />
      {found.loading && <Skeleton lines={1} />}
      <ul>
        {found.items.map((difference) => (
          <li key={difference.id}>
            <OneDifference difference={difference} />
          </li>
        ))}
      </ul>
      {found.hasMore && <Button onClick={found.more}>Show more differences</Button>}
    </div>
  );
}

function OneDifference({ difference }: { difference: Difference }) {
  const { payment_id, refund_id, provider_ref, here, there } = difference;
  return (
    <>
      {inWords(difference.class)}
      {payment_id != null && (
        <>
          , payment <ShortId id={payment_id} />
        </>
      )}
      {refund_id != null && (
        <>
          , refund <ShortId id={refund_id} />
        </>
      )}
      {provider_ref != null && (
        <>
          , there <span className="mono">{provider_ref}</span>
        </>
      )}
      <p className="muted small">
        {here == null ? 'Nothing here' : `Here ${formatMoney(here)}, ${here.status}`};{' '}
        {there == null ? 'nothing there' : `there ${formatMoney(there)}, ${there.status}`}
      </p>
    </>
  );
}
