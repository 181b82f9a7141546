import { ApiError, explain } from '../api/problem';
import { Button, Notice } from './controls';

/** Says what went wrong as soon as it does; with the request id, by which the operator finds it in the logs. */
export function ErrorNote({ error, onRetry }: { error: unknown; onRetry?: () => void }) {
  return (
    <div role="alert">
      {error != null && (
        <Notice tone="bad">
          <div>
            <p>{explain(error)}</p>
            {error instanceof ApiError && error.problem.request_id !== undefined && error.status >= 500 && (
              <p className="muted mono">Request {error.problem.request_id}</p>
            )}
          </div>
          {onRetry && (
            <Button compact onClick={onRetry}>
              Try again
            </Button>
          )}
        </Notice>
      )}
    </div>
  );
}
