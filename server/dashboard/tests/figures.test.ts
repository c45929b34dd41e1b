import assert from 'node:assert/strict';
import { test } from 'node:test';
import { budgetInWords, budgetOf, budgetRows, isOverBudget, mechanismInWords, reasonOf, totals } from '../src/budget';
import * as format from '../src/format';
import { historyLines } from '../src/history';
import { hrefOf, parseRoute } from '../src/router';
import { lineOf } from '../src/toml_error';
import type { DataSet, PrivacyDocument, PrivacyHistory } from '../src/types';

function dataSet(changes: Partial<DataSet> = {}): DataSet {
  return {
    data_set: 'default', private: true, epsilon_spent: 2, epsilon_budget: 8, epsilon_reserved: 1, delta: 1e-5,
    declared_records: 5000, jobs: [], rounds: 4, declined: [], declined_total: 0, reported: '2026-11-24T15:04:00Z', ...changes,
  };
}

test('a budget is spent, reserved and left, and the three make the cap', () => {
  const budget = budgetOf(dataSet());
  assert.equal(budget.standing, 'open');
  assert.equal(budget.spent + budget.reserved! + budget.left!, 8);
  assert.equal(budget.shareSpent, 0.25);
  assert.equal(budget.shareReserved, 0.125);
  assert.equal(budgetInWords(budget), '2.00 spent, 1.00 reserved, 5.00 left of 8.');
});

test('what is reserved never passes the cap, and what is spent over a lowered cap fills the bar', () => {
  const reserved = budgetOf(dataSet({ epsilon_spent: 7, epsilon_reserved: 5 }));
  assert.equal(reserved.shareSpent + reserved.shareReserved, 1);
  assert.equal(reserved.left, 0);
  const over = budgetOf(dataSet({ epsilon_spent: 9, epsilon_reserved: 0 }));
  assert.equal(over.shareSpent, 1);
  assert.equal(over.shareReserved, 0);
  assert.equal(over.standing, 'spent');
});

test('a budget stands near its cap by what is reserved too', () => {
  assert.equal(budgetOf(dataSet({ epsilon_spent: 5.4 })).standing, 'near');
  assert.equal(budgetOf(dataSet({ epsilon_spent: 5.3 })).standing, 'open');
  assert.equal(budgetOf(dataSet({ epsilon_spent: 7, epsilon_reserved: null })).standing, 'near');
});

test('a round declined over budget marks the budget as used up, another refusal does not', () => {
  const reason = "the privacy budget of data set 'default' does not cover another round: epsilon 7.9 is spent, the round would make it 8.1, the site's cap is 8";
  assert.ok(isOverBudget(reason));
  const declined = [{ job: 'a', round: 3, reason }];
  assert.equal(budgetOf(dataSet({ declined })).standing, 'spent');
  assert.equal(budgetOf(dataSet({ declined: [{ job: 'a', round: 0, reason: 'the base model is not here' }] })).standing, 'open');
});

test('a data set that was read without privacy has no share of anything', () => {
  const budget = budgetOf(dataSet({ private: false, epsilon_spent: null }));
  assert.equal(budget.standing, 'not private');
  assert.equal(budget.left, null);
  assert.equal(budget.shareSpent, 0);
});

test('a cap that is not known is not taken for none', () => {
  assert.equal(budgetOf(dataSet({ epsilon_budget: null })).standing, 'no cap');
  assert.equal(budgetOf(dataSet({ epsilon_budget: null, epsilon_spent: 0 })).standing, 'unused');
});

const FEDERATION: PrivacyDocument = {
  federation: 'f',
  sites: ['site-10', 'site-2', 'gone'].map((site, index) => ({
    site, revoked: site === 'gone', key_sha256: null, ledger_head: null,
    data_sets: [dataSet({ epsilon_spent: 2 + index, private: site !== 'gone', reported: `2026-11-2${index}T00:00:00Z` })],
  })),
};

test('rows come by what needs attention, with revoked sites last, or by name as people count', () => {
  const names = (order: 'attention' | 'name' | 'reported') => budgetRows(FEDERATION, '', order).map(({ site }) => site.site);
  assert.deepEqual(names('attention'), ['site-2', 'site-10', 'gone']);
  assert.deepEqual(names('name'), ['gone', 'site-2', 'site-10']);
  assert.deepEqual(names('reported'), ['gone', 'site-2', 'site-10']);
  assert.deepEqual(budgetRows(FEDERATION, ' SITE-1 ', 'name').map(({ site }) => site.site), ['site-10']);
});

test('totals leave out revoked sites', () => {
  assert.deepEqual(totals(FEDERATION), { sites: 2, dataSets: 2, near: 0, spent: 0, notPrivate: 0, declined: 0 });
});

