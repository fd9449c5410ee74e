// The dashboard in a real browser, in front of a real edge-proxy.
//
//   node e2e/run.mjs BINARY [--dist FOLDER] [--screenshots FOLDER]
//
// BINARY is an edge-proxy; its own pages are tested unless --dist gives others. CHROMIUM says where the
// browser is, if not at /usr/bin/chromium. One line for each check; the exit code is 1 when one fails.

import assert from "node:assert/strict";
import { parseArgs, stripVTControlCharacters } from "node:util";
import { FOREIGN, Watch, browser as launch } from "./browser.mjs";
import { front } from "./front.mjs";
import { Proxy, TOKEN } from "./proxy.mjs";
import { screenshots } from "./screenshots.mjs";
import { until } from "./until.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { dist: { type: "string" }, screenshots: { type: "string" } },
});
const [binary] = positionals;
if (binary === undefined) {
  console.error("usage: node e2e/run.mjs BINARY [--dist FOLDER] [--screenshots FOLDER]");
  process.exit(2);
}

const LIMIT_MS = values.screenshots === undefined ? 75_000 : 180_000;
const FRESH_MS = 2_000;
const WRONG = "a-wrong-token-0000";
const ODD = "<img/src=x/onerror=alert(1)>";
const ODD_REGION = "<b>odd</b>";
const MANY = 260;

setTimeout(() => {
  console.log(`FAILED  not done within ${LIMIT_MS / 1000} s`);
  process.exit(1);
}, LIMIT_MS).unref();

let failures = 0;

async function check(what, act) {
  const began = performance.now();
  try {
    const more = await act();
    console.log(`ok      ${what}${typeof more === "string" ? `: ${more}` : ""} (${Math.round(performance.now() - began)} ms)`);
  } catch (error) {
    failures += 1;
    const [first] = stripVTControlCharacters(error.message).split("\n    at ");
    console.log(`FAILED  ${what}: ${first.split("\n").slice(0, 4).join(" ")}`);
    // What it has left open is in nobody's way.
    await page.reload().catch(() => {});
  }
}

const proxy = await Proxy.make(binary, {
  settings: { EDGEPROXY_APP: "web" },
  overrides: { "127.0.1.0/24": "BR", "127.0.2.0/24": "DE", "127.0.3.0/24": "JP", "127.0.4.0/24": "FR", "127.0.5.0/24": "KE" },
});
await proxy.add("gru-1", { region: "sa", country: "BR" });
await proxy.add("fra-1", { region: "eu", country: "DE" });
await proxy.add("api-1", { app: "api", region: "sa", country: "BR" });
await proxy.add(ODD, { region: ODD_REGION, country: "JP" });
await proxy.start();
let ahead = values.dist === undefined ? null : await front(values.dist, proxy.apiPort);
const port = ahead?.port ?? proxy.apiPort;
const origin = `http://127.0.0.1:${port}`;

const browser = await launch();
const watch = new Watch();
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
const page = await watch.page(context);

const linkIs = (text, of = page) => of.locator("#link").filter({ hasText: new RegExp(`^${text}$`) }).waitFor();
const row = (id, of = page) => of.locator(`#backends tr[data-id="${id}"]`);
const stateOf = async (id) => (await proxy.read(`/api/v1/backends/${encodeURIComponent(id)}`)).state;
const noFaults = (watched = watch) => assert.deepEqual(watched.faults, []);
const fits = async (of, what) => {
  const wide = await of.evaluate(() => document.documentElement.scrollWidth);
  const seen = await of.evaluate(() => document.documentElement.clientWidth);
  assert.ok(wide <= seen, `${what} is ${wide} px wide, of which ${seen} are seen`);
};
const background = (of = page) => of.evaluate(() => getComputedStyle(document.body).backgroundColor);
const manage = async (id) => {
  await row(id).getByRole("button", { name: "Manage" }).click();
  await page.locator("dialog.wide").waitFor();
};
const apply = () => page.locator("#apply-state").click();
const askedForToken = () => page.locator("#token").waitFor();
const give = async (token) => {
  await page.fill("#token", token);
  await page.keyboard.press("Enter");
};

await check("the page loads, without any error or violation of its policy", async () => {
  await page.goto(`${origin}/`);
  await linkIs("Live");
  await page.locator("#health", { hasText: "ready" }).waitFor();
  await row("gru-1").waitFor();
  assert.match(await page.title(), /^e2e: ready/);
  noFaults();
  assert.deepEqual(watch.failed, []);
  assert.ok((await page.locator(".map-land path").count()) > 150, "there is no map");
});

