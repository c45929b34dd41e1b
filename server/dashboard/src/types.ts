// The documents of the aggregator's API, prefix /api/v1. server/http/openapi.json describes them, server/job_report.h and
// server/privacy_report.h make them. Times are ISO 8601 in UTC; a number that is not finite is null.

export interface Session {
  role: 'viewer' | 'operator';
  name: string;
  csrf: string;
  expires: string;
}

export interface Federation {
  federation: string;
  software_version: string;
  addresses: string[];
  uptime_seconds: number;
  draining: boolean;
  sessions: number;
  ca_until?: string;
  time?: string;
}

export interface SiteWait {
  job: string;
  since?: string | null;
  round?: number;
}

export interface Site {
  name: string;
  connected: boolean;
  is_operator?: boolean;
  enrolled?: string;
  revoked?: string | null;
  revocation_reason?: string;
  certificate_until?: string | null;
  last_seen?: string | null;
  software_version?: string | null;
  device?: string | null;
  address?: string | null;
  waiting_for?: SiteWait | SiteWait[] | string | string[] | null;
}

export interface SitesDocument {
  sites: Site[];
  error?: string;
}

export interface Waiting {
  reason: string;
  sites: string[];
  since: string;
  until: string | null;
}

export type Metrics = Record<string, number | null>;

export interface JobSummary {
  id: string;
  name: string;
  task: string;
  state: string;
  reason: string;
  waiting: Waiting | null;
  rounds_done: number;
  rounds_total: number;
  // The last evaluation's metrics on the aggregator's public test set, and of the last ten evaluations mean and deviation.
  result: Metrics & { evaluated: number };
  private: boolean;
  privacy: string;
  submitted: string;
  ended: string | null;
  seconds: number;
  epsilon?: number | null;
  delta?: number | null;
}

export interface JobClient {
  name: string;
  connected: boolean;
  status: string;
  reason: string;
  declared_records: number;
  participations: number;
  epsilon_spent: number | null;
  epsilon_budget: number | null;
  bytes_down: number;
  bytes_up: number;
  round: number;
  step: number;
  steps: number;
  last_progress: string | null;
}

export interface JobRound {
  round: number;
  committed: boolean;
  attempt: number;
  contributions: number;
  weight: number;
  seconds: number | null;
  bytes_down: number;
  bytes_up: number;
}

export interface Evaluation {
  round: number;
  metrics: Metrics;
}

export interface Job extends JobSummary {
  round: number;
  attempt: number;
  evaluations: Evaluation[];
  clients: JobClient[];
  rounds: JobRound[];
  bytes_down: number;
  bytes_up: number;
  noise_seeded: boolean;
}

export interface JobsDocument {
  jobs: JobSummary[];
}

export interface Declined {
  job: string;
  round: number; // 0: the job as a whole
  reason: string;
  time?: string | null;
}

export interface DataSet {
  data_set: string;
  private: boolean;
  epsilon_spent: number | null;
  epsilon_budget: number | null;
  // What the running jobs will have added by their end; null where that is not known.
  epsilon_reserved: number | null;
  delta: number | null;
  declared_records: number;
  jobs: string[];
  rounds: number;
  declined: Declined[]; // the newest 100
  declined_total: number;
  reported: string | null;
}

export interface SitePrivacy {
  site: string;
  revoked: boolean;
  key_sha256: string | null;
  ledger_head: { count: number; hash: string; time: string | null } | null;
  data_sets: DataSet[];
}

export interface PrivacyDocument {
  federation: string;
  time?: string;
  sites: SitePrivacy[];
}

export interface Mechanism {
  sample_rate: number;
  noise_multiplier: number;
  steps: number;
  clip_norm?: number | null;
  noise?: string | null;
}

export interface HistoryPoint {
  job: string;
  round: number;
  time: string | null;
  epsilon: number | null;
  cost: number | null;
  mechanism: Mechanism | null;
  declined: boolean;
  reason: string;
}

export interface PrivacyHistory {
  site: string;
  data_set: string;
  delta: number | null;
  epsilon_budget: number | null;
  epsilon_spent: number | null;
  points: HistoryPoint[];
  projection: { job: string; round: number; epsilon: number }[];
  ends: string;
}

export interface Invite {
  site: string;
  role: string;
  token: string;
  expires: string;
  command?: string;
}
