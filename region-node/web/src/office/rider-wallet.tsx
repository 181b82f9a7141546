import { useState } from 'react';
import { creditWallet, wallet as loadWallet } from '../api/calls';
import type { Client } from '../api/client';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { formatMoney, parseMoney } from '../lib/money';
import { Button, Field, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';

/** What a rider's wallet holds, and giving him something into it. */
export function RiderWallet({ client, rider }: { client: Client; rider: string }) {
  const wallet = useLoad(`wallet ${rider}`, (signal) => loadWallet(client, rider, { limit: 1 }, signal));
  const [open, setOpen] = useState(false);
  const [amount, setAmount] = useState('');
  const [reason, setReason] = useState('');
  const attempt = useAttemptKey();
  const currency = wallet.data?.balance.currency ?? '';
  const parsed = parseMoney(amount, currency);
  const give = useAction(async () => {
    if (parsed === null) return;
    const body = { amount: parsed, reason };
    await creditWallet(client, rider, body, attempt.keyFor([rider, body]));
    attempt.done();
    setOpen(false);
    setAmount('');
    setReason('');
    wallet.reload();
  });
  return (
    <section className="stack-s" aria-labelledby="rider-wallet">
      <div className="row-between">
        <h3 id="rider-wallet">Rider&rsquo;s wallet</h3>
        {wallet.data !== null && (
          <span className="number" data-testid="rider-wallet">
            {formatMoney(wallet.data.balance)}
          </span>
        )}
      </div>
      {wallet.loading && <Skeleton lines={1} />}
      <ErrorNote error={wallet.error} onRetry={wallet.reload} />
      {!open && wallet.data !== null && (
        <div>
          <Button compact onClick={() => setOpen(true)}>
            Give credit…
          </Button>
        </div>
      )}
      {open && (
        <form
          className="stack-s"
          onSubmit={(event) => {
            event.preventDefault();
            void give.run();
          }}
        >
          <Field label={`Amount (${currency})`} inputMode="decimal" value={amount} required onChange={(event) => setAmount(event.target.value)} />
          <Field
            label="Reason"
            hint="The rider reads it."
            value={reason}
            maxLength={200}
            required
            onChange={(event) => setReason(event.target.value)}
          />
          <div className="row">
            <Button compact kind="primary" type="submit" busy={give.busy} disabled={parsed === null || reason === ''}>
              Give {parsed !== null && formatMoney(parsed)}
            </Button>
            <Button compact kind="quiet" onClick={() => setOpen(false)}>
              Not now
            </Button>
          </div>
          <ErrorNote error={give.error} />
        </form>
      )}
    </section>
  );
}
