import { useId, useRef, useState } from 'preact/hooks';
import { ApiFailure, send } from '../api';
import { useAction } from '../parts/dialog';
import { Heading } from '../parts/page';
import { Notice } from '../parts/text';
import { lineOf } from '../toml_error';
import { go } from '../router';
import { announce, isOperator } from '../state';

const LONGEST = 512 * 1024;

export function SubmitPage() {
  const [text, setText] = useState('');
  const [name, setName] = useState('job.toml');
  const [problem, setProblem] = useState('');
  const { busy, run } = useAction();
  const area = useRef<HTMLTextAreaElement>(null);
  const id = useId();
  if (!isOperator())
    return (
      <>
        <Heading title="Submit a job" />
        <Notice tone="quiet" title="This token may only read">
          Submitting takes an operator’s token.
        </Notice>
      </>
    );

  const choose = async (event: Event) => {
    const file = (event.currentTarget as HTMLInputElement).files?.[0];
    if (!file) return;
    if (file.size > LONGEST) {
      setProblem(`${file.name} is ${Math.ceil(file.size / 1024)} KiB large; a job file has at most ${LONGEST / 1024}.`);
      return;
    }
    setText(await file.text());
    setName(file.name);
    setProblem('');
  };

  const submit = (event: Event) => {
    event.preventDefault();
    if (!text.trim()) {
      setProblem('Paste a job file, or choose one.');
      area.current?.focus();
      return;
    }
    setProblem('');
    void run(async () => {
      try {
        const { id: job } = await send<{ id: string }>('POST', '/jobs', { file: text, name });
        announce('The job is submitted.');
        go({ page: 'job', id: job });
      } catch (error) {
        if (!(error instanceof ApiFailure)) throw error;
        setProblem(error.message);
        select(area.current, text, lineOf(error.message));
      }
    });
  };

  const line = lineOf(problem);
  return (
    <>
      <p class="trail">
        <a href="#/jobs">Jobs</a>
      </p>
      <Heading title="Submit a job" />
      <form class="submit" onSubmit={submit} noValidate>
        <p>
          <label for={`${id}-file`}>Choose a job file (TOML)</label>
          <input id={`${id}-file`} type="file" accept=".toml,text/plain" onChange={(event) => void choose(event)} />
        </p>
        <div class="beside">
          <div>
            <label for={id}>…or paste one</label>
            <textarea
              id={id}
              ref={area}
              class="code"
              rows={24}
              spellcheck={false}
              value={text}
              placeholder={'[job]\nname = "sentiment"\ntask = "lora_text"\nrounds = 60'}
              aria-invalid={problem !== ''}
              aria-describedby={`${id}-problem`}
              onInput={(event) => setText(event.currentTarget.value)}
            />
          </div>
          <div id={`${id}-problem`} role="alert">
            {problem && (
              <Notice tone="bad" title={line ? `Line ${line}` : 'Not submitted'}>
                {problem}
              </Notice>
            )}
          </div>
        </div>
        <p class="buttons">
          <button type="submit" class="primary" disabled={busy}>
            {busy ? 'Submitting…' : 'Submit'}
          </button>{' '}
          <a href="#/jobs">Back without submitting</a>
        </p>
        <p class="hint">
          The aggregator checks the whole file before anything starts. Each site decides by its own configuration whether
          it takes part, and its own cap holds whatever the file says.
        </p>
      </form>
    </>
  );
}

function select(area: HTMLTextAreaElement | null, text: string, line: number | undefined): void {
  if (!area) return;
  area.focus();
  if (line === undefined) return;
  const lines = text.split('\n');
  const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
  area.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
  area.scrollTop = Math.max(0, (line - 4) * Number.parseFloat(getComputedStyle(area).lineHeight));
}
