// Federations made up for development and tests: the same documents that the aggregator makes, with plausible figures.

// What composing `steps` equal steps costs, in shape: a square root and a linear part, as Rényi composition gives.
export function epsilonAfter(rounds, perRound) {
  return perRound * (2.2 * Math.sqrt(rounds) + 0.05 * rounds);
}

const hex = (seed, length) => {
  let text = '';
  for (let i = 0; text.length < length; ++i) text += (Math.imul(seed + i, 2654435761) >>> 0).toString(16).padStart(8, '0');
  return text.slice(0, length);
};

const JOB_FILE = `[job]
name = "NAME"
task = "lora_text"
rounds = ROUNDS

[model]
base = "roberta-mini-imdb"
labels = ["banking", "travel", "work"]

[privacy]
epsilon = 8.0
delta = 1e-5
`;

export class Federation {
  constructor(options = {}) {
    this.name = options.name ?? 'hospitals';
    this.start = options.start ?? Date.parse('2026-11-24T08:00:00Z');
    this.time = this.start;
    this.sites = [];
    this.jobs = [];
    this.history = new Map(); // "site/data set" → points
    this.failing = new Set(options.failing ?? []); // paths that answer 503
  }

  iso(at = this.time) {
    return new Date(at).toISOString();
  }

  addSite(name, options = {}) {
    this.sites.push({
      name, cap: 8, connected: true, records: 5000, perRound: 0.42, dataSet: 'default', private: true, days: 60,
      version: '0.1.0', device: 'cpu (AVX-512)', revoked: null, why: '', hasStatement: true, declined: [], seen: this.time,
      ...options,
    });
    return this.sites.at(-1);
  }

  addJob(name, rounds, options = {}) {
    const job = {
      id: `${name}-${hex(this.jobs.length * 77 + name.length, 8)}`, name, rounds, done: 0, state: 'collecting', reason: '',
      ended: null, submitted: this.time, private: true, evaluations: [], log: [], step: 0,
      file: JOB_FILE.replace('NAME', name).replace('ROUNDS', rounds), waitingSince: this.time, ...options,
    };
    this.jobs.push(job);
    return job;
  }

  key(site) {
    return `${site.name}/${site.dataSet}`;
  }

  points(site) {
    const key = this.key(site);
    if (!this.history.has(key)) this.history.set(key, []);
    return this.history.get(key);
  }

  charged(site) {
    return this.points(site).filter((point) => !point.declined).length;
  }

  spent(site) {
    return epsilonAfter(this.charged(site), site.perRound);
  }

  running() {
    return this.jobs.filter((job) => job.ended === null);
  }

  // One round of a job: every site that is there and can pay takes part; who cannot declines.
  round(job, seconds = 5) {
    this.time += seconds * 1000;
    job.done += 1;
    let contributions = 0;
    for (const site of this.sites) {
      if (site.revoked || !site.connected) continue;
      const before = this.spent(site);
      const after = epsilonAfter(this.charged(site) + 1, site.perRound);
      const point = {
        job: job.id, round: job.done, time: this.iso(), epsilon: before, cost: 0, mechanism: null, declined: false, reason: '',
      };
      if (job.private && after > site.cap) {
        point.declined = true;
        point.reason =
          `the privacy budget of data set '${site.dataSet}' does not cover another round: epsilon ${before.toPrecision(4)} is ` +
          `spent, the round would make it ${after.toPrecision(4)}, the site's cap is ${site.cap} (delta 1e-05)`;
        point.cost = null;
        site.declined.push({ job: job.id, round: job.done, reason: point.reason, time: this.iso() });
      } else {
        contributions += 1;
        if (job.private) {
          point.epsilon = after;
          point.cost = after - before;
          point.mechanism = {
            sample_rate: 64 / site.records, noise_multiplier: 1.104, steps: 10, clip_norm: 1, noise: 'discrete_gaussian',
          };
        }
      }
      this.points(site).push(point);
      site.seen = this.time;
    }
    job.log.push({
      round: job.done, committed: true, attempt: 1, contributions, weight: contributions * 5000, seconds: seconds - 0.4,
      bytes_down: 133_000 * contributions, bytes_up: 112_000 * contributions,
    });
    const accuracy = 0.74 - 0.5 * Math.exp(-job.done / 9) + 0.012 * Math.sin(job.done * 2.3);
    job.evaluations.push({
      round: job.done,
      metrics: { accuracy, accuracy_average: 0.74 - 0.52 * Math.exp(-job.done / 11), loss: 1.9 * Math.exp(-job.done / 14) },
    });
    job.waitingSince = this.time;
    if (contributions === 0) this.end(job, 'failed', `round ${job.done} had 0 of at least 1 contributions after 4 attempts`);
    else if (job.done >= job.rounds) this.end(job, 'finished', '');
  }

