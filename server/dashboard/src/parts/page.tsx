// The frame of one page: its heading, and what stands there while there is nothing to show.
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import type { Loaded } from '../state';
import { Notice } from './text';

let isFirstPage = true;

// Moving to a page moves the focus to its heading, so that keyboard and screen reader begin there.
export function Heading({ title, children }: { title: string; children?: ComponentChildren }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${title} · Tributary`;
    if (isFirstPage) {
      isFirstPage = false;
      return;
    }
    heading.current?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [title]);
  return (
    <header class="heading">
      <h1 ref={heading} tabIndex={-1}>
        {title}
      </h1>
      {children && <div class="actions">{children}</div>}
    </header>
  );
}

// Loading, failed, or there. News that cannot be fetched does not take away what is known.
export function Document<T>(props: {
  of: Loaded<T>;
  what: string;
  retry: () => void;
  children: (data: T) => ComponentChildren;
}) {
  const { data, error, loading } = props.of;
  const failure = error && (
    <div class={`notice notice-${error.status === 404 ? 'warn' : 'bad'}`} role="alert">
      <strong>{error.status === 404 ? 'Not found' : `Could not load ${props.what}`}</strong>
      <div>
        <p>{error.message}</p>
        {data !== undefined && <p>What is shown below is older.</p>}
        {error.status !== 404 && (
          <button type="button" onClick={props.retry} disabled={loading}>
            Try again
          </button>
        )}
      </div>
    </div>
  );
  if (data === undefined) return failure ?? <Skeleton what={props.what} />;
  return (
    <>
      {failure}
      {props.children(data)}
    </>
  );
}

function Skeleton({ what }: { what: string }) {
  return (
    <div class="skeleton" role="status">
      <span class="spoken">Loading {what}</span>
      <i class="wide" />
      <i />
      <i />
      <i class="short" />
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <Notice tone="quiet" title={title}>
        {children}
      </Notice>
    </div>
  );
}
