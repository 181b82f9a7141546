import { useState } from 'react';
import { rateTrip } from '../api/calls';
import { ApiError } from '../api/problem';
import { clientOf } from '../api/session';
import { useAction, useAttemptKey } from '../lib/hooks';
import { Button } from './controls';
import { ErrorNote } from './error-note';
import { Icon } from './icon';

const STARS = [1, 2, 3, 4, 5] as const;

/** One to five stars for the other party, once. */
export function Rating({ role, tripId, question }: { role: 'rider' | 'driver'; tripId: string; question: string }) {
  const [stars, setStars] = useState(0);
  const [comment, setComment] = useState('');
  const [done, setDone] = useState(false);
  const attempt = useAttemptKey();
  const rate = useAction(async () => {
    const body = { stars, ...(comment.trim() === '' ? {} : { comment: comment.trim() }) };
    try {
      await rateTrip(clientOf(role), tripId, body, attempt.keyFor([tripId, body]));
    } catch (error) {
      if (!(error instanceof ApiError && error.code === 'already_rated')) throw error;
    }
    setDone(true);
  });

  return (
    <section className="card stack" aria-labelledby={`rating-${tripId}`}>
      <h2 id={`rating-${tripId}`}>{question}</h2>
      <div role="status">{done && <p>Thank you for your rating.</p>}</div>
      {!done && (
        <>
          <fieldset className="stars">
            <legend className="visually-hidden">Stars</legend>
            {STARS.map((count) => (
              <label key={count} className={count <= stars ? 'lit' : ''}>
                <input type="radio" name={`stars-${tripId}`} value={count} checked={stars === count} onChange={() => setStars(count)} />
                <span className="visually-hidden">{count === 1 ? '1 star' : `${count} stars`}</span>
                <Icon name="star" filled={count <= stars} />
              </label>
            ))}
          </fieldset>
          {stars > 0 && (
            <>
              <div className="field">
                <label htmlFor={`comment-${tripId}`}>Comment (optional)</label>
                <textarea
                  id={`comment-${tripId}`}
                  className="input"
                  rows={2}
                  maxLength={500}
                  value={comment}
                  onChange={(event) => setComment(event.target.value)}
                />
              </div>
              <Button busy={rate.busy} onClick={() => void rate.run()}>
                Send rating
              </Button>
            </>
          )}
          <ErrorNote error={rate.error} />
        </>
      )}
    </section>
  );
}
