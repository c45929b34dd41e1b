import { useEffect, useRef, useState } from 'preact/hooks';
import { useAction } from '../parts/dialog';
import { signIn } from '../state';

export function SignInPage({ why }: { why: string }) {
  const [token, setToken] = useState('');
  const [isMissing, setMissing] = useState(false);
  const { busy, failure, run } = useAction();
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    document.title = 'Sign in · Tributary';
    field.current?.focus();
  }, []);
  const submit = (event: Event) => {
    event.preventDefault();
    if (!token.trim()) {
      setMissing(true);
      field.current?.focus();
      return;
    }
    void run(() => signIn(token.trim()));
  };
  const problem = isMissing && !token.trim() ? 'Paste a token first.' : failure;
  return (
    <main class="sign-in">
      <h1>Tributary</h1>
      <p class="lead">Privacy budgets, jobs and sites of a federation.</p>
      {why && <p class="why">{why}</p>}
      <form onSubmit={submit} noValidate>
        <label for="token">Access token</label>
        <input
          id="token"
          ref={field}
          type="password"
          autocomplete="current-password"
          spellcheck={false}
          value={token}
          aria-describedby="token-hint token-problem"
          aria-invalid={problem !== ''}
          onInput={(event) => setToken(event.currentTarget.value)}
        />
        <p id="token-problem" class="wrong" role="alert">
          {problem}
        </p>
        <button type="submit" class="primary" disabled={busy}>
          Sign in
        </button>
      </form>
      <p id="token-hint" class="hint">
        The operator makes tokens on the aggregator: <code>trib token create NAME --role viewer</code> to read,{' '}
        <code>--role operator</code> to submit jobs and admit sites too. A token is shown once.
      </p>
    </main>
  );
}
