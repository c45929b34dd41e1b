// The officer's overview: every budget of the federation, those that need an eye first.
import { useMemo, useState } from 'preact/hooks';
import { budgetRows, STANDING_TEXT, totals, type BudgetRow, type RowOrder, type Standing } from '../budget';
import { useCell } from '../cell';
import { grouped, NONE, plural } from '../format';
import { BudgetBar } from '../parts/budget_bar';
import { Document, Empty, Heading } from '../parts/page';
import { Table, type Column } from '../parts/table';
import { Ago, Mark, Power, type Tone } from '../parts/text';
import { hrefOf } from '../router';
import { privacy } from '../state';
import type { PrivacyDocument } from '../types';

export const STANDING_TONE: Record<Standing, Tone> = {
  open: 'good',
  near: 'warn',
  spent: 'bad',
  'not private': 'bad',
  'no cap': 'warn',
  unused: 'quiet',
};

const COLUMNS: Column<BudgetRow>[] = [
  {
    title: 'Site and data set',
    header: true,
    cell: ({ site, set }) =>
      set ? (
        <a class="name" href={hrefOf({ page: 'budget', site: site.site, dataSet: set.data_set })}>
          {site.site} <span class="set">{set.data_set}</span>
        </a>
      ) : (
        <span class="name">{site.site}</span>
      ),
  },
  {
    title: 'Budget (epsilon)',
    wide: true,
    cell: ({ budget }) =>
      budget ? <BudgetBar budget={budget} /> : <p class="no-bound">Has taken part in no job yet.</p>,
  },
  {
    title: 'Standing',
    cell: ({ site, budget }) => (
      <>
        {budget && <Mark tone={STANDING_TONE[budget.standing]}>{STANDING_TEXT[budget.standing]}</Mark>}
        {site.revoked && <Mark tone="quiet">Revoked</Mark>}
      </>
    ),
  },
  { title: 'Delta', numeric: true, cell: ({ set }) => <Power value={set?.delta} /> },
  { title: 'Rounds', numeric: true, cell: ({ set }) => (set ? grouped(set.rounds) : NONE) },
  {
    title: 'Declined',
    numeric: true,
    cell: ({ set }) => (set && set.declined_total > 0 ? <b class="wrong">{grouped(set.declined_total)}</b> : '0'),
  },
  { title: 'Last report', numeric: true, cell: ({ set }) => <Ago time={set?.reported} /> },
];

export function PrivacyPage() {
  const loaded = useCell(privacy.cell);
  return (
    <>
      <Heading title="Privacy budgets" />
      <Document of={loaded} what="the privacy budgets" retry={() => void privacy.load()}>
        {(document) => <Budgets document={document} />}
      </Document>
    </>
  );
}

function Budgets({ document }: { document: PrivacyDocument }) {
  const [filter, setFilter] = useState('');
  const [order, setOrder] = useState<RowOrder>('attention');
  const rows = useMemo(() => budgetRows(document, filter, order), [document, filter, order]);
  const sum = useMemo(() => totals(document), [document]);
  if (document.sites.length === 0)
    return (
      <Empty title="No site has joined yet">
        <p>
          Once a site takes part in a job, its budget appears here. An operator invites one on the page{' '}
          <a href="#/sites">Sites</a>.
        </p>
      </Empty>
    );
  return (
    <>
      <p class="lead">
        What each site has spent of the cap that it has set for itself. {plural(sum.dataSets, 'data set')} at{' '}
        {plural(sum.sites, 'site')}
        {sum.spent > 0 && <>, <b class="wrong">{grouped(sum.spent)} used up</b></>}
        {sum.near > 0 && <>, <b class="caution">{grouped(sum.near)} near the cap</b></>}
        {sum.notPrivate > 0 && <>, <b class="wrong">{grouped(sum.notPrivate)} not private</b></>}
        {sum.declined > 0 ? <>; {plural(sum.declined, 'round')} declined.</> : '.'}
      </p>
      <div class="tools">
        <ul class="key" aria-label="What the bars show">
          <li>
            <svg width="22" height="10"><rect class="bar-spent" width="22" height="10" /></svg> spent
          </li>
          <li>
            <svg width="22" height="10"><rect class="bar-reserved" width="22" height="10" /></svg> reserved by running jobs
          </li>
          <li>
            <svg width="22" height="10"><rect class="bar-left" width="22" height="10" /></svg> left
          </li>
        </ul>
        <div class="controls">
          <label>
            Find <input type="search" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
          </label>
          <label>
            Order{' '}
            <select value={order} onChange={(event) => setOrder(event.currentTarget.value as RowOrder)}>
              <option value="attention">needs attention first</option>
              <option value="name">by name</option>
              <option value="reported">last report first</option>
            </select>
          </label>
        </div>
      </div>
      {rows.length === 0 ? (
        <Empty title={`No site or data set is called “${filter}”`} />
      ) : (
        <Table
          caption="Privacy budgets by site and data set"
          hideCaption
          columns={COLUMNS}
          rows={rows}
          rowKey={({ site, set }) => `${site.site}/${set?.data_set ?? ''}`}
          rowClass={({ site }) => (site.revoked ? 'revoked' : '')}
          noun={['data set', 'data sets']}
        />
      )}
    </>
  );
}