  end(job, state, reason) {
    job.state = state;
    job.reason = reason;
    job.ended = this.time;
  }

  // --- Documents ---

  federation() {
    return {
      federation: this.name, software_version: '0.1.0', addresses: ['fl.example.org:7443'],
      uptime_seconds: (this.time - this.start) / 1000, draining: false, sessions: this.sites.filter((s) => s.connected).length,
      uploads: 0, staging_memory_bytes: 0, staging_disk_bytes: 0, ca_sha256: hex(9, 64),
      ca_until: this.iso(this.start + 3650 * 86400e3), time: this.iso(),
    };
  }

  sitesDocument() {
    const job = this.running()[0];
    return {
      sites: this.sites.map((site) => ({
        name: site.name, connected: site.connected && !site.revoked, is_operator: false,
        certificate_until: this.iso(this.start + site.days * 86400e3), enrolled: this.iso(this.start - 30 * 86400e3),
        revoked: site.revoked, revocation_reason: site.why, last_seen: this.iso(site.seen),
        ...(site.connected && !site.revoked
          ? { software_version: site.version, device: site.device, address: '192.0.2.7' }
          : {}),
        waiting_for: job && !site.connected && !site.revoked ? [{ job: job.id, since: this.iso(job.waitingSince) }] : [],
      })),
    };
  }

  summary(job) {
    const last = job.evaluations.at(-1);
    const pending = this.sites.filter((site) => !site.revoked && !site.connected).map((site) => site.name);
    return {
      id: job.id, name: job.name, task: 'lora_text', state: job.state, reason: job.reason,
      waiting: job.ended
        ? null
        : {
            reason: `${Math.max(0, this.sites.length - 1)} of ${this.sites.length} contributions are in (at least 1 are needed)`,
            sites: pending.length > 0 ? pending : this.sites.slice(0, 1).map((site) => site.name),
            since: this.iso(job.waitingSince), until: this.iso(job.waitingSince + 600_000),
          },
      rounds_done: job.done, rounds_total: job.rounds,
      result: { evaluated: job.evaluations.length, ...(last ? last.metrics : {}) },
      private: job.private, privacy: job.private ? 'private' : 'not private: the job has privacy.enabled = false',
      submitted: this.iso(job.submitted), ended: job.ended ? this.iso(job.ended) : null,
      seconds: ((job.ended ?? this.time) - job.submitted) / 1000,
      epsilon: job.private ? 8 : null, delta: job.private ? 1e-5 : null,
    };
  }

  job(job) {
    const open = job.ended === null;
    return {
      ...this.summary(job), round: open ? job.done + 1 : 0, attempt: open ? 1 : 0, evaluations: job.evaluations,
      clients: this.sites.map((site, index) => {
        const declined = site.declined.some((one) => one.job === job.id && one.round === job.done);
        return {
          name: site.name, connected: site.connected && !site.revoked,
          status: site.revoked ? 'dropped' : !open ? '' : declined ? 'declined' : index === 0 ? 'accepted' : 'contributed',
          reason: site.revoked ? `revoked: ${site.why}` : declined ? site.declined.at(-1).reason : '',
          declared_records: site.records, participations: this.charged(site), epsilon_spent: this.spent(site),
          epsilon_budget: site.cap, bytes_down: 133_000 * job.done, bytes_up: 112_000 * job.done, round: job.done + 1,
          step: open ? (index === 0 ? 6 : 10) : 10, steps: 10, last_progress: this.iso(site.seen),
        };
      }),
      rounds: open
        ? [...job.log, { round: job.done + 1, committed: false, attempt: 1, contributions: 0, weight: 0, seconds: null,
                         bytes_down: 0, bytes_up: 0 }]
        : job.log,
      bytes_down: job.log.reduce((sum, one) => sum + one.bytes_down, 0),
      bytes_up: job.log.reduce((sum, one) => sum + one.bytes_up, 0), noise_seeded: false,
    };
  }

