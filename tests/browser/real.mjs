// The whole story in a browser against a real aggregator: submit a job, watch epsilon rise, see a site decline at its cap,
// download the statement, revoke a site. Exits with 0 if all of it was seen; otherwise says what was not.
//   TRIBUTARY_URL          the aggregator, e.g. https://localhost:7480
//   TRIBUTARY_TOKEN        an operator's access token
//   TRIBUTARY_JOB_FILE     a job file to submit, whose rounds cost more than the cap of SITE allows
//   TRIBUTARY_SITE         a site that will reach its cap (its statement is downloaded)
//   TRIBUTARY_DATA_SET     its data set (default: default)
//   TRIBUTARY_REVOKE       a connected site that is revoked at the end
//   TRIBUTARY_STATEMENT    where the downloaded statement is put (for `trib privacy verify`)
//   TRIBUTARY_WAIT         seconds to wait for each thing at most (default: 180)
//   CHROMIUM, TRIBUTARY_SCREENSHOTS as in browser.mjs
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { accessibilityProblems, launch, open, problemsOf, screenshot, signIn } from './browser.mjs';

function setting(name, standard) {
  const value = process.env[name] ?? standard;
  if (value === undefined) {
    console.error(`${name} is not set: see the head of tests/browser/real.mjs`);
    process.exit(2);
  }
  return value;
}

const url = setting('TRIBUTARY_URL');
const token = setting('TRIBUTARY_TOKEN');
const jobFile = setting('TRIBUTARY_JOB_FILE');
const site = setting('TRIBUTARY_SITE');
const dataSet = setting('TRIBUTARY_DATA_SET', 'default');
const revoked = setting('TRIBUTARY_REVOKE');
const statementFile = setting('TRIBUTARY_STATEMENT');
const wait = 1000 * Number(setting('TRIBUTARY_WAIT', '180'));

const browser = await launch();
const opened = await open(browser, { ignoreTlsErrors: true }); // the certificate is of the federation's own authority
const { page } = opened;
page.setDefaultTimeout(wait);
const story = (text) => console.log(`ok - ${text}`);
const show = (hash) => page.evaluate((to) => (location.hash = to), hash);
const budget = `#/privacy/${encodeURIComponent(site)}/${encodeURIComponent(dataSet)}`;
const numberIn = (selector) =>
  page.evaluate((of) => Number(document.querySelector(of)?.textContent.replace(/[^\d.]/g, '') || Number.NaN), selector);

try {
  await signIn(page, url, token);
  await page.evaluate(() => (globalThis.notReloaded = true));
  story('signed in');

  await show('#/submit');
  await page.getByLabel('…or paste one').fill(readFileSync(jobFile, 'utf8'));
  await page.getByRole('button', { name: 'Submit' }).click();
  await page.waitForURL(/#\/jobs\/[a-z0-9-]+$/);
  const job = new URL(page.url()).hash.slice('#/jobs/'.length);
  await page.getByText(job).first().waitFor();
  story(`job ${job} is submitted`);
  await page.waitForFunction(() => /^[1-9]\d* of /.test(document.querySelector('main .progress span')?.textContent ?? ''), null, { timeout: wait });
  story('its first round is committed');
  await screenshot(page, 'real-job');

  // A data set has no page before its first report.
  await show('#/privacy');
  await page.getByRole('row', { name: new RegExp(`^${site.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}\\b`) }).first().waitFor();
  await screenshot(page, 'real-privacy');
  await show(budget);
  await page.locator('.big-spent').waitFor();
  const before = await numberIn('.big-spent dd');
  await page.waitForFunction(
    (old) => Number(document.querySelector('.big-spent dd')?.textContent.replace(/[^\d.]/g, '')) > old, before, { timeout: wait });
  story(`epsilon rose from ${before} to ${await numberIn('.big-spent dd')} without a reload`);

  await page.locator('tr.declined').first().waitFor();
  const [spent, cap] = [await numberIn('.big-spent dd'), await numberIn('.big-cap dd')];
  assert.ok(spent <= cap, `${spent} is spent of a cap of ${cap}`);
  await page.getByText('Private, budget used up').waitFor();
  story(`${site} declines at its cap: ${spent} of ${cap} is spent`);
  await screenshot(page, 'real-budget');
  assert.deepEqual(await accessibilityProblems(page), []);

  const link = page.getByRole('link', { name: 'Download signed statement' });
  await link.waitFor();
  const [download] = await Promise.all([page.waitForEvent('download'), link.click()]);
  await download.saveAs(statementFile);
  JSON.parse(readFileSync(statementFile, 'utf8'));
  story(`the statement is downloaded to ${statementFile}`);
  const [paper] = await Promise.all([opened.context.waitForEvent('page'), page.getByRole('link', { name: 'Printable page' }).click()]);
  await paper.getByRole('heading', { name: new RegExp(`Privacy statement of ${site}`) }).waitFor();
  // The policy must let the page's own style through, or paper would be bare.
  assert.notEqual(await paper.evaluate(() => getComputedStyle(document.body).maxWidth), 'none', 'the printable page has its style');
  await screenshot(paper, 'real-statement');
  await paper.close();
  story('its printable page opens');

  await show('#/sites');
  await page.getByRole('button', { name: `Revoke… ${revoked}` }).click();
  await page.getByLabel('Reason').fill('tested in a browser');
  await page.getByRole('button', { name: `Revoke ${revoked}` }).click();
  await page.getByRole('table', { name: 'Revoked sites' }).getByText(revoked).waitFor();
  story(`${revoked} is revoked and has left the list`);
  await screenshot(page, 'real-sites');
  assert.ok(await page.evaluate(() => globalThis.notReloaded), 'the page was never reloaded');
  assert.deepEqual(await problemsOf(opened), [], 'nothing went wrong in the page');
  story('nothing went wrong in the page');
} catch (error) {
  await screenshot(page, 'real-failure').catch(() => undefined);
  console.error(`not ok - ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
