// The browser's own modal dialog: it traps the focus, Esc closes it, and the focus returns to where it was.
import type { ComponentChildren } from 'preact';
import { useEffect, useId, useRef, useState } from 'preact/hooks';
import { ApiFailure } from '../api';

export function Dialog(props: { title: string; onClose: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const element = dialog.current!;
    const opener = document.activeElement as HTMLElement | null;
    element.showModal();
    return () => {
      element.close();
      opener?.focus();
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        props.onClose();
      }}
    >
      <h2 id={id}>{props.title}</h2>
      {props.children}
    </dialog>
  );
}

// A change that is being made: one at a time, and its failure in the server's words.
export function useAction(): {
  busy: boolean;
  failure: string;
  run: (action: () => Promise<void>) => Promise<void>;
} {
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState('');
  const isMounted = useRef(true);
  useEffect(
    () => () => {
      isMounted.current = false;
    },
    [],
  );
  const run = async (action: () => Promise<void>) => {
    if (busy) return;
    setBusy(true);
    setFailure('');
    try {
      await action();
    } catch (error) {
      if (!(error instanceof ApiFailure)) throw error;
      if (isMounted.current) setFailure(error.message);
    } finally {
      if (isMounted.current) setBusy(false);
    }
  };
  return { busy, failure, run };
}

// Asks for a reason before something that cannot be undone.
export function ReasonDialog(props: {
  title: string;
  children: ComponentChildren;
  hint: string;
  confirm: string;
  onConfirm: (reason: string) => Promise<void>;
  onClose: () => void;
}) {
  const [reason, setReason] = useState('');
  const [isMissing, setMissing] = useState(false);
  const { busy, failure, run } = useAction();
  const id = useId();
  const submit = (event: Event) => {
    event.preventDefault();
    if (!reason.trim()) {
      setMissing(true);
      document.getElementById(id)?.focus();
      return;
    }
    void run(() => props.onConfirm(reason.trim()));
  };
  return (
    <Dialog title={props.title} onClose={props.onClose}>
      <form onSubmit={submit} noValidate>
        {props.children}
        <label for={id}>Reason</label>
        <textarea
          id={id}
          rows={3}
          maxLength={500}
          required
          value={reason}
          aria-describedby={`${id}-hint`}
          aria-invalid={isMissing && !reason.trim()}
          onInput={(event) => setReason(event.currentTarget.value)}
        />
        <p id={`${id}-hint`} class={isMissing && !reason.trim() ? 'hint wrong' : 'hint'}>
          {isMissing && !reason.trim() ? 'Give a reason. ' : ''}
          {props.hint}
        </p>
        {failure && (
          <p class="wrong" role="alert">
            {failure}
          </p>
        )}
        <div class="buttons">
          <button type="button" onClick={props.onClose}>
            Keep as it is
          </button>
          <button type="submit" class="danger" disabled={busy}>
            {props.confirm}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

export function CopyField(props: { label: string; value: string; rows?: number }) {
  const [said, setSaid] = useState('');
  const id = useId();
  const field = useRef<HTMLTextAreaElement>(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(props.value);
      setSaid('Copied');
    } catch {
      field.current?.select(); // without TLS there is no clipboard: the reader presses Ctrl+C
      setSaid('Selected: press Ctrl+C');
    }
  };
  return (
    <div class="copy">
      <label for={id}>{props.label}</label>
      <textarea id={id} ref={field} readOnly rows={props.rows ?? 3} value={props.value} spellcheck={false} />
      <button type="button" onClick={() => void copy()}>
        Copy<span class="spoken"> {props.label.toLowerCase()}</span>
      </button>{' '}
      <span role="status">{said}</span>
    </div>
  );
}