await check("traffic is seen soon", async () => {
  const took = [];
  for (const [from, country] of [["127.0.2.1", "Germany"], ["127.0.4.1", "France"], ["127.0.5.1", "Kenya"]]) {
    const began = performance.now();
    const client = await proxy.connect(from);
    await page.locator("#countries tbody tr", { hasText: country }).waitFor();
    took.push(Math.round(performance.now() - began));
    client.end();
  }
  const most = Math.max(...took);
  assert.ok(most < FRESH_MS, `${took.join(", ")} ms`);
  assert.equal(await page.locator(".map-sources .source").count(), 3);
  return `${took.join(", ")} ms after a client came`;
});

await check("open connections are counted", async () => {
  const clients = await Promise.all(["127.0.1.1", "127.0.1.2", "127.0.1.3"].map((from) => proxy.connect(from)));
  await page.locator("#vital-open .number", { hasText: /^3$/ }).waitFor();
  await row("gru-1").locator(".load-text strong", { hasText: /^3$/ }).waitFor();
  for (const client of clients) client.end();
  await page.locator("#vital-open .number", { hasText: /^0$/ }).waitFor();
});

await check("rows stay the same elements while numbers change", async () => {
  await row("gru-1").evaluate((element) => {
    window.seen = { element, changed: 0 };
    new MutationObserver((changes) => {
      window.seen.changed += changes.filter((change) => change.type === "childList" && change.target.nodeName === "TBODY").length;
    }).observe(element.parentElement, { childList: true, subtree: true });
  });
  const client = await proxy.connect("127.0.1.9");
  await row("gru-1").locator(".load-text strong", { hasText: /^1$/ }).waitFor();
  client.end();
  await row("gru-1").locator(".load-text strong", { hasText: /^0$/ }).waitFor();
  assert.deepEqual(
    await row("gru-1").evaluate((element) => [window.seen.element === element, window.seen.changed]),
    [true, 0],
  );
});

