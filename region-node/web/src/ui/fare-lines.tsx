import type { Fare } from '../api/types';
import { formatMoney } from '../lib/money';

const words = (code: string): string => {
  const text = code.replaceAll('_', ' ');
  return text.charAt(0).toUpperCase() + text.slice(1);
};

/** The lines of a fare and their sum. */
export function FareLines({ fare }: { fare: Fare }) {
  return (
    <ul className="lines number">
      {fare.lines.map((line, index) => (
        <li key={`${line.code} ${index}`}>
          <span>
            {words(line.code)}
            <span className="line-note small muted">{line.description}</span>
          </span>
          <span>{formatMoney(line.amount)}</span>
        </li>
      ))}
      <li className="total">
        <span>Total</span>
        <span data-testid="total">{formatMoney(fare.total)}</span>
      </li>
    </ul>
  );
}
