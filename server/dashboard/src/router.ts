// Addresses behind the '#': the aggregator serves one page, and a reload or a bookmark finds its way back.
import { Cell } from './cell';
import { segment } from './api';

export type Route =
  | { page: 'privacy' }
  | { page: 'budget'; site: string; dataSet: string }
  | { page: 'jobs' }
  | { page: 'job'; id: string }
  | { page: 'submit' }
  | { page: 'sites' }
  | { page: 'unknown'; hash: string };

export function parseRoute(hash: string): Route {
  let parts: string[];
  try {
    parts = hash
      .replace(/^#?\/?/, '')
      .split('/')
      .filter((part) => part !== '')
      .map(decodeURIComponent);
  } catch {
    return { page: 'unknown', hash };
  }
  const [first, second, third, ...rest] = parts;
  if (first === undefined) return { page: 'privacy' };
  if (rest.length === 0) {
    if (first === 'privacy' && second === undefined) return { page: 'privacy' };
    if (first === 'privacy' && second !== undefined && third !== undefined)
      return { page: 'budget', site: second, dataSet: third };
    if (third === undefined) {
      if (first === 'jobs') return second === undefined ? { page: 'jobs' } : { page: 'job', id: second };
      if (first === 'submit' && second === undefined) return { page: 'submit' };
      if (first === 'sites' && second === undefined) return { page: 'sites' };
    }
  }
  return { page: 'unknown', hash };
}

export function hrefOf(route: Route): string {
  switch (route.page) {
    case 'budget':
      return `#/privacy/${segment(route.site)}/${segment(route.dataSet)}`;
    case 'job':
      return `#/jobs/${segment(route.id)}`;
    case 'unknown':
      return route.hash;
    default:
      return `#/${route.page}`;
  }
}

export const route = new Cell<Route>(parseRoute(typeof location === 'undefined' ? '' : location.hash));

export function go(to: Route): void {
  location.hash = hrefOf(to);
}

export function watchAddress(): () => void {
  const changed = () => route.set(parseRoute(location.hash));
  addEventListener('hashchange', changed);
  return () => removeEventListener('hashchange', changed);
}
