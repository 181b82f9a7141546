import { useState } from 'react';
import { creditWallet, refundWallet, wallet as loadWallet } from '../api/calls';
import type { Client } from '../api/client';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { formatMoney, parseMoney } from '../lib/money';
import { Button, Field, Skeleton } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';

/** What a rider's wallet holds, giving him something into it, and giving back to his cards what he put in and has not spent. */
export function RiderWallet({ client, rider }: { client: Client; rider: string }) {
  const wallet = useLoad(`wallet ${rider}`, (signal) => loadWallet(client, rider, { limit: 1 }, signal));
  const [deed, setDeed] = useState<'credit' | 'refund' | null>(null);
  const [amount, setAmount] = useState('');
  const [reason, setReason] = useState('');
  const attempt = useAttemptKey();
  const currency = wallet.data?.balance.currency ?? '';
  const parsed = parseMoney(amount, currency);
  const give = useAction(async () => {
    if (parsed === null || deed === null) return;
    const body = { amount: parsed, reason };
    const call = deed === 'credit' ? creditWallet : refundWallet;
    await call(client, rider, body, attempt.keyFor([deed, rider, body]));
    attempt.done();
    setDeed(null);
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
      {deed === null && wallet.data !== null && (
        <div className="row">
          <Button compact onClick={() => setDeed('credit')}>
            Give credit…
          </Button>
          {wallet.data.balance.amount > 0 && (
            <Button compact onClick={() => setDeed('refund')}>
              Give back to cards…
            </Button>
          )}
        </div>
      )}
      {deed !== null && (
        <form
          className="stack-s"
          onSubmit={(event) => {
            event.preventDefault();
            void give.run();
          }}
        >
          {deed === 'refund' && (
            <p className="muted small">What the rider topped up and has not spent goes back to where it came from; credit stays.</p>
          )}
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
              {deed === 'credit' ? 'Give' : 'Give back'} {parsed !== null && formatMoney(parsed)}
            </Button>
            <Button compact kind="quiet" onClick={() => setDeed(null)}>
              Not now
            </Button>
          </div>
          <ErrorNote error={give.error} />
        </form>
      )}
    </section>
  );
}
