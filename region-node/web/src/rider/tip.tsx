import { useState } from 'react';
import { payment as loadPayment, tip } from '../api/calls';
import { ApiError } from '../api/problem';
import { clientOf } from '../api/session';
import type { Payment, Ride } from '../api/types';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { formatMoney, tipChoices, type Money } from '../lib/money';
import { Button, Notice, Segments } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { isFinal } from './follow';

interface TipProps {
  ride: Ride;
  tripId: string;
  fare: Money;
}

/** Something for the driver, once: a payment of its own, never in cash; by card where the wallet holds too little. */
export function Tip({ ride, tripId, fare }: TipProps) {
  const client = clientOf('rider');
  const choices = tipChoices(fare);
  const [chosen, setChosen] = useState('');
  const [made, setMade] = useState<Payment | null>(null);
  const [before, setBefore] = useState(false);
  const [byCard, setByCard] = useState(ride.payment_method.type === 'cash');
  const waiting = made !== null && !isFinal(made);
  useLoad(waiting ? made.id : null, (signal) => loadPayment(client, made?.id ?? '', signal), 3000, setMade);
  const attempt = useAttemptKey();
  const give = useAction(async () => {
    const amount = choices.find((choice) => String(choice.amount) === chosen);
    if (amount === undefined) return;
    const body = { amount, ...(byCard ? { method: { type: 'card' as const } } : {}) };
    try {
      const tries = made?.status === 'failed' ? made.id : null;
      setMade(await tip(client, tripId, body, attempt.keyFor([tripId, tries, body])));
      attempt.done();
    } catch (error) {
      if (error instanceof ApiError && error.code === 'wallet_insufficient') setByCard(true);
      if (!(error instanceof ApiError && error.code === 'already_tipped')) throw error;
      setBefore(true);
    }
  });
  const given = before || (made !== null && made.status !== 'failed');

  return (
    <section className="card stack" aria-labelledby="tip">
      <h2 id="tip">Tip your driver</h2>
      <div role="status" data-testid="tip-status">
        {before && <p>You have tipped for this trip already.</p>}
        {waiting && <p>Your tip is on its way.</p>}
        {made?.status === 'settled' && <p>Thank you. {formatMoney(made.amount)} go to your driver.</p>}
        {made?.status === 'failed' && <Notice tone="bad">The card was declined. You can try again.</Notice>}
      </div>
      {!given && (
        <>
          <Segments
            legend="Amount"
            hideLegend
            value={chosen}
            options={choices.map((choice) => ({ value: String(choice.amount), label: formatMoney(choice) }))}
            onChange={setChosen}
          />
          {chosen !== '' && (
            <Button busy={give.busy} onClick={() => void give.run()}>
              {byCard ? 'Give the tip by card' : 'Give the tip'}
            </Button>
          )}
        </>
      )}
      <ErrorNote error={give.error} />
    </section>
  );
}
