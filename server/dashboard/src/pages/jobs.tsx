import { useMemo, useState } from 'preact/hooks';
import { useCell } from '../cell';
import { cap, duration, grouped, NONE, percent } from '../format';
import { Document, Empty, Heading } from '../parts/page';
import { Table, type Column } from '../parts/table';
import { Ago, Mark, Time, type Tone } from '../parts/text';
import { hrefOf } from '../router';
import { isOperator, jobs } from '../state';
import type { JobSummary, Waiting } from '../types';

export function hasEnded(job: JobSummary): boolean {
  return job.ended !== null || ['finished', 'failed', 'cancelled'].includes(job.state);
}

export function stateTone(state: string): Tone {
  if (state === 'finished') return 'good';
  if (state === 'failed') return 'bad';
  if (state === 'cancelled') return 'quiet';
  return 'plain';
}

export function JobState({ job }: { job: JobSummary }) {
  return <Mark tone={stateTone(job.state)}>{job.state}</Mark>;
}

export function Progress({ job }: { job: JobSummary }) {
  const share = job.rounds_total > 0 ? Math.min(1, job.rounds_done / job.rounds_total) : 0;
  const text = `${grouped(job.rounds_done)} of ${grouped(job.rounds_total)}`;
  return (
    <div class="progress">
      <svg class="thin-bar" role="img" aria-label={`${text} rounds`} preserveAspectRatio="none">
        <rect class="bar-left" width="100%" height="100%" />
        <rect class="bar-spent" width={`${100 * share}%`} height="100%" />
      </svg>
      <span aria-hidden="true">{text} rounds</span>
    </div>
  );
}

export function WaitingFor({ waiting, most = 3 }: { waiting: Waiting | null; most?: number }) {
  if (!waiting) return <>{NONE}</>;
  const named = waiting.sites.slice(0, most).join(', ');
  const more = waiting.sites.length - most;
  return (
    <>
      {named && (
        <b>
          {named}
          {more > 0 && ` and ${more} more`}
        </b>
      )}
      {named && ', '}
      <span class="since">
        since <Ago time={waiting.since} />
      </span>
      <br />
      <span class="reason">{waiting.reason}</span>
    </>
  );
}

export function epsilonText(job: JobSummary): string {
  if (!job.private) return 'not private';
  return typeof job.epsilon === 'number' ? `≤ ${cap(job.epsilon)}` : 'private';
}

const COLUMNS: Column<JobSummary>[] = [
  {
    title: 'Job',
    header: true,
    cell: (job) => (
      <>
        <a class="name" href={hrefOf({ page: 'job', id: job.id })}>
          {job.name}
        </a>
        <br />
        <span class="set">{job.id}</span>
      </>
    ),
  },
  { title: 'State', cell: (job) => <JobState job={job} /> },
  { title: 'Progress', cell: (job) => <Progress job={job} /> },
  {
    title: 'Accuracy',
    numeric: true,
    cell: (job) => percent(job.result['accuracy_average'] ?? job.result['accuracy']),
  },
  {
    title: 'Epsilon a site',
    numeric: true,
    cell: (job) => (job.private ? epsilonText(job) : <b class="wrong">not private</b>),
  },
  {
    title: 'Waiting for',
    wide: true,
    cell: (job) => (hasEnded(job) ? <span class="reason">{job.reason || NONE}</span> : <WaitingFor waiting={job.waiting} />),
  },
  {
    title: 'Submitted',
    numeric: true,
    cell: (job) => (
      <>
        <Time time={job.submitted} />
        <br />
        <span class="set">
          {hasEnded(job) ? 'took' : 'for'} {duration(job.seconds)}
        </span>
      </>
    ),
  },
];

export function JobsPage() {
  const loaded = useCell(jobs.cell);
  return (
    <>
      <Heading title="Jobs">
        {isOperator() && (
          <a class="button primary" href="#/submit">
            Submit a job
          </a>
        )}
      </Heading>
      <Document of={loaded} what="the jobs" retry={() => void jobs.load()}>
        {(document) => <List all={document.jobs} />}
      </Document>
    </>
  );
}

function List({ all }: { all: JobSummary[] }) {
  const [isRunningOnly, setRunningOnly] = useState(false);
  const rows = useMemo(() => {
    const kept = isRunningOnly ? all.filter((job) => !hasEnded(job)) : [...all];
    return kept.sort(
      (a, b) => Number(hasEnded(a)) - Number(hasEnded(b)) || b.submitted.localeCompare(a.submitted),
    );
  }, [all, isRunningOnly]);
  if (all.length === 0)
    return (
      <Empty title="No job has been submitted yet">
        <p>
          {isOperator() ? (
            <>
              <a href="#/submit">Submit a job</a> here, or with <code>trib job submit job.toml</code>.
            </>
          ) : (
            <>An operator submits jobs, here or with <code>trib job submit job.toml</code>.</>
          )}
        </p>
      </Empty>
    );
  return (
    <>
      <div class="tools">
        <p class="hint">Accuracy is that of the running average (where the job keeps one) on the aggregator’s public test set.</p>
        <label>
          <input
            type="checkbox"
            checked={isRunningOnly}
            onChange={(event) => setRunningOnly(event.currentTarget.checked)}
          />{' '}
          running only
        </label>
      </div>
      {rows.length === 0 ? (
        <Empty title="No job is running" />
      ) : (
        <Table
          caption="Jobs, running ones first"
          hideCaption
          columns={COLUMNS}
          rows={rows}
          rowKey={(job) => job.id}
          first={50}
          noun={['job', 'jobs']}
        />
      )}
    </>
  );
}
