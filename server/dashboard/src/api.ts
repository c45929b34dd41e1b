// One request to the aggregator. A failure carries what the server said, so that pages can show its words.

export class ApiFailure extends Error {
  constructor(
    readonly status: number, // 0: no answer came
    readonly code: string,
    message: string,
    readonly retryAfterSeconds?: number,
  ) {
    super(message);
    this.name = 'ApiFailure';
  }
}

export const API = '/api/v1';

let csrf = '';
let onSignedOut: () => void = () => undefined;

// The token that changes must carry, given at sign-in. Kept in memory only.
export function setCsrf(token: string): void {
  csrf = token;
}

// Called when the server says that this session is over (401 on anything but the sign-in itself).
export function setSignedOutHandler(handler: () => void): void {
  onSignedOut = handler;
}

// What an answer that is not 2xx means. The body should be {"error": {"code", "message"}}; a proxy's may be anything.
export async function failureOf(response: Response): Promise<ApiFailure> {
  let code = '';
  let message = '';
  try {
    const body = (await response.json()) as { error?: { code?: unknown; message?: unknown } };
    if (typeof body.error?.code === 'string') code = body.error.code;
    if (typeof body.error?.message === 'string') message = body.error.message;
  } catch {
    // not JSON
  }
  const after = Number(response.headers.get('Retry-After'));
  return new ApiFailure(
    response.status,
    code || `HTTP ${response.status}`,
    message || `The aggregator answered ${response.status} ${response.statusText}`.trim() + '.',
    Number.isFinite(after) && after > 0 ? after : undefined,
  );
}

interface RequestOptions {
  method?: string;
  body?: unknown;
  signal?: AbortSignal | null;
}

async function request(path: string, options: RequestOptions = {}): Promise<Response> {
  const headers: Record<string, string> = { Accept: 'application/json' };
  const method = options.method ?? 'GET';
  if (options.body !== undefined) headers['Content-Type'] = 'application/json';
  if (method !== 'GET' && csrf) headers['X-Tributary-CSRF'] = csrf;
  let response: Response;
  try {
    response = await fetch(API + path, {
      method,
      headers,
      credentials: 'same-origin',
      cache: 'no-store',
      redirect: 'error',
      body: options.body === undefined ? null : JSON.stringify(options.body),
      signal: options.signal ?? null,
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new ApiFailure(0, 'no answer', 'The aggregator does not answer. It may be restarting, or the network is down.');
  }
  if (!response.ok) {
    const failure = await failureOf(response);
    if (response.status === 401 && path !== '/session') onSignedOut();
    throw failure;
  }
  return response;
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await request(path, { signal: signal ?? null })).json()) as T;
}

export async function getText(path: string, signal?: AbortSignal): Promise<string> {
  return (await request(path, { signal: signal ?? null })).text();
}

// A change. Answers of 204 give undefined.
export async function send<T>(method: 'POST' | 'DELETE', path: string, body?: unknown): Promise<T> {
  const response = await request(path, { method, body });
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

export const segment = encodeURIComponent;