await check("the box says why a client goes where it goes", async () => {
  await page.fill("#why-client", "127.0.2.9");
  await page.selectOption("#why-app", "web");
  await page.press("#why-client", "Enter");
  const ranks = page.locator("#why-ranking tbody tr");
  await ranks.first().waitFor();
  assert.match(await page.locator(".why-said").innerText(), /127\.0\.2\.9 is in Germany \(DE\), region eu\..*fra-1/);
  assert.match(await ranks.nth(0).innerText(), /fra-1[\s\S]*Chosen: in the client's country[\s\S]*100/);
  assert.match(await ranks.filter({ hasText: "gru-1" }).innerText(), /Farther: in this POP's region/);
  await ranks.filter({ hasText: "fra-1" }).getByRole("button", { name: "If it were gone: fra-1" }).click();
  await page.locator(".why-said", { hasText: "if fra-1 were gone" }).waitFor();
  assert.match(await ranks.nth(0).innerText(), /gru-1[\s\S]*Chosen/);
  assert.match(await ranks.filter({ hasText: "fra-1" }).innerText(), /Left out in this what-if/);
});

await check("what is wrong with an address is said", async () => {
  await page.fill("#why-client", "nonsense");
  await page.press("#why-client", "Enter");
  await page.locator(".why-said", { hasText: "must be an IP address" }).waitFor();
});

await check("text that looks like markup is shown as text", async () => {
  const odd = page.locator("#backends tbody tr").filter({ hasText: ODD });
  assert.match(await odd.innerText(), /<b>odd<\/b>/);
  assert.equal(await page.locator("main img, main b").count(), 0);
  noFaults();
});

await check("backends are filtered and sorted", async () => {
  const ids = () => page.locator("#backends tbody tr").evaluateAll((rows) => rows.map(({ dataset }) => dataset.id));
  await page.selectOption("#filter-app", "web");
  await page.fill("#filter", "germany");
  assert.deepEqual(await ids(), ["fra-1"]);
  await page.fill("#filter", "");
  await page.getByRole("columnheader", { name: "Backend" }).getByRole("button").click();
  assert.deepEqual(await ids(), ["gru-1", "fra-1", ODD]);
  await page.getByRole("columnheader", { name: "Backend" }).getByRole("button").click();
  assert.deepEqual(await ids(), [ODD, "fra-1", "gru-1"]);
  await page.selectOption("#filter-app", "");
});

await check("a cancelled change sends nothing", async () => {
  const before = watch.writes.length;
  await manage("fra-1");
  await apply();
  await askedForToken();
  await page.keyboard.press("Escape");
  await page.locator("dialog.wide .result", { hasText: "Cancelled" }).waitFor();
  assert.equal(watch.writes.length, before);
  assert.equal(await stateOf("fra-1"), "ready");
});

await check("a wrong token changes nothing, and why is shown", async () => {
  await apply();
  await askedForToken();
  await give(WRONG);
  await page.locator("dialog .problem", { hasText: "no such token" }).waitFor();
  assert.equal(await stateOf("fra-1"), "ready");
  assert.equal(await page.locator("#token").inputValue(), "");
  await page.locator("dialog:has(#token)").getByRole("button", { name: "Cancel" }).click();
  assert.equal(watch.writes.length, 1);
});

await check("the right token drains", async () => {
  await apply();
  await askedForToken();
  await give(TOKEN);
  await page.locator("dialog.wide .result", { hasText: "fra-1 is in state drain" }).waitFor();
  assert.equal(await stateOf("fra-1"), "drain");
  await row("fra-1").locator(".state-word", { hasText: "Drained" }).waitFor();
});

await check("ready again, on this POP and everywhere, without asking for the token again", async () => {
  const dialog = page.locator("dialog.wide");
  await dialog.locator("#asked-maint").check();
  await dialog.locator("#place-here").check();
  await apply();
  await dialog.locator(".result", { hasText: "on this POP" }).waitFor();
  const here = await proxy.read("/api/v1/backends/fra-1");
  assert.deepEqual([here.state, here.state_here], ["drain", "maint"]);
  await dialog.locator("#asked-ready").check();
  await apply();
  await dialog.locator(".result", { hasText: "everywhere it is in state drain" }).waitFor();
  await dialog.locator("#place-everywhere").check();
  await apply();
  await dialog.locator(".result", { hasText: "is in state ready everywhere" }).waitFor();
  assert.equal(await stateOf("fra-1"), "ready");
  await row("fra-1").locator(".state-word", { hasText: "Ready" }).waitFor();
});

await check("what the server refuses is shown in its words", async () => {
  await page.locator("dialog.wide").getByRole("button", { name: "Hold open" }).click();
  await page.locator("dialog.wide .problem", { hasText: "circuit breakers are off" }).waitFor();
  await page.keyboard.press("Escape");
});

await check("a backend that registered itself is removed", async () => {
  await proxy.write("POST", "/api/v1/register", { id: "leased-1", app: "web", region: "eu", ip: "127.0.0.1", port: 9 });
  await row("leased-1").waitFor();
  await manage("leased-1");
  await page.locator("dialog.wide").getByRole("button", { name: "Remove…" }).click();
  await page.getByRole("button", { name: "Remove it" }).click();
  await page.locator("dialog.wide .result", { hasText: "leased-1 is removed" }).waitFor();
  await page.keyboard.press("Escape");
  await row("leased-1").waitFor({ state: "detached" });
});

await check("connections are listed and closed", async () => {
  const client = await proxy.connect("127.0.3.1");
  const closed = new Promise((resolve) => client.once("close", resolve));
  await page.getByRole("tab", { name: "Connections" }).click();
  await page.locator("#panel-connections tbody tr", { hasText: "127.0.3.1" }).waitFor();
  await page.fill("#connections-client", "127.0.3.0/24");
  await page.getByRole("button", { name: "Close all that match…" }).click();
  await page.locator("dialog", { hasText: "Close 1 connection?" }).getByRole("button", { name: "Close them" }).click();
  await page.locator(".toast", { hasText: "1 connection closed" }).waitFor();
  await closed;
});

await check("clients are denied, and let in again", async () => {
  await page.getByRole("tab", { name: "Deny list" }).click();
  await page.locator("#panel-deny .empty").waitFor();
  await page.fill("#deny-cidr", "not-an-address");
  await page.getByRole("button", { name: "Deny", exact: true }).click();
  await page.locator("#panel-deny .problem", { hasText: "cidr" }).waitFor();
  await page.fill("#deny-cidr", "127.0.9.0/24");
  await page.fill("#deny-for", "5");
  await page.fill("#deny-note", "<i>scraper</i>");
  await page.getByRole("button", { name: "Deny", exact: true }).click();
  const entry = page.locator("#panel-deny tbody tr", { hasText: "127.0.9.0/24" });
  await entry.filter({ hasText: "<i>scraper</i>" }).waitFor();
  assert.equal((await proxy.read("/api/v1/deny")).entries.length, 1);
  await entry.getByRole("button").click();
  await page.getByRole("button", { name: "Take it off" }).click();
  await page.locator("#panel-deny .empty").waitFor();
  assert.equal((await proxy.read("/api/v1/deny")).entries.length, 0);
});

await check("choices, capacity, limits and settings are read when they are opened", async () => {
  for (const [tab, text] of [["Choices", /tier/], ["Capacity", "fra-1"], ["Limits", "rate limit is off"], ["Settings", "EDGEPROXY_REGION"]]) {
    await page.getByRole("tab", { name: tab, exact: true }).click();
    await page.locator("[role=tabpanel]:visible .panel-body", { hasText: text }).waitFor();
  }
  await page.fill("#settings-search", "api.token");
  await page.locator("#panel-settings tbody tr", { hasText: "EDGEPROXY_API_TOKEN" }).waitFor();
  assert.ok(!(await page.content()).includes(TOKEN), "the token stands in the page");
});

await check("the configuration is reloaded", async () => {
  await page.getByRole("tab", { name: "Registry and configuration" }).click();
  await page.locator("#reload-now").click();
  await page.locator("#panel-registry .result", { hasText: "Reloaded" }).waitFor();
});

await check("the token is in no address and in no storage, and only where something is changed", async () => {
  const addresses = watch.requests.map(({ url }) => decodeURIComponent(url));
  assert.deepEqual(addresses.filter((url) => url.includes(TOKEN) || url.includes(WRONG)), []);
  assert.deepEqual(watch.requests.filter(({ method, token }) => method === "GET" && token !== null), []);
  const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  assert.ok(!stored.includes(TOKEN), stored);
});

await check("no request goes to another origin", () => {
  assert.deepEqual(watch.requests.filter(({ url }) => new URL(url).origin !== origin), []);
  return `${watch.requests.length} requests`;
});

await check("light and dark, as the system says, and as somebody says", async () => {
  const light = await background();
  await page.emulateMedia({ colorScheme: "dark" });
  await until("it is dark", async () => (await background()) !== light);
  const dark = await background();
  await page.locator("#theme").click();
  await until("it is light", async () => (await background()) === light);
  await page.reload();
  await linkIs("Live");
  assert.equal(await background(), light);
  await page.locator("#theme").click();
  await until("it is dark again", async () => (await background()) === dark);
  await page.emulateMedia({ colorScheme: "light" });
  await until("it follows the system", async () => (await background()) === light);
});

await check("by keyboard alone: Tab leads to the box, Enter asks, and the focus is seen", async () => {
  await page.reload();
  await linkIs("Live");
  const focused = () =>
    page.evaluate(() => {
      const { id } = document.activeElement ?? {};
      const style = getComputedStyle(document.activeElement);
      return { id, outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 };
    });
  let steps = 0;
  for (; steps < 30; steps += 1) {
    await page.keyboard.press("Tab");
    const now = await focused();
    assert.ok(now.outline, `the focus is not seen after ${steps + 1} steps (${now.id})`);
    if (now.id === "why-client") break;
  }
  assert.ok(steps < 30, "the box is not reached");
  await page.keyboard.type("127.0.1.5");
  await page.keyboard.press("Enter");
  await page.locator("#why-ranking tbody tr", { hasText: "api-1" }).first().waitFor();
  // Arrows lead from tab to tab.
  await page.locator("#tab-registry").focus();
  await page.keyboard.press("ArrowRight");
  assert.equal((await focused()).id, "tab-connections");
  return `${steps + 1} steps`;
});

await check("on a phone nothing is wider than the screen", async () => {
  const phone = await watch.page(await browser.newContext({ viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true }));
  await phone.goto(`${origin}/`);
  await linkIs("Live", phone);
  await row("gru-1", phone).waitFor();
  await fits(phone, "the page");
  await phone.selectOption("#why-app", "web");
  await phone.fill("#why-client", "127.0.2.9");
  await phone.press("#why-client", "Enter");
  await phone.locator("#why-ranking tbody tr").first().waitFor();
  await fits(phone, "the explanation");
  for (const tab of await phone.getByRole("tab").all()) {
    await tab.click();
    await fits(phone, await tab.innerText());
  }
  await row("gru-1", phone).getByRole("button", { name: "Manage" }).click();
  await phone.locator("dialog.wide").waitFor();
  await fits(phone, "the dialog");
  const box = await phone.locator("dialog.wide").evaluate((element) => [element.scrollWidth, element.clientWidth]);
  assert.ok(box[0] <= box[1], `the dialog's content is ${box[0]} px wide in ${box[1]}`);
  await phone.goto(`${origin}/docs`);
  await phone.locator("main[data-ready]").waitFor();
  await fits(phone, "the API page");
  await phone.context().close();
});

await check("from elsewhere the token is asked for before anything is shown", async () => {
  const foreign = new Watch();
  const far = await foreign.page(await browser.newContext());
  await far.goto(`http://${FOREIGN}:${port}/`);
  await far.locator("#token").waitFor();
  assert.equal(await far.locator("#backends tbody tr").count(), 0);
  await far.locator("dialog").getByRole("button", { name: "Cancel" }).click();
  await linkIs("Token needed", far);
  await far.getByRole("button", { name: "Give the token" }).click();
  await far.fill("#token", TOKEN);
  await far.locator("#remember").check();
  await far.keyboard.press("Enter");
  await linkIs("Live", far);
  await row("gru-1", far).waitFor();
  // It is remembered in this tab, so a new load shows everything at once.
  await far.reload();
  await linkIs("Live", far);
  await far.locator("#forget").click();
  assert.equal(await far.evaluate(() => sessionStorage.length), 0);
  assert.deepEqual(foreign.requests.filter(({ url }) => url.includes(TOKEN)), []);
  noFaults(foreign);
  await far.context().close();
});

await check("the API page shows every endpoint", async () => {
  const docs = await watch.page(context);
  await docs.goto(`${origin}/docs`);
  await docs.locator("main[data-ready]").waitFor();
  const { paths } = await proxy.read("/openapi.json");
  const wanted = Object.entries(paths).flatMap(([path, item]) => Object.keys(item).map((verb) => `${verb} ${path}`));
  const shown = await docs.locator("article[data-path]").evaluateAll((all) => all.map(({ dataset }) => `${dataset.verb} ${dataset.path}`));
  assert.deepEqual(shown.sort(), wanted.sort());
  assert.equal(await docs.locator("article[data-path] .command").count(), wanted.length);
  noFaults();
  await docs.close();
  return `${wanted.length} of them`;
});

await check("when nothing comes any more the page says that it is old", async () => {
  proxy.child.kill("SIGSTOP");
  try {
    await linkIs("Stale");
    await page.locator("#link-notice", { hasText: "No news" }).waitFor();
  } finally {
    proxy.child.kill("SIGCONT");
  }
  await linkIs("Live");
});

await check("when the process is gone the page says so", async () => {
  await proxy.stop();
  await linkIs("Disconnected");
  await page.locator("#link-notice", { hasText: "Disconnected from edge-proxy" }).waitFor();
  assert.match(await page.title(), /disconnected/);
});

await check("when it is back so is the page, and requests are shown in http mode", async () => {
  assert.equal(await page.locator("#vital-requests").isVisible(), false);
  await proxy.start({ EDGEPROXY_MODE: "http" });
  await linkIs("Live");
  await page.locator("#link-notice").waitFor({ state: "hidden" });
  const client = await proxy.connect("127.0.1.1");
  await page.locator("#vital-requests").waitFor();
  client.destroy();
});

await check("of many backends the busiest are followed, and all can be fetched", async () => {
  const rows = Array.from({ length: MANY }, (_, nth) => ({
    id: `bulk-${nth}`, app: "web", region: "us", country: "US", wg_ip: `10.1.${nth >> 8}.${nth & 255}`, port: 8080,
  }));
  await proxy.load(rows);
  await page.locator("#backends", { hasText: `The 200 busiest of ${MANY + 4} backends are followed` }).waitFor();
  const redrawn = await page.evaluate(
    () =>
      new Promise((resolve) => {
        let changes = 0;
        const body = document.querySelector("#backends tbody");
        new MutationObserver((list) => (changes += list.length)).observe(body, { childList: true });
        // Two ticks, as the number of the process's seconds tells.
        const uptime = document.querySelector("#panel-registry");
        let ticks = 0;
        new MutationObserver(() => (ticks += 1) === 4 && resolve(changes)).observe(uptime, { characterData: true, subtree: true });
      }),
  );
  assert.equal(redrawn, 0, "rows were made anew");
  await page.getByRole("button", { name: "Fetch all" }).click();
  await page.fill("#filter", `bulk-${MANY - 1}`);
  await row(`bulk-${MANY - 1}`).waitFor();
  assert.equal(await page.locator("#backends tbody tr").count(), 1);
});

await check("nothing went wrong in the pages all along", () => noFaults());

if (values.screenshots !== undefined) {
  await check("pictures", () => screenshots(binary, browser, values.dist ?? null, values.screenshots));
}

await browser.close();
ahead?.end();
await proxy.end();
console.log(failures === 0 ? "all is well" : `${failures} failed`);
process.exit(failures === 0 ? 0 : 1);
