// Spent, reserved by running jobs, and left, of a site's own cap. Shape tells what colour tells: full, hatched, empty.
import { budgetInWords, type Budget } from '../budget';
import { cap, epsilonLeft, epsilonSpent, fixed, NONE } from '../format';

export function BudgetBar({ budget }: { budget: Budget }) {
  if (budget.standing === 'not private') return <p class="no-bound">No epsilon bounds what was released.</p>;
  if (budget.cap === null)
    return <p class="no-bound">{budget.standing === 'unused' ? 'Nothing spent; cap not reported yet.' : `${epsilonSpent(budget.spent)} spent; cap not reported.`}</p>;
  const spent = 100 * budget.shareSpent;
  return (
    <div class={`budget budget-${budget.standing}`}>
      <svg class="bar" role="img" aria-label={budgetInWords(budget)} preserveAspectRatio="none">
        <rect class="bar-left" width="100%" height="100%" />
        <rect class="bar-spent" width={`${spent}%`} height="100%" />
        <rect class="bar-reserved" x={`${spent}%`} width={`${100 * budget.shareReserved}%`} height="100%" />
      </svg>
      <p class="figures" aria-hidden="true">
        <span>
          <b>{epsilonSpent(budget.spent)}</b> spent
        </span>
        <span>
          <b>{budget.reserved === null ? NONE : epsilonSpent(budget.reserved)}</b> reserved
        </span>
        <span>
          <b>{epsilonLeft(budget.left)}</b> left
        </span>
        <span class="of">
          of <b>{cap(budget.cap)}</b>
        </span>
      </p>
    </div>
  );
}

// Defined once a page: an SVG pattern for what is reserved.
export function BarPatterns() {
  return (
    <svg class="patterns" aria-hidden="true" width="0" height="0">
      <defs>
        <pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
          <rect width="6" height="6" class="hatch-ground" />
          <rect width="2.5" height="6" class="hatch-line" />
        </pattern>
      </defs>
    </svg>
  );
}

export function BudgetFigures({ budget }: { budget: Budget }) {
  if (budget.cap === null || budget.standing === 'not private') return null;
  const items: [string, string, string][] = [
    ['spent', epsilonSpent(budget.spent, 3), 'Spent'],
    ['reserved', budget.reserved === null ? NONE : epsilonSpent(budget.reserved, 3), 'Reserved by running jobs'],
    ['left', epsilonLeft(budget.left, 3), 'Left'],
    ['cap', fixed(budget.cap, 3), 'The site’s cap'],
  ];
  return (
    <dl class="big-figures">
      {items.map(([kind, value, title]) => (
        <div key={kind} class={`big-${kind}`}>
          <dt>{title}</dt>
          <dd>
            <span aria-hidden="true">ε </span>
            {value}
          </dd>
        </div>
      ))}
    </dl>
  );
}
