import { useEffect } from 'react';
import { acceptShare, endShare, shares as loadShares } from '../api/calls';
import { clientOf } from '../api/session';
import type { FareShare } from '../api/types';
import { useAction, useAttemptKey, useLoad } from '../lib/hooks';
import { formatMoney } from '../lib/money';
import { Button } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';
import { PaymentBadge, ShareBadge } from '../ui/ride-badge';

/** Fares others have asked the rider to share: what is to be answered, and how the last ones went. */
export function Invitations({ news }: { news: number }) {
  const client = clientOf('rider');
  const shares = useLoad('shares', (signal) => loadShares(client, { limit: 5 }, signal), 15_000);
  const { reload } = shares;
  useEffect(() => reload(), [news, reload]);
  const shown = shares.data?.items.filter(({ status }) => status !== 'declined' && status !== 'withdrawn' && status !== 'lapsed') ?? [];
  if (shown.length === 0) return <ErrorNote error={shares.error} onRetry={reload} />;
  return (
    <section className="card stack" aria-labelledby="invitations">
      <h2 id="invitations">Fares you share</h2>
      <ErrorNote error={shares.error} onRetry={reload} />
      <ul className="history" data-testid="invitations">
        {shown.map((share) => (
          <Invitation key={share.id} share={share} onAnswered={reload} />
        ))}
      </ul>
    </section>
  );
}

function Invitation({ share, onAnswered }: { share: FareShare; onAnswered: () => void }) {
  const client = clientOf('rider');
  const attempt = useAttemptKey();
  const answer = useAction(async (how: 'accept' | 'decline') => {
    const key = attempt.keyFor([share.id, how]);
    await (how === 'accept' ? acceptShare(client, share.id, { type: 'card' }, key) : endShare(client, share.id, how, key));
    attempt.done();
    onAnswered();
  });
  const open = share.status === 'invited' || share.status === 'accepted';
  return (
    <li>
      <div className="grow stack-s">
        <p>{share.invited_by} asks you to share a ride</p>
        {share.status === 'fallen_back' && <p className="small muted">Your card was declined, so {share.invited_by} pays it.</p>}
        {open && (
          <>
            <p className="small muted">{share.asked == null ? 'An equal part, charged to your card at the end of the trip.' : 'Charged to your card at the end of the trip.'}</p>
            <div className="row">
              {share.status === 'invited' && (
                <Button compact kind="primary" busy={answer.busy} onClick={() => void answer.run('accept')}>
                  Accept
                </Button>
              )}
              <Button compact kind="quiet" busy={answer.busy} onClick={() => void answer.run('decline')}>
                {share.status === 'invited' ? 'Decline' : 'Do not share after all'}
              </Button>
            </div>
          </>
        )}
        <ErrorNote error={answer.error} />
      </div>
      <div className="history-side">
        {share.amount != null && <span className="number">{formatMoney(share.amount)}</span>}
        {share.status === 'fixed' && share.payment != null ? <PaymentBadge status={share.payment.status} /> : <ShareBadge status={share.status} />}
      </div>
    </li>
  );
}
