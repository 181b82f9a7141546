import type { ReactNode } from 'react';
import { useAction, useAttemptKey } from '../lib/hooks';
import { Button } from '../ui/controls';
import { ErrorNote } from '../ui/error-note';

interface RowActionProps {
  /** What the action is about: while this stays, trying again is the same attempt. */
  about: unknown[];
  run: (key: string) => Promise<unknown>;
  onDone: () => void;
  children: ReactNode;
}

/** The button of a row of a list that waits for somebody. */
export function RowAction({ about, run, onDone, children }: RowActionProps) {
  const attempt = useAttemptKey();
  const action = useAction(async () => {
    await run(attempt.keyFor(about));
    attempt.done();
    onDone();
  });
  return (
    <>
      <Button compact busy={action.busy} onClick={() => void action.run()}>
        {children}
      </Button>
      <ErrorNote error={action.error} />
    </>
  );
}
