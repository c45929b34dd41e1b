// The line of live events: reads it, notices when it falls silent, and opens it again with growing pauses.
import { ApiFailure, failureOf } from './api';
import { EventParser, type ServerEvent } from './sse';

export type LiveState = 'connecting' | 'live' | 'waiting' | 'stopped';

export interface LiveStatus {
  state: LiveState;
  attempt: number; // tries since it was last live
  retryAt: number; // milliseconds of the page's clock; while waiting
  reason: string;
}

// The server says ": keep-alive" each 15 s: after more than two of those the line is dead, whatever TCP thinks.
export const SILENCE_MS = 35_000;
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;

// Before try number `attempt` (1, 2, …); `random` in [0, 1) spreads many pages that lost the same server.
export function pauseBefore(attempt: number, random: number): number {
  const full = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(attempt - 1, 10));
  return full * (0.5 + random / 2);
}

export interface LiveOptions {
  url: string;
  onEvent: (event: ServerEvent) => void;
  onStatus: (status: LiveStatus) => void;
  onHeard: (now: number) => void; // anything came, a comment included
  onOpen: (isFirst: boolean) => void;
  onSignedOut: () => void;
  silenceMs?: number;
  random?: () => number;
  now?: () => number;
  fetch?: typeof fetch;
}

export class Live {
  #abort: AbortController | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #silence: ReturnType<typeof setTimeout> | undefined;
  #attempt = 0;
  #lastId = '';
  #wasOpen = false;
  #stopped = true;

  constructor(private readonly options: LiveOptions) {}

  start(): void {
    this.#stopped = false;
    void this.#open();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
    this.#abort?.abort();
    this.#status('stopped', '');
  }

  // Do not wait for the end of the pause.
  retryNow(): void {
    if (this.#stopped || this.#timer === undefined) return;
    clearTimeout(this.#timer);
    void this.#open();
  }

  #status(state: LiveState, reason: string, retryAt = 0): void {
    this.options.onStatus({ state, attempt: this.#attempt, retryAt, reason });
  }

  #now(): number {
    return (this.options.now ?? Date.now)();
  }

  #heard(): void {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#abort?.abort(), this.options.silenceMs ?? SILENCE_MS);
    this.options.onHeard(this.#now());
  }

  async #open(): Promise<void> {
    this.#timer = undefined;
    const abort = new AbortController();
    this.#abort = abort;
    this.#status('connecting', '');
    let failure = 'the aggregator ended the connection';
    let after = 0;
    try {
      const headers: Record<string, string> = { Accept: 'text/event-stream' };
      if (this.#lastId) headers['Last-Event-ID'] = this.#lastId;
      // Opening may hang as well as the line may.
      this.#silence = setTimeout(() => abort.abort(), this.options.silenceMs ?? SILENCE_MS);
      const response = await (this.options.fetch ?? fetch)(this.options.url, {
        headers,
        credentials: 'same-origin',
        cache: 'no-store',
        redirect: 'error',
        signal: abort.signal,
      });
      if (!response.ok) throw await failureOf(response);
      if (response.body === null) throw new ApiFailure(0, 'no body', 'the answer had no body');
      this.#attempt = 0;
      this.#status('live', '');
      this.options.onOpen(!this.#wasOpen);
      this.#wasOpen = true;
      this.#heard();
      await this.#read(response.body);
    } catch (error) {
      if (error instanceof ApiFailure) {
        if (error.status === 401) {
          this.stop();
          this.options.onSignedOut();
          return;
        }
        failure = error.message;
        after = (error.retryAfterSeconds ?? 0) * 1000;
      } else if (abort.signal.aborted) {
        failure = 'nothing was heard from the aggregator for too long';
      } else {
        failure = 'the aggregator does not answer';
      }
    }
    clearTimeout(this.#silence);
    if (this.#stopped || this.#abort !== abort) return;
    this.#attempt += 1;
    const pause = Math.max(after, pauseBefore(this.#attempt, (this.options.random ?? Math.random)()));
    this.#timer = setTimeout(() => void this.#open(), pause);
    this.#status('waiting', failure, this.#now() + pause);
  }

  async #read(body: ReadableStream<Uint8Array>): Promise<void> {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    const parser = new EventParser((event) => {
      if (event.id) this.#lastId = event.id;
      this.options.onEvent(event);
    });
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.#heard();
      parser.push(decoder.decode(value, { stream: true }));
    }
  }
}
