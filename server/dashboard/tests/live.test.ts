import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Live, pauseBefore, type LiveOptions, type LiveStatus } from '../src/live';
import { EventParser, type ServerEvent } from '../src/sse';

function parse(...pieces: string[]): ServerEvent[] {
  const events: ServerEvent[] = [];
  const parser = new EventParser((event) => events.push(event));
  for (const piece of pieces) parser.push(piece);
  return events;
}

test('events come out whole wherever the stream is cut', () => {
  const text = ': hello\n\nevent: jobs\nid: 7\ndata: {"jobs":\ndata: []}\n\nevent: sites\r\ndata:x\r\n\r\ndata: last\n\n';
  const whole = parse(text);
  assert.deepEqual(whole, [
    { type: 'jobs', data: '{"jobs":\n[]}', id: '7' },
    { type: 'sites', data: 'x', id: '7' },
    { type: 'message', data: 'last', id: '7' },
  ]);
  for (let cut = 0; cut <= text.length; ++cut) assert.deepEqual(parse(text.slice(0, cut), text.slice(cut)), whole);
  assert.deepEqual(parse(...text), whole);
});

test('a comment, an event without data and an unfinished event say nothing', () => {
  assert.deepEqual(parse(': keep-alive\n\n', 'event: jobs\n\n', 'data: half'), []);
});

test('pauses double up to half a minute and are spread by chance', () => {
  assert.deepEqual([1, 2, 3, 4, 5, 6, 60].map((attempt) => pauseBefore(attempt, 1)), [1e3, 2e3, 4e3, 8e3, 16e3, 30e3, 30e3]);
  assert.equal(pauseBefore(3, 0), 2e3);
});

// A line whose server answers what `answers` says, in turn; the last answer again and again.
function line(answers: (() => Promise<Response>)[], options: Partial<LiveOptions> = {}) {
  const seen = { states: [] as LiveStatus[], events: [] as ServerEvent[], opened: [] as boolean[], signedOut: 0, headers: [] as Headers[] };
  let turn = 0;
  const live = new Live({
    url: '/events',
    onEvent: (event) => seen.events.push(event),
    onStatus: (status) => seen.states.push(status),
    onHeard: () => undefined,
    onOpen: (isFirst) => seen.opened.push(isFirst),
    onSignedOut: () => (seen.signedOut += 1),
    random: () => 0,
    silenceMs: 10_000,
    fetch: (_url, init) => {
      seen.headers.push(new Headers(init?.headers));
      const answer = answers[Math.min(turn++, answers.length - 1)]!;
      const aborted = new Promise<Response>((_resolve, reject) =>
        init?.signal?.addEventListener('abort', () => reject(new DOMException('', 'AbortError'))));
      return Promise.race([answer(), aborted]);
    },
    ...options,
  });
  return { live, seen };
}

function stream(text: string, stays = false): () => Promise<Response> {
  return async () =>
    new Response(
      new ReadableStream({
        start(controller) {
          controller.enqueue(new TextEncoder().encode(text));
          if (!stays) controller.close();
        },
      }),
    );
}

const until = async (condition: () => boolean) => {
  for (let i = 0; i < 2000 && !condition(); ++i) await new Promise((done) => setTimeout(done, 2));
  assert.ok(condition());
};

test('a line that ends is opened again, after the last event that was seen', async () => {
  const { live, seen } = line([stream('id: 41\nevent: jobs\ndata: 1\n\n'), stream('', true)]);
  live.start();
  await until(() => seen.states.at(-1)?.state === 'waiting');
  assert.equal(seen.states.at(-1)!.attempt, 1);
  live.retryNow();
  await until(() => seen.states.at(-1)?.state === 'live');
  assert.equal(seen.headers[0]!.get('Last-Event-ID'), null);
  assert.equal(seen.headers[1]!.get('Last-Event-ID'), '41');
  assert.deepEqual(seen.opened, [true, false]);
  live.stop();
  assert.equal(seen.states.at(-1)!.state, 'stopped');
});

test('a line that falls silent counts as lost', async () => {
  const { live, seen } = line([() => new Promise<Response>(() => undefined)], { silenceMs: 20 });
  live.start();
  await until(() => seen.states.at(-1)?.state === 'waiting');
  assert.match(seen.states.at(-1)!.reason, /nothing was heard/);
  live.stop();
});

test('attempts are counted until the line is live again, and a server that asks for time gets it', async () => {
  const busy = async () =>
    new Response('{"error":{"code":"unavailable","message":"draining"}}', { status: 503, headers: { 'Retry-After': '20' } });
  const { live, seen } = line([busy, busy, stream('', true)], { now: () => 1000 });
  live.start();
  await until(() => seen.states.at(-1)?.state === 'waiting');
  assert.equal(seen.states.at(-1)!.reason, 'draining');
  assert.equal(seen.states.at(-1)!.retryAt, 21_000);
  live.retryNow();
  await until(() => seen.states.at(-1)?.attempt === 2);
  live.retryNow();
  await until(() => seen.states.at(-1)?.state === 'live');
  assert.equal(seen.states.at(-1)!.attempt, 0);
  live.stop();
});

test('a session that has ended is not asked about again', async () => {
  const { live, seen } = line([async () => new Response('{}', { status: 401 })]);
  live.start();
  await until(() => seen.signedOut === 1);
  assert.equal(seen.states.at(-1)!.state, 'stopped');
  live.retryNow();
  assert.equal(seen.headers.length, 1);
});
