// The aggregator's API with made-up data, and the built page under the aggregator's own security headers.
//   node mock/server.mjs [--scenario small] [--port 7490] [--tick 2000]
// --tick N: a round of the running jobs each N milliseconds; 0: only when a test asks by POST /mock/round.
// Tokens: printed at start. POST /mock/… (round, stall, resume, drop, expire, flood?n=) are for tests.
import { createServer } from 'node:http';
import { readFileSync, existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { dirname, join, normalize, extname } from 'node:path';
import { randomBytes } from 'node:crypto';
import { SCENARIOS } from './scenarios.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const DIST = join(HERE, '..', 'dist');

export const TOKENS = { viewer: `trib-view.${'V'.repeat(43)}`, operator: `trib-op.${'O'.repeat(43)}` };

const SECURITY = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; " +
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
};
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8',
                '.svg': 'image/svg+xml' };

class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function startMock({ scenario = 'small', port = 0, tick = 0 } = {}) {
  if (!SCENARIOS[scenario]) throw new Error(`no scenario '${scenario}'; there are ${Object.keys(SCENARIOS).join(', ')}`);
  const federation = SCENARIOS[scenario]();
  const sessions = new Map();
  const streams = new Set();
  let eventId = 0;
  let stalled = false;

  const write = (stream, type, data) => stream.write(`event: ${type}\nid: ${++eventId}\ndata: ${JSON.stringify(data)}\n\n`);
  const tell = (kinds = ['federation', 'sites', 'jobs', 'privacy', 'job']) => {
    if (stalled) return;
    for (const stream of streams) {
      for (const kind of kinds) {
        if (kind === 'job') for (const job of federation.jobs) write(stream, 'job', federation.job(job));
        else write(stream, kind, document(kind));
      }
    }
  };
  const document = (kind) =>
    ({
      federation: () => federation.federation(),
      sites: () => federation.sitesDocument(),
      jobs: () => ({ jobs: federation.jobs.map((job) => federation.summary(job)) }),
      privacy: () => federation.privacy(),
    })[kind]();

  const round = () => {
    for (const job of federation.running()) federation.round(job);
    tell();
  };
  const timer = tick > 0 ? setInterval(round, tick) : undefined;
  const keepAlive = setInterval(() => {
    if (!stalled) for (const stream of streams) stream.write(': keep-alive\n\n');
  }, 15_000);

  const sessionOf = (request) => {
    const cookie = /(?:^|; )tributary=([0-9a-f]+)/.exec(request.headers.cookie ?? '');
    return cookie ? sessions.get(cookie[1]) : undefined;
  };
  const shown = (session) => ({ role: session.role, name: session.name, csrf: session.csrf, expires: session.expires });

  const find = (list, test, what) => {
    const found = list.find(test);
    if (!found) throw new Refusal(404, 'not found', `there is no ${what}`);
    return found;
  };
  const asked = (body, key) => {
    if (typeof body[key] !== 'string' || !body[key].trim())
      throw new Refusal(400, 'invalid argument', `'${key}' is missing: give a ${key}`);
    return body[key].trim();
  };

  const statement = (site) => ({
    format: 'tributary-privacy-statement', version: 1,
    statement: { site: site.name, made: federation.iso(), data_sets: [{ name: site.dataSet, epsilon_filter: federation.spent(site) }] },
    signature: 'made up',
  });

