// Small pieces of text that need markup.
import type { ComponentChildren } from 'preact';
import { useCell } from '../cell';
import * as format from '../format';
import { clock, now } from '../state';

// 1e-5 as 10⁻⁵; spoken as it is written in a job file.
export function Power({ value }: { value: number | null | undefined }) {
  if (value === null || value === undefined || !(value > 0)) return <>{format.NONE}</>;
  const { digits, exponent } = format.powerOfTen(value);
  return (
    <>
      <span class="power" aria-hidden="true">
        {digits && `${digits}${format.THIN}×${format.THIN}`}10
        <sup>
          {exponent < 0 ? format.MINUS : ''}
          {Math.abs(exponent)}
        </sup>
      </span>
      <span class="spoken">{value.toExponential().replace('e', ' e ')}</span>
    </>
  );
}

// "3 min ago", with the time itself in the tooltip.
export function Ago({ time }: { time: string | null | undefined }) {
  useCell(clock);
  if (!format.parsed(time)) return <>{format.NONE}</>;
  return (
    <time dateTime={time!} title={`${format.second(time)} UTC`}>
      {format.ago(time, now())}
    </time>
  );
}

export function Time({ time }: { time: string | null | undefined }) {
  if (!format.parsed(time)) return <>{format.NONE}</>;
  return (
    <time dateTime={time!} title={`${format.second(time)} UTC`} class="nowrap">
      {format.minute(time)}
    </time>
  );
}

export type Tone = 'good' | 'plain' | 'warn' | 'bad' | 'quiet';

// A state, told by its words and by the shape before them; the colour only repeats it.
export function Mark({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`mark mark-${tone}`}>{children}</span>;
}

export function Notice({ tone, title, children }: { tone: Tone; title: string; children?: ComponentChildren }) {
  return (
    <div class={`notice notice-${tone}`}>
      <strong>{title}</strong>
      {children && <div>{children}</div>}
    </div>
  );
}

export function Facts({ items }: { items: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {items.map(([term, value]) => (
        <div key={term}>
          <dt>{term}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
