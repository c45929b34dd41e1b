// One budget in full: where epsilon stands, how it came there, where running jobs will take it, and the paper to sign.
import { useEffect, useMemo, useState } from 'preact/hooks';
import { API, ApiFailure, get, segment } from '../api';
import { budgetOf, jobLabel, reasonOf, STANDING_TEXT } from '../budget';
import { useCell } from '../cell';
import { cap, epsilonSpent, grouped, NONE, plural } from '../format';
import { historyLines } from '../history';
import { BudgetBar, BudgetFigures } from '../parts/budget_bar';
import { Chart, type Line } from '../parts/chart';
import { Document, Empty, Heading } from '../parts/page';
import { Table, type Column } from '../parts/table';
import { Ago, Facts, Mark, Notice, Power, Time } from '../parts/text';
import { hrefOf } from '../router';
import { history, privacy, watchBudget } from '../state';
import type { DataSet, HistoryPoint, PrivacyHistory, SitePrivacy } from '../types';
import { STANDING_TONE } from './privacy';

export function BudgetPage({ site, dataSet }: { site: string; dataSet: string }) {
  useEffect(() => {
    watchBudget(site, dataSet);
    return () => watchBudget('', '');
  }, [site, dataSet]);
  const document = useCell(privacy.cell).data;
  const past = useCell(history.cell);
  const entry = document?.sites.find((one) => one.site === site);
  const set = entry?.data_sets.find((one) => one.data_set === dataSet);
  return (
    <>
      <p class="trail">
        <a href="#/privacy">Privacy budgets</a>
      </p>
      <Heading title={`${site}, ${dataSet}`} />
      {entry && set && <Standing entry={entry} set={set} />}
      <Document of={past} what="the history of this budget" retry={() => void history.load()}>
        {(data) => <History data={data} isPrivate={set?.private ?? true} />}
      </Document>
      <Statement site={site} version={`${entry?.ledger_head?.count ?? 0}`} />
      {entry && <Ledger entry={entry} />}
    </>
  );
}

function Standing({ entry, set }: { entry: SitePrivacy; set: DataSet }) {
  const budget = budgetOf(set);
  return (
    <section aria-label="Standing">
      <p class="marks">
        <Mark tone={STANDING_TONE[budget.standing]}>{STANDING_TEXT[budget.standing]}</Mark>
        {entry.revoked && <Mark tone="quiet">This site is revoked</Mark>}
      </p>
      {budget.standing === 'not private' ? (
        <Notice tone="bad" title="Not private">
          A job read these records without differential privacy, as the site’s own configuration allows for this data
          set. No epsilon describes what was released, and no cap holds for it.
        </Notice>
      ) : (
        <>
          <BudgetFigures budget={budget} />
          <div class="wide-bar">
            <BudgetBar budget={budget} />
          </div>
        </>
      )}
      <Facts
        items={[
          ['Delta', <Power value={set.delta} />],
          ['Declared records', grouped(set.declared_records)],
          ['Rounds taken part in', grouped(set.rounds)],
          ['Rounds declined', grouped(set.declined_total)],
          ['Last report', <Ago time={set.reported} />],
        ]}
      />
    </section>
  );
}

const LINES: Line[] = [
  { label: 'Spent', color: '--spent', width: 2.25, fill: true, points: true },
  { label: 'Projected to the end of running jobs', color: '--spent', width: 2, dash: [5, 5] },
  { label: 'The site’s cap', color: '--bad', width: 1.5 },
];

const COLUMNS: Column<HistoryPoint>[] = [
  {
    title: 'Round',
    header: true,
    cell: (point) => (
      <a class="nowrap" href={hrefOf({ page: 'job', id: point.job })}>
        {point.job} <span class="set">{jobLabel(point.round)}</span>
      </a>
    ),
  },
  { title: 'Time', cell: (point) => <Time time={point.time} /> },
  {
    title: 'Cost',
    numeric: true,
    cell: (point) => (point.declined ? <Mark tone="bad">Declined</Mark> : epsilonSpent(point.cost, 4)),
  },
  { title: 'Epsilon after it', numeric: true, cell: (point) => epsilonSpent(point.epsilon, 3) },
  { title: 'Why', wide: true, cell: (point) => <span class="reason">{reasonOf(point)}</span> },
];