  async function api(request, response, path, url) {
    const method = request.method;
    const reply = (status, body, headers = {}) => {
      const isText = typeof body === 'string';
      response.writeHead(status, { ...SECURITY, 'Cache-Control': 'no-store',
        'Content-Type': isText ? 'text/plain; charset=utf-8' : 'application/json', ...headers });
      response.end(isText ? body : JSON.stringify(body ?? {}));
    };
    let body = {};
    if (method === 'POST') {
      let text = '';
      for await (const chunk of request) text += chunk;
      try {
        body = JSON.parse(text || '{}');
      } catch {
        throw new Refusal(400, 'invalid argument', 'the body is not JSON');
      }
    }
    const cookie = (value) => ({ 'Set-Cookie': `tributary=${value}; HttpOnly; SameSite=Strict; Path=/` });
    if (path === '/session' && method === 'POST') {
      const role = Object.keys(TOKENS).find((one) => TOKENS[one] === body.token);
      if (!role)
        throw new Refusal(401, 'unauthenticated', 'this token is not known, or was revoked; `trib token list` shows those there are');
      const id = randomBytes(16).toString('hex');
      const session = { id, role, name: role === 'operator' ? 'maria' : 'dpo', csrf: randomBytes(16).toString('hex'),
                        expires: federation.iso(federation.time + 12 * 3600e3) };
      sessions.set(id, session);
      return reply(200, shown(session), cookie(id));
    }
    const session = sessionOf(request);
    if (!session) throw new Refusal(401, 'unauthenticated', 'sign in with a token');
    if (method !== 'GET') {
      if (request.headers['x-tributary-csrf'] !== session.csrf)
        throw new Refusal(403, 'permission denied', 'the header X-Tributary-CSRF is missing or of another session');
      if (path === '/session' && method === 'DELETE') {
        sessions.delete(session.id);
        return reply(200, {}, cookie('; Max-Age=0'));
      }
      if (session.role !== 'operator') throw new Refusal(403, 'permission denied', 'this token may only read');
    }
    if (path === '/session') return reply(200, shown(session));
    if (federation.failing.has(path)) throw new Refusal(503, 'unavailable', 'the store is being checked; try again later');

    const parts = path.split('/').slice(1).map(decodeURIComponent);
    const siteOf = (name) => find(federation.sites, (site) => site.name === name, `site '${name}'`);
    const jobOf = (id) => find(federation.jobs, (job) => job.id === id, `job '${id}'`);
    if (method === 'GET') {
      if (parts.length === 1 && ['federation', 'sites', 'jobs', 'privacy'].includes(parts[0])) return reply(200, document(parts[0]));
      if (parts[0] === 'jobs' && parts.length === 2) return reply(200, federation.job(jobOf(parts[1])));
      if (parts[0] === 'jobs' && parts[2] === 'file') return reply(200, jobOf(parts[1]).file);
      if (parts[0] === 'privacy' && parts.length === 3) return reply(200, federation.privacyHistory(siteOf(parts[1])));
      if (parts[0] === 'sites' && parts[2]?.startsWith('statement')) {
        const site = siteOf(parts[1]);
        if (!site.hasStatement)
          throw new Refusal(404, 'not found', `${site.name} has sent no statement yet: it does after its next job, unless ` +
            'share_statement = false in its client.toml');
        if (parts[2] === 'statement.html')
          return reply(200, `<!doctype html><html lang="en"><title>Statement</title><h1>Privacy statement of ${site.name}</h1></html>`,
            { 'Content-Type': 'text/html; charset=utf-8' });
        return reply(200, statement(site), { 'Content-Disposition': `attachment; filename="statement-${site.name}.json"` });
      }
      if (path === '/events') {
        response.writeHead(200, { ...SECURITY, 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
        response.write(': hello\n\n');
        streams.add(response);
        request.on('close', () => streams.delete(response));
        return undefined;
      }
    }
    if (method === 'POST') {
      if (path === '/invites') {
        const name = asked(body, 'site');
        if (federation.sites.some((site) => site.name === name))
          throw new Refusal(409, 'already exists', `'${name}' is the name of a site already: choose another name`);
        const token = `TRIB1-${randomBytes(60).toString('base64url')}`;
        return reply(200, { site: name, role: body.operator ? 'operator' : 'site', token,
          expires: federation.iso(federation.time + (body.valid_minutes ?? 1440) * 60e3),
          command: `trib-client join ${token} --data messages.tsv --records 5000 --epsilon-cap 8` });
      }
      if (path === '/jobs') {
        const file = asked(body, 'file');
        const lines = file.split('\n');
        const bad = lines.findIndex((line) => line.trim() && !/^\s*(\[[\w.]+\]|#.*|[\w.]+\s*=\s*.+|"[^"]*",?\s*\]?)$/.test(line));
        if (bad >= 0)
          throw new Refusal(400, 'invalid argument', `${body.name}:${bad + 1}: this is neither a [section] nor a key = value`);
        const unknown = lines.findIndex((line) => /^\s*epsilom\b/.test(line));
        if (unknown >= 0)
          throw new Refusal(400, 'invalid argument', `${body.name}:${unknown + 1}: privacy.epsilom is no key; did you mean privacy.epsilon?`);
        const name = /name\s*=\s*"([^"]+)"/.exec(file)?.[1];
        const rounds = Number(/rounds\s*=\s*(\d+)/.exec(file)?.[1]);
        if (!name || !rounds) throw new Refusal(400, 'invalid argument', `${body.name}: job.name and job.rounds are required`);
        const job = federation.addJob(name, rounds, { file });
        tell();
        return reply(200, { id: job.id });
      }
      if (parts[0] === 'jobs' && parts[2] === 'cancel') {
        const job = jobOf(parts[1]);
        if (job.ended) throw new Refusal(409, 'already exists', `the job ${job.id} has ended: it is ${job.state}`);
        federation.end(job, 'cancelled', asked(body, 'reason'));
        tell();
        return reply(200, { id: job.id, state: 'cancelled' });
      }
      if (parts[0] === 'sites' && parts[2] === 'revoke') {
        const site = siteOf(parts[1]);
        site.why = asked(body, 'reason');
        site.revoked = federation.iso();
        site.connected = false;
        tell();
        return reply(200, { site: site.name, revoked: true, session_ended: true });
      }
    }
    void url;
    throw new Refusal(404, 'not found', `there is nothing at ${path}`);
  }

  function control(path, url, response) {
    const n = Number(url.searchParams.get('n') ?? 1);
    if (path === '/round') for (let i = 0; i < n; ++i) round();
    else if (path === '/stall') stalled = true;
    else if (path === '/resume') stalled = false;
    else if (path === '/drop') for (const stream of streams) stream.destroy();
    else if (path === '/expire') sessions.clear();
    else if (path === '/heal') federation.failing.clear();
    else if (path === '/flood') for (let i = 0; i < n; ++i) tell(['privacy', 'jobs', 'job']);
    else return response.writeHead(404).end();
    return response.writeHead(204).end();
  }

  function file(path, request, response) {
    const name = path === '/' ? '/index.html' : normalize(path);
    const target = join(DIST, name);
    if ((path !== '/' && !path.startsWith('/assets/')) || !target.startsWith(DIST) || !existsSync(target))
      return response.writeHead(404, SECURITY).end();
    response.writeHead(200, { ...SECURITY, 'Content-Type': TYPES[extname(target)] ?? 'application/octet-stream' });
    return response.end(request.method === 'HEAD' ? undefined : readFileSync(target));
  }

  const server = createServer((request, response) => {
    const url = new URL(request.url, 'http://localhost');
    if (url.pathname.startsWith('/mock/') && request.method === 'POST') return void control(url.pathname.slice(5), url, response);
    if (!url.pathname.startsWith('/api/v1/')) return void file(url.pathname, request, response);
    api(request, response, url.pathname.slice('/api/v1'.length), url).catch((error) => {
      const status = error instanceof Refusal ? error.status : 500;
      if (status === 500) console.error(error);
      response.writeHead(status, { ...SECURITY, 'Content-Type': 'application/json', 'Cache-Control': 'no-store' });
      response.end(JSON.stringify({ error: { code: error.code ?? 'internal', message: error.message } }));
    });
  });
  return new Promise((resolve) => {
    server.listen(port, '127.0.0.1', () =>
      resolve({
        url: `http://127.0.0.1:${server.address().port}`,
        federation,
        tell,
        streams,
        stop: () => {
          clearInterval(timer);
          clearInterval(keepAlive);
          for (const stream of streams) stream.destroy();
          server.closeAllConnections();
          return new Promise((done) => server.close(done));
        },
      }),
    );
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const option = (name, standard) => {
    const at = process.argv.indexOf(`--${name}`);
    return at < 0 ? standard : process.argv[at + 1];
  };
  const mock = await startMock({ scenario: option('scenario', 'small'), port: Number(option('port', 7490)), tick: Number(option('tick', 2000)) });
  console.log(`${mock.url}\n  operator's token ${TOKENS.operator}\n  viewer's token   ${TOKENS.viewer}`);
}
