// The frame around all pages: who, which federation, whether the news is live.
import type { ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { useCell } from '../cell';
import { second } from '../format';
import { SILENCE_MS } from '../live';
import { JobPage } from '../pages/job';
import { JobsPage } from '../pages/jobs';
import { BudgetPage } from '../pages/budget';
import { PrivacyPage } from '../pages/privacy';
import { SignInPage } from '../pages/sign_in';
import { SitesPage } from '../pages/sites';
import { SubmitPage } from '../pages/submit';
import { hrefOf, route, watchAddress, type Route } from '../router';
import * as state from '../state';
import { chooseTheme, theme, type Theme } from '../theme';
import { BarPatterns } from './budget_bar';
import { Heading } from './page';

export function App() {
  const session = useCell(state.session);
  useEffect(watchAddress, []);
  if (session.kind === 'asking')
    return (
      <main class="asking">
        <p role="status">Asking the aggregator…</p>
      </main>
    );
  if (session.kind === 'out') return <SignInPage why={session.why} />;
  return <SignedIn name={session.session.name} role={session.session.role} />;
}

function SignedIn({ name, role }: { name: string; role: string }) {
  const federation = useCell(state.federation.cell).data;
  const at = useCell(route);
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>
        Skip to the content
      </a>
      <BarPatterns />
      <header class="top">
        <div class="top-row">
          <p class="mark-name">
            Tributary
            {federation && <span class="federation">{federation.federation}</span>}
          </p>
          <nav aria-label="Main">
            <ul>
              {SECTIONS.map(({ to, title, pages }) => (
                <li key={title}>
                  <a href={hrefOf(to)} aria-current={pages.includes(at.page) ? 'page' : undefined}>
                    {title}
                  </a>
                </li>
              ))}
            </ul>
          </nav>
          <LiveLamp />
          <Account name={name} role={role} />
        </div>
      </header>
      <StaleBanner />
      {federation?.draining && (
        <div class="banner" role="status">
          The aggregator is shutting down: it accepts no new jobs.
        </div>
      )}
      <main id="main" tabIndex={-1}>
        <Page at={at} />
      </main>
      <footer>
        <p>
          All times are UTC.
          {federation && ` Tributary ${federation.software_version}.`} What a site has spent is what its own ledger says;
          the ledger stays at the site.
        </p>
      </footer>
      <Announcer />
    </>
  );
}

const SECTIONS: { to: Route; title: string; pages: string[] }[] = [
  { to: { page: 'privacy' }, title: 'Privacy', pages: ['privacy', 'budget'] },
  { to: { page: 'jobs' }, title: 'Jobs', pages: ['jobs', 'job', 'submit'] },
  { to: { page: 'sites' }, title: 'Sites', pages: ['sites'] },
];

function skip(event: Event): void {
  event.preventDefault(); // the address belongs to the router
  document.getElementById('main')?.focus();
}

function Page({ at }: { at: Route }): ComponentChildren {
  switch (at.page) {
    case 'privacy':
      return <PrivacyPage />;
    case 'budget':
      return <BudgetPage key={hrefOf(at)} site={at.site} dataSet={at.dataSet} />;
    case 'jobs':
      return <JobsPage />;
    case 'job':
      return <JobPage key={at.id} id={at.id} />;
    case 'submit':
      return <SubmitPage />;
    case 'sites':
      return <SitesPage />;
    case 'unknown':
      return (
        <>
          <Heading title="No such page" />
          <p>
            Nothing is at <code>{at.hash}</code>. <a href="#/privacy">Privacy budgets</a> is a place to start.
          </p>
        </>
      );
  }
}

// Stale: nothing was heard for longer than the server ever is silent.
function useStale(): { isStale: boolean; status: ReturnType<typeof useCell<typeof state.live.value>> } {
  const status = useCell(state.live);
  useCell(state.clock);
  const silentFor = Date.now() - state.heard.at;
  const isStale = state.heard.at > 0 ? silentFor > SILENCE_MS || status.state === 'waiting' : status.attempt > 0;
  return { isStale: isStale && status.state !== 'stopped', status };
}

function LiveLamp() {
  const { isStale, status } = useStale();
  const text = isStale ? 'Not live' : status.state === 'live' ? 'Live' : 'Connecting';
  return <p class={`lamp lamp-${isStale ? 'stale' : status.state}`}>{text}</p>;
}

function StaleBanner() {
  const { isStale, status } = useStale();
  useEffect(() => {
    if (state.heard.at > 0) state.announce(isStale ? 'The page is not live: the aggregator is not heard.' : '');
  }, [isStale]);
  if (!isStale) return null;
  const since = state.heard.at ? second(new Date(state.now() - Date.now() + state.heard.at).toISOString()).slice(11) : '';
  return (
    <div class="banner banner-stale">
      <p>
        <strong>Not live.</strong>{' '}
        {since ? `The figures are those of ${since} UTC.` : 'No live news has come yet.'}{' '}
        {status.reason && `${status.reason[0]!.toUpperCase()}${status.reason.slice(1).replace(/\.$/, '')}.`}
      </p>
      <button type="button" onClick={state.retryNow}>
        Try now
      </button>
    </div>
  );
}

function Account({ name, role }: { name: string; role: string }) {
  const chosen = useCell(theme);
  return (
    <div class="account">
      <label class="spoken" for="theme">
        Colours
      </label>
      <select id="theme" value={chosen} onChange={(event) => chooseTheme(event.currentTarget.value as Theme)}>
        <option value="system">System colours</option>
        <option value="light">Light</option>
        <option value="dark">Dark</option>
      </select>
      <span class="who" title={`Signed in with the token “${name}”`}>
        {name} <small>{role}</small>
      </span>
      <button type="button" class="link" onClick={() => void state.signOut()}>
        Sign out
      </button>
    </div>
  );
}

function Announcer() {
  const text = useCell(state.announcement);
  const [said, setSaid] = useState('');
  useEffect(() => setSaid(text), [text]);
  return (
    <div class="spoken" role="status" aria-live="polite">
      {said}
    </div>
  );
}