function History({ data, isPrivate }: { data: PrivacyHistory; isPrivate: boolean }) {
  const lines = useMemo(() => historyLines(data), [data]);
  const rows = useMemo(() => [...data.points].reverse(), [data]);
  const charted = useMemo(
    (): [number[], ...(number | null)[][]] => [lines.x, lines.spent, lines.projected, lines.cap],
    [lines],
  );
  if (data.points.length === 0)
    return (
      <Empty title="Nothing has been charged yet">
        <p>{data.ends || 'The first round of a job will appear here.'}</p>
      </Empty>
    );
  const declined = data.points.filter((point) => point.declined).length;
  const projected = data.projection.at(-1)?.epsilon;
  return (
    <>
      {isPrivate && lines.x.length > 0 && (
        <section aria-labelledby="over-rounds">
          <h2 id="over-rounds">Epsilon over rounds</h2>
          <p class="lead" data-ends>
            {data.ends}
          </p>
          <Chart
            label={
              `Epsilon over ${plural(lines.x.length - data.projection.length, 'round')}: ${epsilonSpent(data.epsilon_spent)} spent` +
              (data.epsilon_budget === null ? '' : ` of a cap of ${cap(data.epsilon_budget)}`) +
              (projected === undefined ? '. ' : `; running jobs will take it to ${epsilonSpent(projected)}. `) +
              'The table below holds every figure.'
            }
            xLabel="Rounds in which this data set was charged, over all jobs, in order of time"
            lines={LINES}
            data={charted}
            top={lines.top}
            yText={(value) => String(Number(value.toPrecision(3)))}
            boundaries={lines.boundaries}
            describe={(index) => {
              const where = `${lines.jobs[index]}, round ${lines.rounds[index]}`;
              const spent = lines.spent[index];
              if (spent !== null && spent !== undefined) return `${where}: ε ${epsilonSpent(spent, 3)} spent`;
              return `${where}: ε ${epsilonSpent(lines.projected[index], 3)} if the job goes on as planned`;
            }}
          />
        </section>
      )}
      <section>
        <h2>What each round cost, and why</h2>
        {declined > 0 && (
          <Notice tone="bad" title={`${plural(declined, 'round')} declined`}>
            The site refused: nothing was read and nothing was spent. The reasons are in the table.
          </Notice>
        )}
        <Table
          caption="Charged and declined rounds, newest first"
          hideCaption
          columns={COLUMNS}
          rows={rows}
          rowKey={(point) => `${point.job}/${point.round}/${point.declined}/${point.time}`}
          rowClass={(point) => (point.declined ? 'declined' : '')}
          first={25}
          noun={['round', 'rounds']}
        />
        <p class="hint">
          A round’s cost is how far it raised epsilon. Later rounds of the same kind raise it less, because privacy loss
          composes more slowly than it would add up. Epsilon bounds everything released so far together, at delta{' '}
          <Power value={data.delta} />.
        </p>
      </section>
    </>
  );
}

// When the site signed it; the key may stand at any depth of the file.
function madeAt(value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const made = (value as { made?: unknown }).made;
  if (typeof made === 'string') return made;
  for (const inner of Object.values(value)) {
    const found = madeAt(inner);
    if (found) return found;
  }
  return undefined;
}

function Statement({ site, version }: { site: string; version: string }) {
  const [found, setFound] = useState<{ made?: string | undefined; failure?: string } | undefined>();
  const address = `/sites/${segment(site)}/statement`;
  useEffect(() => {
    const abort = new AbortController();
    get<unknown>(address, abort.signal)
      .then((text) => setFound({ made: madeAt(text) }))
      .catch((error: unknown) => {
        if (error instanceof ApiFailure) setFound({ failure: error.message });
      });
    return () => abort.abort();
  }, [address, version]);
  return (
    <section aria-labelledby="statement">
      <h2 id="statement">Statement</h2>
      {found === undefined && <p class="hint">Asking for the newest statement…</p>}
      {found?.failure && (
        <Notice tone="quiet" title="No statement to download">
          {found.failure}
        </Notice>
      )}
      {found && !found.failure && (
        <>
          <p>
            Signed with the site’s own key{found.made && <>, made <Time time={found.made} /></>}. It lists every mechanism
            that was charged, so that <code>trib privacy verify</code> computes the figures anew from the file alone.
          </p>
          <p class="buttons">
            <a class="button" href={`${API}${address}`} download={`statement-${site}.json`}>
              Download signed statement (JSON)
            </a>
            <a class="button" href={`${API}${address}.html`} target="_blank" rel="noopener">
              Printable page<span class="spoken"> (opens in a new tab)</span>
            </a>
          </p>
        </>
      )}
    </section>
  );
}

function Ledger({ entry }: { entry: SitePrivacy }) {
  const head = entry.ledger_head;
  return (
    <section aria-labelledby="ledger">
      <h2 id="ledger">Ledger</h2>
      <Facts
        items={[
          ['Entries', head ? grouped(head.count) : NONE],
          ['Newest entry', <Time time={head?.time} />],
          ['Its hash', head ? <code class="hash">{head.hash}</code> : NONE],
          ['The site’s key (SHA-256)', entry.key_sha256 ? <code class="hash">{entry.key_sha256}</code> : NONE],
        ]}
      />
      <p class="hint">
        The aggregator keeps the newest head that each site has reported: a ledger that was shortened or rewritten shows.
      </p>
    </section>
  );
}
