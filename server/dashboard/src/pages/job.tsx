import { useEffect, useMemo, useState } from 'preact/hooks';
import { ApiFailure, getText, segment, send } from '../api';
import { compareNames } from '../budget';
import { useCell } from '../cell';
import { bytes, cap, duration, epsilonSpent, fixed, grouped, NONE, percent, plural } from '../format';
import { Chart, type Line } from '../parts/chart';
import { ReasonDialog } from '../parts/dialog';
import { Document, Heading } from '../parts/page';
import { Table, type Column } from '../parts/table';
import { Ago, Facts, Mark, Notice, Power, Time, type Tone } from '../parts/text';
import { announce, isOperator, job as current, sites as allSites, watchJob } from '../state';
import type { Evaluation, Job, JobClient, JobRound } from '../types';
import { hasEnded, JobState, Progress, WaitingFor } from './jobs';

export function JobPage({ id }: { id: string }) {
  useEffect(() => {
    watchJob(id);
    return () => watchJob('');
  }, [id]);
  const loaded = useCell(current.cell);
  const [isCancelling, setCancelling] = useState(false);
  const data = loaded.data?.id === id ? loaded.data : undefined;
  return (
    <>
      <p class="trail">
        <a href="#/jobs">Jobs</a>
      </p>
      <Heading title={data?.name ?? id}>
        {data && isOperator() && !hasEnded(data) && (
          <button type="button" class="danger" onClick={() => setCancelling(true)}>
            Cancel job…
          </button>
        )}
      </Heading>
      <Document of={{ ...loaded, data }} what="this job" retry={() => void current.load()}>
        {(job) => <Details job={job} />}
      </Document>
      {isCancelling && (
        <ReasonDialog
          title={`Cancel ${data?.name ?? id}?`}
          hint="It is kept with the job, and the sites see it."
          confirm="Cancel the job"
          onClose={() => setCancelling(false)}
          onConfirm={async (reason) => {
            await send('POST', `/jobs/${segment(id)}/cancel`, { reason });
            setCancelling(false);
            announce('The job is cancelled.');
            void current.load();
          }}
        >
          <p>
            A cancelled job cannot go on. Its committed rounds are kept and can be exported. What the sites have charged
            for rounds that are under way stays spent.
          </p>
        </ReasonDialog>
      )}
    </>
  );
}

function Details({ job }: { job: Job }) {
  const ended = hasEnded(job);
  return (
    <>
      <p class="marks">
        <JobState job={job} />
        <Mark tone={job.private ? 'good' : 'bad'}>{job.private ? 'Private' : 'Not private'}</Mark>
        {!job.private && <span class="wrong">{job.privacy.replace(/^not private: /, '')}</span>}
      </p>
      {ended && job.reason && (
        <Notice tone={job.state === 'failed' ? 'bad' : 'quiet'} title={`The job is ${job.state}`}>
          {job.reason}
        </Notice>
      )}
      {!ended && job.waiting && (
        <div class="waiting">
          <h2>Waiting for</h2>
          <p>
            <WaitingFor waiting={job.waiting} most={8} />
          </p>
          {job.waiting.until && (
            <p class="hint">
              Until <Time time={job.waiting.until} /> at most, then the job goes on with what there is, or says why it
              cannot.
            </p>
          )}
        </div>
      )}
      <div class="wide-bar">
        <Progress job={job} />
      </div>
      <Facts
        items={[
          ['Id', <code>{job.id}</code>],
          ['Task', job.task],
          ['Round', job.round > 0 ? `${job.round}${job.attempt > 1 ? `, attempt ${job.attempt}` : ''}` : NONE],
          ['Epsilon for each site', job.epsilon == null ? NONE : `at most ${cap(job.epsilon)}`],
          ['Delta', <Power value={job.delta} />],
          ['Submitted', <Time time={job.submitted} />],
          [ended ? 'Took' : 'Running for', duration(job.seconds)],
          ['Sent to sites', bytes(job.bytes_down)],
          ['Received', bytes(job.bytes_up)],
        ]}
      />
      <Accuracy job={job} />
      <Sites job={job} />
      <Rounds job={job} />
      <JobFile id={job.id} />
    </>
  );
}

const LINES: Line[] = [
  { label: 'Each round', color: '--ink-soft', width: 1.5, points: true },
  { label: 'Running average', color: '--spent', width: 2.25, points: true },
];

function Accuracy({ job }: { job: Job }) {
  const data = useMemo(
    (): [number[], ...(number | null)[][]] => [
      job.evaluations.map((evaluation) => evaluation.round),
      job.evaluations.map((evaluation) => evaluation.metrics['accuracy'] ?? null),
      job.evaluations.map((evaluation) => evaluation.metrics['accuracy_average'] ?? null),
    ],
    [job.evaluations.length, job.id],
  );
  const rows = useMemo(() => [...job.evaluations].reverse(), [job.evaluations.length, job.id]);
  const atSites = job.evaluations.some((evaluation) => typeof evaluation.metrics['site_accuracy'] === 'number');
  const columns: Column<Evaluation>[] = [
    { title: 'Round', header: true, cell: ({ round }) => grouped(round) },
    { title: 'Accuracy', numeric: true, cell: ({ metrics }) => percent(metrics['accuracy'], 2) },
    { title: 'Running average', numeric: true, cell: ({ metrics }) => percent(metrics['accuracy_average'], 2) },
    ...(atSites
      ? [
          {
            title: 'On the sites’ records, summed and noised',
            numeric: true,
            cell: ({ metrics }: Evaluation) => percent(metrics['site_accuracy'], 2),
          },
        ]
      : []),
  ];
  const last = job.result['accuracy_average'] ?? job.result['accuracy'];
  return (
    <section aria-labelledby="accuracy">
      <h2 id="accuracy">Accuracy on the public test set</h2>
      {job.evaluations.length === 0 ? (
        <p class="hint">No round has been evaluated yet.</p>
      ) : (
        <>
          <Chart
            label={`Accuracy over ${plural(job.evaluations.length, 'evaluation')}, now ${percent(last)}. The table below holds every figure.`}
            xLabel="Round"
            lines={LINES}
            data={data}
            top={1}
            yText={(value) => percent(value, 0)}
            describe={(index) => {
              const evaluation = job.evaluations[index];
              if (!evaluation) return '';
              const average = evaluation.metrics['accuracy_average'];
              return (
                `Round ${evaluation.round}: ${percent(evaluation.metrics['accuracy'], 2)}` +
                (average == null ? '' : `, running average ${percent(average, 2)}`)
              );
            }}
          />
          <details>
            <summary>Accuracy as a table</summary>
            <Table
              caption="Evaluated rounds, newest first"
              hideCaption
              columns={columns}
              rows={rows}
              rowKey={({ round }) => String(round)}
              first={50}
              noun={['evaluation', 'evaluations']}
            />
          </details>
        </>
      )}
    </section>
  );
}