test('a mechanism is told in words that a reader can check against the job file', () => {
  assert.equal(
    mechanismInWords({ sample_rate: 64 / 3674, noise_multiplier: 1.10415, steps: 10, clip_norm: 1, noise: 'discrete_gaussian' }),
    '10 steps, each taking every record with probability 1.74\u2009%; noise 1.104 times what one record can change (clip norm 1)',
  );
  assert.match(mechanismInWords({ sample_rate: 1, noise_multiplier: 30, steps: 1 }), /^1 step over all records; noise 30 /);
  assert.match(mechanismInWords({ sample_rate: 0.5, noise_multiplier: 0, steps: 1 }), /no noise: not private/);
  assert.match(mechanismInWords({ sample_rate: 0.5, noise_multiplier: 1, steps: 1, noise: 'float_gaussian' }), /float32/);
  assert.equal(
    reasonOf({ job: 'a', round: 1, time: null, epsilon: 1, cost: null, mechanism: null, declined: true, reason: 'over budget' }),
    'over budget',
  );
});

test('what is spent is rounded up and what is left is rounded down', () => {
  assert.equal(format.epsilonSpent(4.0011), '4.01');
  assert.equal(format.epsilonLeft(3.9989), '3.99');
  assert.equal(format.epsilonSpent(0.1 + 0.2), '0.30');
  assert.equal(format.epsilonSpent(8), '8.00');
  assert.equal(format.epsilonLeft(-0.001), '0.00');
  assert.equal(format.epsilonSpent(null), format.NONE);
  assert.equal(format.epsilonSpent(Number.NaN), format.NONE);
});

test('numbers, sizes and times are written as this project writes them', () => {
  assert.equal(format.grouped(1234567), '1\u2009234\u2009567');
  assert.equal(format.grouped(999), '999');
  assert.deepEqual(format.powerOfTen(1e-5), { digits: '', exponent: -5 });
  assert.deepEqual(format.powerOfTen(3e-7), { digits: '3', exponent: -7 });
  assert.deepEqual(format.powerOfTen(9.9999e-6), { digits: '', exponent: -5 });
  assert.equal(format.bytes(1023), '1023\u2009B');
  assert.equal(format.bytes(1536), '1.5\u2009KiB');
  assert.equal(format.percent(0.70712), '70.7\u2009%');
  assert.equal(format.minute('2026-11-24T15:04:59.9Z'), '2026-11-24 15:04');
  assert.equal(format.minute('yesterday'), format.NONE);
  assert.equal(format.duration(59.4), '59\u2009s');
  assert.equal(format.duration(3600), '1\u2009h');
  assert.equal(format.duration(7500), '2\u2009h 5\u2009min');
  assert.equal(format.duration(90061), '1\u2009d 1\u2009h');
});

test('times are told from the time that is given as now', () => {
  const now = Date.parse('2026-11-24T12:00:00Z');
  assert.equal(format.ago('2026-11-24T11:59:58Z', now), 'just now');
  assert.equal(format.ago('2026-11-24T11:58:00Z', now), '2\u2009min ago');
  assert.equal(format.ago('2026-12-03T12:00:01Z', now), 'in 9 days');
  assert.equal(format.ago(null, now), format.NONE);
  assert.equal(Math.floor(format.daysUntil('2026-12-08T11:00:00Z', now)!), 13);
});

test('the lines of a history go through charged rounds only, and the projection begins where they end', () => {
  const point = { job: 'a', round: 1, time: null, epsilon: 1, cost: 1, mechanism: null, declined: false, reason: '' };
  const history: PrivacyHistory = {
    site: 's', data_set: 'd', delta: 1e-5, epsilon_budget: 8, epsilon_spent: 2, ends: '',
    points: [point, { ...point, round: 2, declined: true }, { ...point, job: 'b', epsilon: 2 }],
    projection: [{ job: 'b', round: 2, epsilon: 2.5 }, { job: 'b', round: 3, epsilon: 2.9 }],
  };
  const lines = historyLines(history);
  assert.deepEqual(lines.x, [1, 2, 3, 4]);
  assert.deepEqual(lines.spent, [1, 2, null, null]);
  assert.deepEqual(lines.projected, [null, 2, 2.5, 2.9]);
  assert.deepEqual(lines.cap, [8, 8, 8, 8]);
  assert.deepEqual(lines.boundaries, [{ x: 1, text: 'a' }, { x: 2, text: 'b' }]);
  assert.ok(lines.top > 8);
});

test('an address leads back to the page that made it, whatever is in a name', () => {
  for (const route of [
    { page: 'privacy' }, { page: 'jobs' }, { page: 'job', id: 'domains-12ab34cd' }, { page: 'submit' }, { page: 'sites' },
    { page: 'budget', site: 'st. mary/ä', dataSet: '100 %' },
  ] as const)
    assert.deepEqual(parseRoute(hrefOf(route)), route);
  assert.equal(parseRoute('#/nothing/here/at/all').page, 'unknown');
  assert.equal(parseRoute('#/privacy/%E0%A4%A').page, 'unknown');
  assert.equal(parseRoute('').page, 'privacy');
});

test('the line that an error names is found', () => {
  assert.equal(lineOf('job.toml:7: privacy.epsilom is no key'), 7);
  assert.equal(lineOf('job.toml, line 12: expected a value'), 12);
  assert.equal(lineOf('the base model is not here'), undefined);
});