  reserved(site) {
    if (!site.private || site.revoked) return 0;
    const rounds = this.running().reduce((sum, job) => sum + (job.private ? job.rounds - job.done : 0), 0);
    const end = Math.min(site.cap, epsilonAfter(this.charged(site) + rounds, site.perRound));
    return Math.max(0, end - this.spent(site));
  }

  privacy() {
    return {
      federation: this.name, time: this.iso(),
      sites: this.sites.map((site, index) => ({
        site: site.name, revoked: site.revoked !== null, key_sha256: hex(index + 500, 64),
        ledger_head: { count: this.points(site).length + 1, hash: hex(index * 31 + this.points(site).length, 64), time: this.iso() },
        data_sets: this.points(site).length === 0 && !site.alwaysListed ? [] : [{
          data_set: site.dataSet, private: site.private, epsilon_spent: site.private ? this.spent(site) : null,
          epsilon_budget: site.cap, epsilon_reserved: this.reserved(site), delta: 1e-5, declared_records: site.records,
          jobs: [...new Set(this.points(site).map((point) => point.job))], rounds: this.charged(site),
          declined: site.declined, declined_total: site.declined.length,
          reported: this.iso(site.seen),
        }],
      })),
    };
  }

  privacyHistory(site) {
    const projection = [];
    let rounds = this.charged(site);
    let cut = false;
    for (const job of this.running()) {
      for (let round = job.done + 1; round <= job.rounds && !cut && !site.revoked; ++round) {
        const epsilon = epsilonAfter(++rounds, site.perRound);
        if (epsilon > site.cap) cut = true;
        else projection.push({ job: job.id, round, epsilon });
      }
    }
    const last = projection.at(-1);
    return {
      site: site.name, data_set: site.dataSet, delta: 1e-5, epsilon_budget: site.cap, epsilon_spent: this.spent(site),
      points: this.points(site), projection,
      ends: cut
        ? last
          ? `The running jobs would cross the cap: the site declines after round ${last.round} of ${last.job}.`
          : 'The next round would cross the cap: the site declines it.'
        : last
          ? `At the end of the running jobs, after round ${last.round} of ${last.job}, epsilon will be ${last.epsilon.toFixed(2)}.`
          : 'No running job uses this data set.',
    };
  }
}

function small(extra = {}) {
  const federation = new Federation(extra);
  federation.addSite('st-mary', { records: 3674, device: 'NVIDIA H100 80GB HBM3' });
  federation.addSite('north-clinic', { records: 4556, cap: 10, days: 9, perRound: 0.4 });
  federation.addSite('university-hospital', { records: 6770, cap: 6, perRound: 0.3 });
  const before = federation.addJob('domains', 12);
  while (!before.ended) federation.round(before);
  federation.time += 3600e3;
  const job = federation.addJob('triage', 24);
  for (let i = 0; i < 4; ++i) federation.round(job);
  return federation;
}

export const SCENARIOS = {
  small,
  empty: () => new Federation(),
  big() {
    const federation = new Federation({ name: 'device makers' });
    for (let i = 1; i <= 100; ++i)
      federation.addSite(`site-${i}`, {
        records: 2000 + 37 * i, cap: [8, 8, 10, 12][i % 4], perRound: 0.1 + 0.0012 * i, connected: i % 17 !== 0,
        days: i % 23 === 0 ? 6 : 60,
      });
    const job = federation.addJob('keyboard', 400);
    for (let i = 0; i < 200; ++i) federation.round(job);
    return federation;
  },
  near_cap() {
    const federation = small();
    const [first, second] = federation.sites;
    first.cap = federation.spent(first) + 0.4;
    second.cap = federation.spent(second) * 1.1;
    return federation;
  },
  declined() {
    const federation = small();
    federation.sites[0].cap = federation.spent(federation.sites[0]) + 0.01;
    federation.sites[2].private = false;
    federation.addSite('east-clinic', { connected: false, hasStatement: false });
    federation.addSite('old-clinic', { revoked: federation.iso(), why: 'left the group', connected: false });
    for (let i = 0; i < 2; ++i) federation.round(federation.jobs[1]);
    return federation;
  },
  error: () => small({ failing: ['/privacy', '/jobs', '/sites'] }),
};
