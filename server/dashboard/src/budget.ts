// What a budget's figures mean: the parts of its bar, whether it needs somebody's eye, and mechanisms in words.
import { cap, fixed, percent, plural } from './format';
import type { DataSet, HistoryPoint, Mechanism, PrivacyDocument, SitePrivacy } from './types';

export type Standing = 'open' | 'near' | 'spent' | 'not private' | 'no cap' | 'unused';

// From this share of the cap on, spent and reserved together, somebody should look.
export const NEAR = 0.8;

export interface Budget {
  standing: Standing;
  spent: number;
  reserved: number | null; // null: running jobs' cost is not known
  left: number | null; // what is neither spent nor reserved
  cap: number | null;
  shareSpent: number; // of the cap, 0 to 1
  shareReserved: number;
}

export function budgetOf(set: DataSet): Budget {
  const spent = set.epsilon_spent ?? 0;
  const limit = set.epsilon_budget;
  const base = { spent, reserved: set.epsilon_reserved, cap: limit, shareSpent: 0, shareReserved: 0, left: null };
  if (!set.private) return { ...base, standing: 'not private' };
  if (limit === null || limit <= 0) return { ...base, standing: spent > 0 ? 'no cap' : 'unused' };
  const shareSpent = Math.min(1, Math.max(0, spent / limit));
  const reserved = Math.max(0, Math.min(set.epsilon_reserved ?? 0, limit - spent));
  const shareReserved = reserved / limit;
  const left = Math.max(0, limit - spent - reserved);
  const standing: Standing =
    shareSpent > 0.995 || set.declined.some((round) => isOverBudget(round.reason))
      ? 'spent'
      : shareSpent + shareReserved >= NEAR
        ? 'near'
        : 'open';
  return { ...base, standing, left, shareSpent, shareReserved };
}

// The site's client says so in its refusal (client/job_runner.cpp); tests/browser/real.mjs holds the two together.
export function isOverBudget(reason: string): boolean {
  return reason.includes('does not cover another round');
}

export const STANDING_TEXT: Record<Standing, string> = {
  open: 'Private',
  near: 'Private, near its cap',
  spent: 'Private, budget used up',
  'not private': 'Not private',
  'no cap': 'Cap not known',
  unused: 'Nothing spent',
};

export interface BudgetRow {
  site: SitePrivacy;
  set: DataSet | undefined; // none: the site has taken part in no job
  budget: Budget | undefined;
}

export type RowOrder = 'attention' | 'name' | 'reported';

const URGENCY: Record<Standing, number> = { 'not private': 0, spent: 1, near: 2, 'no cap': 3, open: 4, unused: 5 };

export function budgetRows(document: PrivacyDocument, filter: string, order: RowOrder): BudgetRow[] {
  const wanted = filter.trim().toLowerCase();
  const rows: BudgetRow[] = [];
  for (const site of document.sites) {
    if (site.data_sets.length === 0) rows.push({ site, set: undefined, budget: undefined });
    for (const set of site.data_sets) rows.push({ site, set, budget: budgetOf(set) });
  }
  const kept = wanted
    ? rows.filter(
        ({ site, set }) =>
          site.site.toLowerCase().includes(wanted) || (set?.data_set.toLowerCase().includes(wanted) ?? false),
      )
    : rows;
  const byName = (a: BudgetRow, b: BudgetRow) =>
    compareNames(a.site.site, b.site.site) || compareNames(a.set?.data_set ?? '', b.set?.data_set ?? '');
  const urgency = (row: BudgetRow) => (row.site.revoked ? 10 : row.budget ? URGENCY[row.budget.standing] : 9);
  const share = (row: BudgetRow) => (row.budget ? row.budget.shareSpent + row.budget.shareReserved : -1);
  return kept.sort((a, b) => {
    if (order === 'attention') return urgency(a) - urgency(b) || share(b) - share(a) || byName(a, b);
    if (order === 'reported')
      return (b.set?.reported ?? '').localeCompare(a.set?.reported ?? '') || byName(a, b);
    return byName(a, b);
  });
}

// site-2 before site-10.
const collator = new Intl.Collator('en', { numeric: true });
export function compareNames(a: string, b: string): number {
  return collator.compare(a, b);
}

// "10 steps; each takes every record with probability 1.74 %; noise of 1.104 times the clip norm (1)".
export function mechanismInWords(mechanism: Mechanism): string {
  const parts = [
    mechanism.sample_rate >= 1
      ? `${plural(mechanism.steps, 'step')} over all records`
      : `${plural(mechanism.steps, 'step')}, each taking every record with probability ${rate(mechanism.sample_rate)}`,
  ];
  if (mechanism.noise_multiplier > 0) {
    const clip = mechanism.clip_norm ? ` (clip norm ${cap(mechanism.clip_norm)})` : '';
    parts.push(`noise ${Number(mechanism.noise_multiplier.toPrecision(4))} times what one record can change${clip}`);
  } else {
    parts.push('no noise: not private');
  }
  if (mechanism.noise === 'float_gaussian') parts.push('rounded to float32, whose low bits may tell more');
  return parts.join('; ');
}

function rate(value: number): string {
  const digits = value < 0.0001 ? 4 : value < 0.01 ? 3 : 2;
  return percent(value, digits);
}

// What the table of rounds says in its last column.
export function reasonOf(point: HistoryPoint): string {
  if (point.declined) return point.reason || 'Declined; the site gave no reason.';
  if (point.mechanism) return mechanismInWords(point.mechanism);
  return point.reason || 'The mechanism was not reported.';
}

export function jobLabel(round: number): string {
  return round === 0 ? 'whole job' : `round ${round}`;
}

// For the screen reader, and for those who like sentences.
export function budgetInWords(budget: Budget): string {
  if (budget.standing === 'not private') return 'Not private: no epsilon bounds what was released.';
  if (budget.cap === null) return `${fixed(budget.spent)} spent; the cap is not known.`;
  const reserved = budget.reserved === null ? 'reserved: not known' : `${fixed(budget.reserved)} reserved`;
  return `${fixed(budget.spent)} spent, ${reserved}, ${fixed(budget.left ?? 0)} left of ${cap(budget.cap)}.`;
}

export interface Totals {
  sites: number;
  dataSets: number;
  near: number;
  spent: number;
  notPrivate: number;
  declined: number;
}

export function totals(document: PrivacyDocument): Totals {
  const sum: Totals = { sites: 0, dataSets: 0, near: 0, spent: 0, notPrivate: 0, declined: 0 };
  for (const site of document.sites) {
    if (site.revoked) continue;
    sum.sites += 1;
    for (const set of site.data_sets) {
      sum.dataSets += 1;
      const { standing } = budgetOf(set);
      if (standing === 'near') sum.near += 1;
      if (standing === 'spent') sum.spent += 1;
      if (standing === 'not private') sum.notPrivate += 1;
      sum.declined += set.declined_total;
    }
  }
  return sum;
}
