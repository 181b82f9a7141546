/** What every answer other than 2xx carries (RFC 9457). */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail?: string;
  code: string;
  request_id?: string;
  errors?: { field: string; message: string }[];
}

/** The service answered, and said no. */
export class ApiError extends Error {
  override readonly name = 'ApiError';

  readonly problem: Problem;
  readonly retryAfterS: number | null;

  constructor(problem: Problem, retryAfterS: number | null = null) {
    super(problem.detail ?? problem.title);
    this.problem = problem;
    this.retryAfterS = retryAfterS;
  }

  get status(): number {
    return this.problem.status;
  }

  get code(): string {
    return this.problem.code;
  }

  /** Whether the same call may succeed a little later. */
  get isTemporary(): boolean {
    return this.status === 503 || this.status === 429 || this.status === 502 || this.code === 'idempotency_in_progress';
  }

  /** The message about one field of the form, if validation named it. */
  fieldError(field: string): string | undefined {
    return this.problem.errors?.find((error) => error.field === field || error.field.endsWith(`.${field}`))?.message;
  }
}

/** Nothing answered: no network, or the node is gone. */
export class NetworkError extends Error {
  override readonly name = 'NetworkError';

  constructor(cause?: unknown) {
    super('The service cannot be reached.', { cause });
  }
}

function isProblem(value: unknown): value is Problem {
  return typeof value === 'object' && value !== null && 'code' in value && typeof value.code === 'string';
}

/** Reads the problem of a failed answer; a proxy's page of HTML becomes one too. */
export async function readProblem(response: Response): Promise<ApiError> {
  const body: unknown = await response.json().catch(() => null);
  const problem: Problem = isProblem(body)
    ? { ...body, status: response.status }
    : {
        type: 'about:blank',
        title: response.statusText || `HTTP ${response.status}`,
        status: response.status,
        code: `http_${response.status}`,
      };
  return new ApiError(problem, retryAfter(response.headers.get('Retry-After')));
}

function retryAfter(header: string | null): number | null {
  if (header === null || header.trim() === '') return null;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, seconds);
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, Math.ceil((at - Date.now()) / 1000));
}

const WORDS: Record<string, string> = {
  unknown_tenant: 'There is no company of this name. Check the spelling.',
  tenant_mismatch: 'You are signed in at another company. Sign out and in again.',
  home_region_unreachable: 'The region this company lives in cannot be reached at the moment. Nothing was lost; try again shortly.',
  rate_limited: 'Too many requests. Wait a moment and try again.',
  ride_already_taken: 'Another driver was faster. You stay online for the next ride.',
  offer_expired: 'The offer ran out before your answer reached us.',
  driver_busy: 'You already have a trip. Finish it first.',
  quote_expired: 'The price has expired. Get a new one.',
  ride_in_progress: 'You already have an open ride.',
  wrong_pin: 'That is not the PIN of this ride. Ask your rider again.',
  invalid_credentials: 'These sign-in details are not right.',
  feature_disabled: 'This company has switched this off for now.',
  already_exists: 'There is an account with this phone already. Sign in instead.',
  unavailable: 'The service is starting or stopping. Try again in a moment.',
  invalid_transition: 'This has already moved on. The screen shows the current state.',
};

/** What to tell a person about a failure. */
export function explain(error: unknown): string {
  if (error instanceof ApiError) {
    const words = WORDS[error.code];
    if (words !== undefined) return words;
    const first = error.problem.errors?.[0];
    if (first !== undefined) return `${first.field}: ${first.message}`;
    return error.problem.detail ?? error.problem.title;
  }
  if (error instanceof NetworkError) return 'No connection. Check your network; we keep trying.';
  return 'Something went wrong on this page.';
}
