import { useState } from 'react';
import { ownWallet, payment as loadPayment, topUp } from '../api/calls';
import { clientOf } from '../api/session';
import type { Payment, WalletEntry } from '../api/types';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { formatMoney, parseMoney } from '../lib/money';
import { formatTime } from '../lib/time';
import { Button, Field, Notice } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { isFinal } from './follow';

const EVERY_MS = 15_000;
const ENTRIES = 5;

const WORDS: Record<WalletEntry['kind'], string> = {
  top_up: 'A top-up',
  credit: 'A credit',
  settlement: 'A ride',
  cancellation_fee: 'A cancellation',
  no_show_fee: 'A missed pick-up',
  tip: 'A tip',
  refund: 'A refund',
  withdrawal: 'Back to your card',
  adjustment: 'Could not go back to your card',
  recovered: 'Restored',
};

/** What the rider has with the company, what it has moved by lately, and putting more into it. */
export function WalletCard() {
  const wallet = useLoad('wallet', (signal) => ownWallet(clientOf('rider'), { limit: ENTRIES }, signal), EVERY_MS);
  if (wallet.data === null) return <ErrorNote error={wallet.error} onRetry={wallet.reload} />;
  const { balance, items } = wallet.data;
  return (
    <section className="card stack" aria-labelledby="wallet">
      <div className="row-between">
        <h2 id="wallet">Your wallet</h2>
        <strong className="number" data-testid="wallet-balance">
          {formatMoney(balance)}
        </strong>
      </div>
      <ErrorNote error={wallet.error} onRetry={wallet.reload} />
      {items.length > 0 && (
        <ul className="history" aria-label="What it has moved by lately">
          {items.map((entry) => (
            <li key={entry.entry_id}>
              <div className="grow">
                <p>
                  {WORDS[entry.kind]}
                  {entry.reason != null && `: ${entry.reason}`}
                </p>
                <p className="small muted">{formatTime(entry.posted_at)}</p>
              </div>
              <span className="number">{formatMoney(entry.amount)}</span>
            </li>
          ))}
        </ul>
      )}
      <TopUp currency={balance.currency} onSettled={wallet.reload} />
    </section>
  );
}

function TopUp({ currency, onSettled }: { currency: string; onSettled: () => void }) {
  const client = clientOf('rider');
  const [open, setOpen] = useState(false);
  const [amount, setAmount] = useState('');
  const [made, setMade] = useState<Payment | null>(null);
  const take = (payment: Payment): void => {
    setMade(payment);
    if (payment.status === 'settled') onSettled();
  };
  const waiting = made !== null && !isFinal(made);
  useLoad(waiting ? made.id : null, (signal) => loadPayment(client, made?.id ?? '', signal), 3000, take);
  const parsed = parseMoney(amount, currency);
  const attempt = useAttemptKey();
  const charge = useAction(async () => {
    if (parsed === null) return;
    take(await topUp(client, { amount: parsed }, attempt.keyFor(parsed)));
    attempt.done();
    setOpen(false);
    setAmount('');
  });
  return (
    <>
      <div role="status">
        {waiting && <p>Your top-up is on its way.</p>}
        {made?.status === 'failed' && <Notice tone="bad">The card was declined. You can try again.</Notice>}
      </div>
      {!open && !waiting && (
        <div>
          <Button compact onClick={() => setOpen(true)}>
            Top up…
          </Button>
        </div>
      )}
      {open && (
        <form
          className="stack-s"
          onSubmit={(event) => {
            event.preventDefault();
            void charge.run();
          }}
        >
          <Field
            label={`Amount (${currency})`}
            hint="Charged to your card."
            inputMode="decimal"
            value={amount}
            required
            onChange={(event) => setAmount(event.target.value)}
          />
          <div className="row">
            <Button compact kind="primary" type="submit" busy={charge.busy} disabled={parsed === null}>
              Top up {parsed !== null && formatMoney(parsed)}
            </Button>
            <Button compact kind="quiet" onClick={() => setOpen(false)}>
              Not now
            </Button>
          </div>
        </form>
      )}
      <ErrorNote error={charge.error} />
    </>
  );
}
