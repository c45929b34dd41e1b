// Numbers, times and sizes as text. Everything is plain: the parts add the markup.

export const THIN = '\u2009';
export const MINUS = '\u2212';
export const NONE = '\u2013'; // an en dash: there is no such figure

function isNumber(value: number | null | undefined): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

// 1234567 → "1 234 567", with thin spaces.
export function grouped(value: number | null | undefined): string {
  if (!isNumber(value)) return NONE;
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+(?!\d))/g, THIN)
    .replace('-', MINUS);
}

export function fixed(value: number | null | undefined, digits = 2): string {
  return isNumber(value) ? value.toFixed(digits).replace('-', MINUS) : NONE;
}

// An epsilon that was spent is rounded up, as an upper bound has to be; what is left, down.
export function epsilonSpent(value: number | null | undefined, digits = 2): string {
  return isNumber(value) ? fixed(roundUp(value, digits), digits) : NONE;
}

export function epsilonLeft(value: number | null | undefined, digits = 2): string {
  return isNumber(value) ? fixed(Math.max(0, roundDown(value, digits)), digits) : NONE;
}

// 8 → "8", 0.5 → "0.5": a cap as the site's owner wrote it.
export function cap(value: number | null | undefined): string {
  return isNumber(value) ? String(Number(value.toPrecision(6))) : NONE;
}

// A hair below the next step is that step: 0.1 + 0.2 must not become 0.31.
function roundUp(value: number, digits: number): number {
  const scale = 10 ** digits;
  return Math.ceil(value * scale - 1e-6) / scale;
}

function roundDown(value: number, digits: number): number {
  const scale = 10 ** digits;
  return Math.floor(value * scale + 1e-6) / scale;
}

export function percent(fraction: number | null | undefined, digits = 1): string {
  return isNumber(fraction) ? `${fixed(100 * fraction, digits)}${THIN}%` : NONE;
}

// 3e-5 → {digits: "3", exponent: −5}; the digits are "" where they would be 1.
export function powerOfTen(value: number): { digits: string; exponent: number } {
  let exponent = Math.floor(Math.log10(value));
  let digits = Number((value / 10 ** exponent).toPrecision(3));
  if (digits >= 10) {
    digits /= 10;
    exponent += 1;
  }
  return { digits: digits === 1 ? '' : String(digits), exponent };
}

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytes(value: number | null | undefined): string {
  if (!isNumber(value)) return NONE;
  let unit = 0;
  for (; value >= 1024 && unit + 1 < BYTE_UNITS.length; ++unit) value /= 1024;
  return `${unit === 0 ? value.toFixed(0) : value.toFixed(1)}${THIN}${BYTE_UNITS[unit]}`;
}

// "2026-11-24 15:04", UTC.
export function minute(time: string | null | undefined): string {
  const date = parsed(time);
  return date === undefined ? NONE : date.toISOString().slice(0, 16).replace('T', ' ');
}

export function second(time: string | null | undefined): string {
  const date = parsed(time);
  return date === undefined ? NONE : date.toISOString().slice(0, 19).replace('T', ' ');
}

export function day(time: string | null | undefined): string {
  const date = parsed(time);
  return date === undefined ? NONE : date.toISOString().slice(0, 10);
}

export function parsed(time: string | null | undefined): Date | undefined {
  if (!time) return undefined;
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? undefined : date;
}

// How long, in the two units that matter: "45 s", "3 min 20 s", "2 h 5 min", "4 d 3 h".
export function duration(seconds: number | null | undefined): string {
  if (!isNumber(seconds)) return NONE;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}${THIN}s`;
  const pairs: [number, string, number, string][] = [
    [60, 'min', 1, 's'],
    [3600, 'h', 60, 'min'],
    [86400, 'd', 3600, 'h'],
  ];
  const pair = whole < 3600 ? pairs[0]! : whole < 86400 ? pairs[1]! : pairs[2]!;
  const [large, largeName, small, smallName] = pair;
  const rest = Math.floor((whole % large) / small);
  const head = `${Math.floor(whole / large)}${THIN}${largeName}`;
  return rest === 0 ? head : `${head} ${rest}${THIN}${smallName}`;
}

// "just now", "40 s ago", "in 9 days"; coarse on purpose: the exact time stands beside or in the tooltip.
export function ago(time: string | null | undefined, now: number): string {
  const date = parsed(time);
  if (date === undefined) return NONE;
  const seconds = (now - date.getTime()) / 1000;
  const size = Math.abs(seconds);
  if (size < 5) return 'just now';
  const text =
    size < 60
      ? `${Math.floor(size)}${THIN}s`
      : size < 3600
        ? `${Math.floor(size / 60)}${THIN}min`
        : size < 172800
          ? `${Math.floor(size / 3600)}${THIN}h`
          : `${Math.floor(size / 86400)} days`;
  return seconds >= 0 ? `${text} ago` : `in ${text}`;
}

export function daysUntil(time: string | null | undefined, now: number): number | undefined {
  const date = parsed(time);
  return date === undefined ? undefined : (date.getTime() - now) / 86_400_000;
}

export function plural(count: number, one: string, many = one + 's'): string {
  return `${grouped(count)} ${count === 1 ? one : many}`;
}