const STATUS_TONE: Record<string, Tone> = {
  contributed: 'good',
  declined: 'bad',
  dropped: 'bad',
  refused: 'bad',
  accepted: 'plain',
  chosen: 'plain',
};

function Sites({ job }: { job: Job }) {
  const known = useCell(allSites.cell).data;
  const versions = useMemo(
    () => new Map((known?.sites ?? []).map((site) => [site.name, site.software_version ?? NONE])),
    [known],
  );
  const rows = useMemo(() => [...job.clients].sort((a, b) => compareNames(a.name, b.name)), [job.clients]);
  const columns: Column<JobClient>[] = [
    { title: 'Site', header: true, cell: (client) => <span class="name">{client.name}</span> },
    {
      title: 'Status',
      wide: true,
      cell: (client) => (
        <>
          {client.status && <Mark tone={STATUS_TONE[client.status] ?? 'quiet'}>{client.status}</Mark>}
          {!client.connected && <Mark tone="warn">not connected</Mark>}
          {client.reason && <span class="reason"> {client.reason}</span>}
        </>
      ),
    },
    {
      title: 'Step',
      numeric: true,
      cell: (client) => (client.steps > 0 ? `${client.step}/${client.steps}` : NONE),
    },
    { title: 'Epsilon', numeric: true, cell: (client) => epsilonSpent(client.epsilon_spent, 3) },
    { title: 'of its cap', numeric: true, cell: (client) => cap(client.epsilon_budget || null) },
    { title: 'Rounds', numeric: true, cell: (client) => grouped(client.participations) },
    { title: 'Records', numeric: true, cell: (client) => grouped(client.declared_records) },
    { title: 'Down', numeric: true, cell: (client) => bytes(client.bytes_down) },
    { title: 'Up', numeric: true, cell: (client) => bytes(client.bytes_up) },
    { title: 'Version', numeric: true, cell: (client) => versions.get(client.name) ?? NONE },
    { title: 'Last news', numeric: true, cell: (client) => <Ago time={client.last_progress} /> },
  ];
  return (
    <section aria-labelledby="sites">
      <h2 id="sites">Sites</h2>
      {rows.length === 0 ? (
        <p class="hint">The job has not been offered to a site yet.</p>
      ) : (
        <Table
          caption="Sites in this job"
          hideCaption
          columns={columns}
          rows={rows}
          rowKey={(client) => client.name}
          first={100}
          noun={['site', 'sites']}
        />
      )}
    </section>
  );
}

const ROUND_COLUMNS: Column<JobRound>[] = [
  { title: 'Round', header: true, cell: (round) => grouped(round.round) },
  {
    title: 'State',
    cell: (round) => (round.committed ? 'committed' : <Mark tone="plain">open</Mark>),
  },
  { title: 'Attempt', numeric: true, cell: (round) => grouped(round.attempt) },
  { title: 'Contributions', numeric: true, cell: (round) => grouped(round.contributions) },
  { title: 'Took', numeric: true, cell: (round) => (round.seconds === null ? NONE : `${fixed(round.seconds, 1)} s`) },
  { title: 'Down', numeric: true, cell: (round) => bytes(round.bytes_down) },
  { title: 'Up', numeric: true, cell: (round) => bytes(round.bytes_up) },
];

function Rounds({ job }: { job: Job }) {
  const rows = useMemo(() => [...job.rounds].reverse(), [job.rounds]);
  if (rows.length === 0) return null;
  return (
    <section aria-labelledby="rounds">
      <h2 id="rounds">Rounds</h2>
      <Table
        caption="Rounds, newest first"
        hideCaption
        columns={ROUND_COLUMNS}
        rows={rows}
        rowKey={(round) => String(round.round)}
        first={20}
        noun={['round', 'rounds']}
      />
    </section>
  );
}

function JobFile({ id }: { id: string }) {
  const [text, setText] = useState<string | undefined>();
  const [failure, setFailure] = useState('');
  const open = (event: Event) => {
    if (!(event.currentTarget as HTMLDetailsElement).open || text !== undefined) return;
    getText(`/jobs/${segment(id)}/file`)
      .then(setText)
      .catch((error: unknown) => setFailure(error instanceof ApiFailure ? error.message : String(error)));
  };
  return (
    <details class="file" onToggle={open}>
      <summary>Job file</summary>
      {failure && <p class="wrong" role="alert">{failure}</p>}
      {text !== undefined && (
        <pre tabIndex={0} aria-label="Job file">
          <code>{text}</code>
        </pre>
      )}
    </details>
  );
}
