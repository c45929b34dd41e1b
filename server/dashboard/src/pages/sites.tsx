import { useId, useMemo, useState } from 'preact/hooks';
import { segment, send } from '../api';
import { compareNames } from '../budget';
import { useCell } from '../cell';
import { daysUntil, minute, NONE } from '../format';
import { CopyField, Dialog, ReasonDialog, useAction } from '../parts/dialog';
import { Document, Empty, Heading } from '../parts/page';
import { Table, type Column } from '../parts/table';
import { Ago, Mark, Notice, Time } from '../parts/text';
import { hrefOf } from '../router';
import { announce, clock, isOperator, now, sites } from '../state';
import type { Invite, Site } from '../types';

// A certificate renews itself when two thirds of its life are over; with so little left, something keeps it from that.
export const WARN_DAYS = 14;

export function Certificate({ until }: { until: string | null | undefined }) {
  useCell(clock);
  const days = daysUntil(until, now());
  if (days === undefined) return <>{NONE}</>;
  if (days < 0)
    return (
      <>
        <Mark tone="bad">expired</Mark> <Time time={until} />
      </>
    );
  if (days < WARN_DAYS)
    return (
      <>
        <Mark tone="warn">{days < 1 ? 'expires today' : `${Math.floor(days)} days left`}</Mark> <Time time={until} />
      </>
    );
  return <Time time={until} />;
}

function WaitsFor({ site }: { site: Site }) {
  const waits = site.waiting_for;
  if (!waits || (Array.isArray(waits) && waits.length === 0)) return null;
  return (
    <>
      {(Array.isArray(waits) ? waits : [waits]).map((wait) => {
        const job = typeof wait === 'string' ? wait : wait.job;
        const since = typeof wait === 'string' ? undefined : wait.since;
        return (
          <span class="reason block" key={job}>
            awaited by <a href={hrefOf({ page: 'job', id: job })}>{job}</a>
            {since && (
              <>
                {' '}since <Ago time={since} />
              </>
            )}
          </span>
        );
      })}
    </>
  );
}

export function SitesPage() {
  const loaded = useCell(sites.cell);
  const [dialog, setDialog] = useState<'invite' | { revoke: string } | undefined>();
  const close = () => setDialog(undefined);
  return (
    <>
      <Heading title="Sites">
        {isOperator() && (
          <button type="button" class="primary" onClick={() => setDialog('invite')}>
            Invite a site…
          </button>
        )}
      </Heading>
      <Document of={loaded} what="the sites" retry={() => void sites.load()}>
        {(document) => (
          <>
            {document.error && (
              <Notice tone="bad" title="The list is not whole">
                {document.error}
              </Notice>
            )}
            <Lists all={document.sites} onRevoke={(name) => setDialog({ revoke: name })} />
          </>
        )}
      </Document>
      {dialog === 'invite' && <InviteDialog onClose={close} />}
      {typeof dialog === 'object' && <RevokeDialog name={dialog.revoke} onClose={close} />}
    </>
  );
}

function Lists({ all, onRevoke }: { all: Site[]; onRevoke: (name: string) => void }) {
  const sorted = useMemo(() => [...all].sort((a, b) => compareNames(a.name, b.name)), [all]);
  const active = sorted.filter((site) => !site.revoked && !site.is_operator);
  const operators = sorted.filter((site) => !site.revoked && site.is_operator);
  const revoked = sorted.filter((site) => site.revoked);
  const columns: Column<Site>[] = [
    { title: 'Site', header: true, cell: (site) => <span class="name">{site.name}</span> },
    {
      title: 'Connection',
      cell: (site) => (
        <>
          <Mark tone={site.connected ? 'good' : 'quiet'}>{site.connected ? 'connected' : 'not connected'}</Mark>
          <WaitsFor site={site} />
        </>
      ),
    },
    {
      title: 'Last seen',
      numeric: true,
      cell: (site) => (site.connected && !site.last_seen ? 'now' : <Ago time={site.last_seen} />),
    },
    { title: 'Version', cell: (site) => site.software_version || NONE },
    { title: 'Device', cell: (site) => site.device || NONE },
    { title: 'Address', cell: (site) => site.address || NONE },
    { title: 'Certificate until', cell: (site) => <Certificate until={site.certificate_until} /> },
    { title: 'Enrolled', cell: (site) => <Time time={site.enrolled} /> },
    ...(isOperator()
      ? [
          {
            title: 'Actions',
            cell: (site: Site) => (
              <button type="button" class="small" onClick={() => onRevoke(site.name)}>
                Revoke…<span class="spoken"> {site.name}</span>
              </button>
            ),
          },
        ]
      : []),
  ];
  if (all.length === 0)
    return (
      <Empty title="No site has joined yet">
        <p>
          {isOperator()
            ? 'Invite one: you get a token and the one command that the site runs.'
            : 'An operator invites sites, here or with '}
          {!isOperator() && <code>trib invite SITE</code>}
        </p>
      </Empty>
    );
  const table = (caption: string, rows: Site[]) => (
    <Table
      caption={caption}
      hideCaption
      columns={columns}
      rows={rows}
      rowKey={(site) => site.name}
      noun={['site', 'sites']}
    />
  );
  return (
    <>
      <p class="lead">
        {active.filter((site) => site.connected).length} of {active.length} connected.
      </p>
      {active.length > 0 && table('Sites that may take part', active)}
      {operators.length > 0 && (
        <section>
          <h2>Operators</h2>
          {table('Operators’ certificates', operators)}
        </section>
      )}
      {revoked.length > 0 && (
        <section>
          <h2>Revoked</h2>
          <Table
            caption="Revoked sites"
            hideCaption
            columns={[
              { title: 'Site', header: true, cell: (site) => <span class="name">{site.name}</span> },
              { title: 'Revoked', cell: (site) => <Time time={site.revoked} /> },
              { title: 'Reason', wide: true, cell: (site) => site.revocation_reason || NONE },
            ]}
            rows={revoked}
            rowKey={(site) => site.name}
            first={20}
          />
        </section>
      )}
    </>
  );
}

