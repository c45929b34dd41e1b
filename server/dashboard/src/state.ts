// Everything that the page knows: one newest document of a kind, replaced whole. Nothing is accumulated, so an hour of
// events holds no more memory than the first minute.
import { API, ApiFailure, get, segment, send, setCsrf, setSignedOutHandler } from './api';
import { Cell } from './cell';
import { parsed } from './format';
import { Live, type LiveStatus } from './live';
import type { ServerEvent } from './sse';
import type {
  Federation,
  Job,
  JobsDocument,
  PrivacyDocument,
  PrivacyHistory,
  Session,
  SitesDocument,
} from './types';

export interface Loaded<T> {
  data: T | undefined;
  error: ApiFailure | undefined;
  loading: boolean;
}

const NOTHING = { data: undefined, error: undefined, loading: false } as const;

// A document that comes by request, and afterwards by events.
export class Resource<T> {
  readonly cell = new Cell<Loaded<T>>(NOTHING);
  #events = 0;
  #abort: AbortController | undefined;

  constructor(private path: string) {}

  // Another document of the same kind: nothing of the old one may be shown under the new name.
  point(path: string): void {
    if (path === this.path) return;
    this.path = path;
    this.clear();
  }

  clear(): void {
    this.#abort?.abort();
    this.#abort = undefined;
    this.cell.set(NOTHING);
  }

