// The errors of a call and of a record: one type each, in words that a person can act on.

/** A call that did not work. `status` is 0 where no answer came at all. */
export class ApiError extends Error {
  readonly status: number;
  /** Stable, for programs: `username_taken`, `not_subscribed`, `invalid_expression`, … */
  readonly code: string;
  /** The whole problem document (RFC 9457), where there was one. */
  readonly problem: Readonly<Record<string, unknown>>;

  constructor(status: number, code: string, message: string, problem: Record<string, unknown> = {}) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.code = code;
    this.problem = problem;
  }

  /** Whether the call may work later. */
  get temporary(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  /** Where in an expression the mistake is, counted from 1. */
  get column(): number | null {
    return typeof this.problem.column === 'number' ? this.problem.column : null;
  }
}

/** A record that the service did not take. */
export class RecordError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = 'RecordError';
    this.code = code;
  }
}

/** An answer that is no success, as an error. */
export function failure(response: Response, text: string): ApiError {
  const body = object(text);
  const said = [body.detail, body.error, body.message, body.title].find((v) => typeof v === 'string' && v !== '') as string | undefined;
  const code = typeof body.code === 'string' ? body.code : `http_${response.status}`;
  let message = sentence(said ?? `The service answered ${response.status}.`);
  if (response.status === 429) {
    const wait = response.headers.get('retry-after');
    message += wait ? ` Try again in ${wait} s.` : ' Wait a little, then try again.';
  }
  return new ApiError(response.status, code, message, body);
}

export function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

function sentence(text: string): string {
  // A caret line under an expression must stay as it is.
  const ended = /[.!?^]\s*$/.test(text) ? text : `${text}.`;
  return ended.charAt(0).toUpperCase() + ended.slice(1);
}

function object(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === 'object' && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