function RevokeDialog({ name, onClose }: { name: string; onClose: () => void }) {
  return (
    <ReasonDialog
      title={`Revoke ${name}?`}
      hint="It is kept, and the site sees it."
      confirm={`Revoke ${name}`}
      onClose={onClose}
      onConfirm={async (reason) => {
        await send('POST', `/sites/${segment(name)}/revoke`, { reason });
        onClose();
        announce(`${name} is revoked.`);
        void sites.load();
      }}
    >
      <p>
        Its session ends at once and its certificate is not accepted again. Running jobs go on without it. This cannot be
        undone: to take part again, the site has to be invited and join under a new name.
      </p>
    </ReasonDialog>
  );
}

function InviteDialog({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState('');
  const [minutes, setMinutes] = useState('1440');
  const [asOperator, setAsOperator] = useState(false);
  const [invite, setInvite] = useState<Invite | undefined>();
  const [isMissing, setMissing] = useState(false);
  const { busy, failure, run } = useAction();
  const id = useId();
  if (invite) return <InviteToken invite={invite} onClose={onClose} />;
  const submit = (event: Event) => {
    event.preventDefault();
    if (!name.trim()) {
      setMissing(true);
      document.getElementById(id)?.focus();
      return;
    }
    void run(async () =>
      setInvite(
        await send<Invite>('POST', '/invites', {
          site: name.trim(),
          valid_minutes: Number(minutes),
          operator: asOperator,
        }),
      ),
    );
  };
  const problem = isMissing && !name.trim() ? 'Give the site a name.' : failure;
  return (
    <Dialog title="Invite a site" onClose={onClose}>
      <form onSubmit={submit} noValidate>
        <p>The site makes its own private key when it joins. The token is good for one use.</p>
        <label for={id}>Name</label>
        <input
          id={id}
          type="text"
          autocomplete="off"
          spellcheck={false}
          value={name}
          aria-invalid={problem !== ''}
          aria-describedby={`${id}-problem`}
          onInput={(event) => setName(event.currentTarget.value)}
        />
        <p id={`${id}-problem`} class="wrong" role="alert">
          {problem}
        </p>
        <label for={`${id}-valid`}>Valid for</label>
        <select id={`${id}-valid`} value={minutes} onChange={(event) => setMinutes(event.currentTarget.value)}>
          <option value="60">one hour</option>
          <option value="1440">one day</option>
          <option value="10080">one week</option>
        </select>
        <p>
          <label>
            <input
              type="checkbox"
              checked={asOperator}
              onChange={(event) => setAsOperator(event.currentTarget.checked)}
            />{' '}
            an operator, not a site: may administer the federation from another machine
          </label>
        </p>
        <div class="buttons">
          <button type="button" onClick={onClose}>
            Close
          </button>
          <button type="submit" class="primary" disabled={busy}>
            Make the invitation
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function InviteToken({ invite, onClose }: { invite: Invite; onClose: () => void }) {
  return (
    <Dialog title={`Invitation for ${invite.site}`} onClose={onClose}>
      <Notice tone="warn" title="Shown once">
        Whoever has this token can join as {invite.site}. Hand it over as you would a password. It can be used once, until{' '}
        {minute(invite.expires)} UTC.
      </Notice>
      <CopyField label="Token" value={invite.token} rows={4} />
      {invite.command && <CopyField label="Command that the site runs" value={invite.command} rows={5} />}
      <div class="buttons">
        <button type="button" class="primary" onClick={onClose}>
          Done
        </button>
      </div>
    </Dialog>
  );
}