  async load(): Promise<void> {
    if (!this.path) return;
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    const events = this.#events;
    this.cell.set({ ...this.cell.value, loading: true });
    try {
      const data = await get<T>(this.path, abort.signal);
      if (this.#abort !== abort) return;
      // An event that came meanwhile may be newer than this answer; what is newer than it will come as an event.
      const isOverrun = events !== this.#events;
      this.cell.set({ data: isOverrun ? this.cell.value.data : data, error: undefined, loading: false });
    } catch (error) {
      if (this.#abort !== abort || !(error instanceof ApiFailure)) return;
      this.cell.set({ data: error.status === 404 ? undefined : this.cell.value.data, error, loading: false });
    }
  }

  take(data: T): void {
    this.#events += 1;
    this.cell.set({ data, error: undefined, loading: this.cell.value.loading });
  }
}

export type SessionState = { kind: 'asking' } | { kind: 'out'; why: string } | { kind: 'in'; session: Session };

export const session = new Cell<SessionState>({ kind: 'asking' });
export const live = new Cell<LiveStatus>({ state: 'stopped', attempt: 0, retryAt: 0, reason: '' });
export const heard = { at: 0 }; // when anything last came; read by the clock's readers, too frequent for a cell
export const clock = new Cell<number>(Date.now()); // every few seconds, in the aggregator's time
export const announcement = new Cell<string>(''); // for screen readers, used sparingly

export const federation = new Resource<Federation>('/federation');
export const sites = new Resource<SitesDocument>('/sites');
export const jobs = new Resource<JobsDocument>('/jobs');
export const privacy = new Resource<PrivacyDocument>('/privacy');
export const job = new Resource<Job>('');
export const history = new Resource<PrivacyHistory>('');

let serverAhead = 0; // milliseconds that the aggregator's clock is ahead of this machine's
let watchedJob = '';
let watchedBudget = '';
let line: Live | undefined;
let ticker: ReturnType<typeof setInterval> | undefined;

export function now(): number {
  return Date.now() + serverAhead;
}

export function watchJob(id: string): void {
  watchedJob = id;
  job.point(id ? `/jobs/${segment(id)}` : '');
  if (id) void job.load();
}

export function watchBudget(site: string, dataSet: string): void {
  watchedBudget = site ? `${site}\n${dataSet}` : '';
  history.point(site ? `/privacy/${segment(site)}/${segment(dataSet)}` : '');
  lastFigures = budgetFigures(privacy.cell.value.data);
  if (site) void history.load();
}

// --- Events ---

const HISTORY_PAUSE_MS = 1_000;
let lastFigures = '';
let historyTimer: ReturnType<typeof setTimeout> | undefined;

function budgetFigures(document: PrivacyDocument | undefined): string {
  const [name, dataSet] = watchedBudget.split('\n');
  const set = document?.sites.find((site) => site.site === name)?.data_sets.find((one) => one.data_set === dataSet);
  return set
    ? [set.epsilon_spent, set.epsilon_budget, set.epsilon_reserved, set.rounds, set.declined_total].join(' ')
    : '';
}

// The history does not come as an event: it is asked for again when its data set's figures have changed.
function refreshHistory(document: PrivacyDocument): void {
  if (!watchedBudget) return;
  const figures = budgetFigures(document);
  if (figures === lastFigures) return;
  lastFigures = figures;
  historyTimer ??= setTimeout(() => {
    historyTimer = undefined;
    void history.load();
  }, HISTORY_PAUSE_MS);
}

export function takeEvent(event: ServerEvent): void {
  try {
    switch (event.type) {
      case 'federation':
        federation.take(JSON.parse(event.data) as Federation);
        break;
      case 'sites':
        sites.take(JSON.parse(event.data) as SitesDocument);
        break;
      case 'jobs':
        jobs.take(JSON.parse(event.data) as JobsDocument);
        break;
      case 'privacy': {
        const document = JSON.parse(event.data) as PrivacyDocument;
        privacy.take(document);
        refreshHistory(document);
        break;
      }
      case 'job': {
        // Most are of jobs that nobody looks at: do not even parse those.
        if (!watchedJob || !event.data.includes(watchedJob)) return;
        const document = JSON.parse(event.data) as Job;
        if (document.id === watchedJob) job.take(document);
        break;
      }
    }
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error; // half a document helps nobody; the next one comes
  }
}

// "Three minutes ago" is by the aggregator's clock: this machine's may be wrong.
federation.cell.subscribe(() => {
  const { data, loading } = federation.cell.value;
  const time = parsed(data?.time);
  if (loading || time === undefined) return;
  serverAhead = time.getTime() - Date.now();
  clock.set(now());
});

// --- Session ---

function loadAll(): void {
  for (const resource of [federation, sites, jobs, privacy, job, history]) void resource.load();
}

function enter(opened: Session): void {
  setCsrf(opened.csrf);
  session.set({ kind: 'in', session: opened });
  loadAll();
  line = new Live({
    url: `${API}/events`,
    onEvent: takeEvent,
    onStatus: (status) => live.set(status),
    onHeard: (at) => (heard.at = at),
    onOpen: (isFirst) => {
      if (!isFirst) loadAll(); // what happened meanwhile
    },
    onSignedOut: () => leave('Your session has ended. Sign in again.'),
  });
  line.start();
  clearInterval(ticker);
  ticker = setInterval(() => clock.set(now()), 5_000);
}

function leave(why: string): void {
  line?.stop();
  line = undefined;
  clearInterval(ticker);
  setCsrf('');
  for (const resource of [federation, sites, jobs, privacy, job, history]) resource.clear();
  session.set({ kind: 'out', why });
}

export async function resumeSession(): Promise<void> {
  setSignedOutHandler(() => {
    if (session.value.kind === 'in') leave('Your session has ended. Sign in again.');
  });
  try {
    enter(await get<Session>('/session'));
  } catch (error) {
    const failure = error as ApiFailure;
    leave(failure.status === 401 ? '' : failure.message);
  }
}

export async function signIn(token: string): Promise<void> {
  enter(await send<Session>('POST', '/session', { token }));
}

export async function signOut(): Promise<void> {
  try {
    await send('DELETE', '/session');
  } catch {
    // the session is forgotten here in any case
  }
  leave('You have signed out.');
}

export function retryNow(): void {
  line?.retryNow();
}

export function isOperator(): boolean {
  return session.value.kind === 'in' && session.value.session.role === 'operator';
}

export function announce(text: string): void {
  announcement.set(text);
}
