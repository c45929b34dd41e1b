// What every browser test needs: Chromium, a page that records what goes wrong in it, and screenshots.
//   CHROMIUM               the browser (default: /usr/bin/chromium)
//   TRIBUTARY_SCREENSHOTS  a folder for screenshots (default: none are taken)
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(new URL('../../server/dashboard/package.json', import.meta.url));
const { chromium } = require('playwright-core');
const AXE = require.resolve('axe-core/axe.min.js');

export const SIZES = { desktop: { width: 1280, height: 900 }, phone: { width: 375, height: 780 } };

export async function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--js-flags=--expose-gc'],
  });
}

// A page of its own profile. `problems` collects refusals by the content security policy, exceptions and console errors.
export async function open(browser, { size = 'desktop', colors = 'light', ignoreTlsErrors = false } = {}) {
  const context = await browser.newContext({
    viewport: SIZES[size], colorScheme: colors, reducedMotion: 'reduce', acceptDownloads: true,
    ignoreHTTPSErrors: ignoreTlsErrors, permissions: [],
  });
  const page = await context.newPage();
  const problems = [];
  page.on('pageerror', (error) => problems.push(`exception: ${error.message}`));
  page.on('console', (message) => {
    // What the server refuses is logged by the browser too, and is tested for by itself.
    if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) problems.push(message.text());
  });
  await page.addInitScript(() => {
    globalThis.cspViolations = [];
    addEventListener('securitypolicyviolation', (event) =>
      globalThis.cspViolations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`));
  });
  return { context, page, problems };
}

export async function problemsOf({ page, problems }) {
  return [...problems, ...(await page.evaluate(() => globalThis.cspViolations))];
}

export async function signIn(page, url, token) {
  await page.goto(url);
  await page.getByLabel('Access token').fill(token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { level: 1, name: 'Privacy budgets' }).waitFor();
}

// A page's heading is there before its data: what is counted or read at once is looked at after this.
export async function settled(page) {
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  await page.waitForFunction(() => !document.querySelector('.skeleton'));
}

export async function goTo(page, hash) {
  await page.evaluate((to) => (location.hash = to), hash);
  await settled(page);
}

export async function screenshot(page, name, { whole = true } = {}) {
  const folder = process.env.TRIBUTARY_SCREENSHOTS;
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: whole });
}

// axe-core's findings as lines, WCAG 2.2 A and AA and best practices. It is put in by the debugger, which the page's
// policy does not bind.
export async function accessibilityProblems(page) {
  const { readFileSync } = await import('node:fs');
  await page.evaluate(readFileSync(AXE, 'utf8'));
  return page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, {
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
    });
    return violations.flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.target.join(' ')}: ${node.failureSummary}`));
  });
}
