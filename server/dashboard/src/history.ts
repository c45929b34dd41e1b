// From a data set's history to the lines of its chart.
import type { PrivacyHistory } from './types';

export interface HistoryLines {
  x: number[]; // 1, 2, …: rounds that were charged, over all jobs, in order of time; then those still to come
  spent: (number | null)[];
  cap: (number | null)[];
  projected: (number | null)[];
  jobs: string[]; // of each x
  rounds: number[];
  boundaries: { x: number; text: string }[];
  top: number;
}

export function historyLines(history: PrivacyHistory): HistoryLines {
  const lines: HistoryLines = {
    x: [], spent: [], cap: [], projected: [], jobs: [], rounds: [], boundaries: [], top: 1,
  };
  let highest = history.epsilon_budget ?? 0;
  const add = (job: string, round: number, spent: number | null, projected: number | null) => {
    const x = lines.x.length + 1;
    if (lines.jobs[x - 2] !== job) lines.boundaries.push({ x, text: job });
    lines.x.push(x);
    lines.spent.push(spent);
    lines.projected.push(projected);
    lines.cap.push(history.epsilon_budget);
    lines.jobs.push(job);
    lines.rounds.push(round);
    highest = Math.max(highest, spent ?? 0, projected ?? 0);
  };
  for (const point of history.points) {
    if (point.declined || point.epsilon === null) continue; // nothing was charged
    add(point.job, point.round, point.epsilon, null);
  }
  const last = lines.spent.length - 1;
  if (last >= 0 && history.projection.length > 0) lines.projected[last] = lines.spent[last] ?? null;
  for (const point of history.projection) add(point.job, point.round, null, point.epsilon);
  lines.top = highest > 0 ? highest * 1.08 : 1;
  return lines;
}
