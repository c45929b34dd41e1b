// What the page costs in a browser against a running aggregator: printed, not held, as it is this machine's.
//   TRIBUTARY_URL, TRIBUTARY_TOKEN   as in real.mjs
//   TRIBUTARY_MINUTES                how long to listen to the live events (default: 2)
//   CHROMIUM                         as in browser.mjs
// bench/http_bench prints such a URL and token: see docs/performance.md.
import { launch, open, problemsOf, signIn } from './browser.mjs';

const { TRIBUTARY_URL: url, TRIBUTARY_TOKEN: token, TRIBUTARY_MINUTES: minutes = '2' } = process.env;
if (!url || !token) {
  console.error('TRIBUTARY_URL and TRIBUTARY_TOKEN are not set: see the head of tests/browser/measure.mjs');
  process.exit(2);
}

const browser = await launch();
try {
  const opened = await open(browser, { ignoreTlsErrors: true });
  const { page } = opened;
  await signIn(page, url, token);
  for (let load = 1; load <= 5; ++load) {
    await page.reload();
    await page.locator('tbody tr').first().waitFor();
    const ready = await page.evaluate(
      () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))));
    console.log(`load ${load}: ${await page.locator('tbody tr').count()} rows, interactive after ${Math.round(ready)} ms`);
  }
  const client = await page.context().newCDPSession(page);
  const measure = async () => {
    await client.send('HeapProfiler.collectGarbage');
    await client.send('HeapProfiler.collectGarbage');
    const { usedSize } = await client.send('Runtime.getHeapUsage');
    const { nodes } = await client.send('Memory.getDOMCounters');
    return { mib: usedSize / 1048576, nodes };
  };
  // What is drawn changes: so an event has arrived, and the page has not been loaded anew.
  await page.evaluate(() => {
    globalThis.changes = 0;
    new MutationObserver(() => ++globalThis.changes).observe(document.body, { subtree: true, childList: true, characterData: true });
  });
  await page.waitForTimeout(10_000);
  for (let minute = 0; ; minute = Math.min(Number(minutes), minute + 5)) {
    const { mib, nodes } = await measure();
    console.log(`minute ${minute}: heap ${mib.toFixed(2)} MiB, ${nodes} nodes, ${await page.evaluate(() => globalThis.changes)} redraws without a reload`);
    if (minute >= Number(minutes)) break;
    await page.waitForTimeout(60_000 * Math.min(5, Number(minutes) - minute));
  }
  for (const problem of await problemsOf(opened)) console.log(`problem: ${problem}`);
} finally {
  await browser.close();
}
