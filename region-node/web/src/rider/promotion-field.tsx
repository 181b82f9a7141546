import { useState } from 'react';
import { Button, Field } from '../ui/controls';

interface PromotionFieldProps {
  /** The one in use; empty without one. */
  code: string;
  onCode: (code: string) => void;
}

/** A code that makes the ride cheaper. */
export function PromotionField({ code, onCode }: PromotionFieldProps) {
  const [typed, setTyped] = useState(code);
  const apply = (next: string): void => {
    setTyped(next);
    onCode(next);
  };
  return (
    <form
      className="row ends-row"
      onSubmit={(event) => {
        event.preventDefault();
        apply(typed.trim().toUpperCase());
      }}
    >
      <div className="grow">
        <Field
          label="Promotion code"
          value={typed}
          maxLength={20}
          autoComplete="off"
          autoCapitalize="characters"
          spellCheck={false}
          onChange={(event) => setTyped(event.target.value)}
        />
      </div>
      {code !== '' && typed === code ? (
        <Button onClick={() => apply('')}>Remove</Button>
      ) : (
        <Button type="submit" disabled={typed.trim() === ''}>
          Apply
        </Button>
      )}
    </form>
  );
}
