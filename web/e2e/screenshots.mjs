// Pictures of the dashboard with traffic from all over the world.

import { mkdir, stat } from "node:fs/promises";
import path from "node:path";
import { Watch } from "./browser.mjs";
import { front } from "./front.mjs";
import { Proxy } from "./proxy.mjs";
import { until } from "./until.mjs";

/** Where clients are, and how often they come. */
const CLIENTS = {
  BR: 30, AR: 9, CL: 12, CO: 7, PE: 5, UY: 2, MX: 8, US: 26, CA: 5, GB: 11, DE: 16, FR: 10, NL: 6, ES: 6, PT: 4,
  IT: 5, PL: 3, SE: 3, TR: 2, ZA: 3, NG: 2, KE: 1, EG: 1, AE: 2, IN: 10, SG: 6, JP: 13, KR: 6, ID: 3, AU: 7, NZ: 1,
};
const BACKENDS = [
  ["gru-1", { region: "sa", country: "BR", ip: "127.50.1.1", soft: 60, hard: 90, weight: 2 }],
  ["gru-2", { region: "sa", country: "BR", ip: "127.50.1.2", soft: 60, hard: 90, weight: 2 }],
  ["gru-3", { region: "sa", country: "BR", ip: "127.50.1.3", soft: 60, hard: 90 }],
  ["scl-1", { region: "sa", country: "CL", ip: "127.50.2.1", soft: 14, hard: 40 }],
  ["bog-1", { region: "sa", country: "CO", ip: "127.50.3.1", soft: 40, hard: 60, up: false }],
  ["iad-1", { region: "us", country: "US", ip: "127.51.1.1", soft: 80, hard: 120, weight: 3 }],
  ["iad-2", { region: "us", country: "US", ip: "127.51.1.2", soft: 80, hard: 120, weight: 3 }],
  ["qro-1", { region: "us", country: "MX", ip: "127.51.2.1", soft: 20, hard: 30 }],
  ["fra-1", { region: "eu", country: "DE", ip: "127.52.1.1", soft: 60, hard: 90, weight: 2 }],
  ["fra-2", { region: "eu", country: "DE", ip: "127.52.1.2", soft: 60, hard: 90, weight: 2 }],
  ["lhr-1", { region: "eu", country: "GB", ip: "127.52.2.1", soft: 10, hard: 12 }],
  ["mad-1", { region: "eu", country: "ES", ip: "127.52.3.1", soft: 30, hard: 50 }],
  ["jnb-1", { region: "eu", country: "ZA", ip: "127.52.4.1", soft: 20, hard: 30 }],
  ["bom-1", { region: "ap", country: "IN", ip: "127.53.1.1", soft: 40, hard: 60 }],
  ["sin-1", { region: "ap", country: "SG", ip: "127.53.2.1", soft: 40, hard: 60 }],
  ["nrt-1", { region: "ap", country: "JP", ip: "127.53.3.1", soft: 60, hard: 90 }],
  ["syd-1", { region: "ap", country: "AU", ip: "127.53.4.1", soft: 30, hard: 45 }],
];
/** Traffic before the pictures: what curves are made of. */
const SECONDS = 55;
const MOST_BYTES = 300_000;

/** An edge-proxy with all of that, and where its pages are. */
export async function stage(binary, dist) {
  const countries = Object.keys(CLIENTS);
  const proxy = await Proxy.make(binary, {
    overrides: Object.fromEntries(countries.map((country, nth) => [`127.20.${nth}.0/24`, country])),
    settings: {
      EDGEPROXY_POP: "gru-edge-1",
      EDGEPROXY_CIRCUIT_BREAKER_ENABLED: "true",
      EDGEPROXY_HEALTH_CHECK_ENABLED: "true",
      EDGEPROXY_HEALTH_CHECK_INTERVAL_SECS: "1",
      EDGEPROXY_RATE_LIMIT_ENABLED: "true",
      EDGEPROXY_HEARTBEAT_TTL_SECS: "300",
      EDGEPROXY_SLOW_START_SECS: "3",
      EDGEPROXY_MAX_CONNECTIONS: "5000",
    },
  });
  const traffic = new Traffic(proxy, countries);
  let ahead = null;
  const end = async () => {
    traffic.end();
    ahead?.end();
    await proxy.end();
  };
  try {
    for (const [id, backend] of BACKENDS) await proxy.add(id, backend);
    await proxy.start();
    await proxy.write("PUT", "/api/v1/backends/mad-1/state", { state: "maint", here: false });
    const ip = "127.51.3.1";
    const own = { id: "yyz-1", app: "web", region: "us", country: "CA", ip, port: await proxy.serve(ip), soft_limit: 20, hard_limit: 30 };
    await proxy.write("POST", "/api/v1/register", own);
    if (dist !== null) ahead = await front(dist, proxy.apiPort);
    traffic.begin();
  } catch (error) {
    await end();
    throw error;
  }
  return { proxy, traffic, end, address: `http://127.0.0.1:${ahead?.port ?? proxy.apiPort}/`, client: (country) => `127.20.${countries.indexOf(country)}.7` };
}

export async function screenshots(binary, browser, dist, folder) {
  await mkdir(folder, { recursive: true });
  const { traffic, end, address, client } = await stage(binary, dist);
  const watch = new Watch();
  const open = async (options) => {
    const page = await watch.page(await browser.newContext(options));
    await page.goto(address);
    return page;
  };
  const shot = async (page, name) => {
    const file = path.join(folder, name);
    await page.screenshot({ path: file });
    const { size: bytes } = await stat(file);
    console.log(`picture ${name}: ${(bytes / 1000).toFixed(0)} kB`);
    if (bytes >= MOST_BYTES) throw new Error(`${name} is too large`);
  };
  try {
    const viewport = { width: 1340, height: 1060 };
    const light = await open({ viewport, colorScheme: "light" });
    const dark = await open({ viewport, colorScheme: "dark" });
    const phone = await open({ viewport: { width: 390, height: 1500 }, deviceScaleFactor: 1.5, isMobile: true, hasTouch: true, colorScheme: "light" });
    await until("there is enough to see", () => traffic.seconds >= SECONDS, (SECONDS + 20) * 1000);
    await shot(light, "dashboard-light.png");
    await shot(dark, "dashboard-dark.png");
    await shot(phone, "dashboard-phone.png");
    await dark.fill("#why-client", client("GB"));
    await dark.press("#why-client", "Enter");
    await dark.locator("#why-ranking tbody tr").first().waitFor();
    await dark.locator("#why").evaluate((element) => element.scrollIntoView());
    await dark.evaluate(() => document.activeElement?.blur());
    await shot(dark, "why.png");
    if (watch.faults.length > 0) throw new Error(watch.faults.join("; "));
    await Promise.all([light, dark, phone].map((page) => page.context().close()));
  } finally {
    await end();
  }
}

/** Clients that come, stay a while, talk, and go. */
class Traffic {
  constructor(proxy, countries) {
    Object.assign(this, { proxy, countries, seconds: 0, timer: null, seed: 7 });
  }

  /** The same numbers each time, between 0 and 1. */
  random() {
    this.seed = (this.seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    return this.seed / 2_147_483_648;
  }

  begin() {
    const all = Object.values(CLIENTS).reduce((sum, often) => sum + often, 0);
    const began = performance.now();
    this.timer = setInterval(() => {
      this.seconds = (performance.now() - began) / 1000;
      // Some waves, as a day has them.
      const wave = 1 + 0.45 * Math.sin(this.seconds / 6) + 0.2 * Math.sin(this.seconds / 1.7);
      for (let come = 0; come < Math.round(4 * wave); come += 1) {
        let pick = this.random() * all;
        const nth = this.countries.findIndex((country) => (pick -= CLIENTS[country]) < 0);
        void this.client(`127.20.${nth}.${1 + Math.floor(this.random() * 40)}`);
      }
      // Somebody who does not know when to stop.
      if (this.random() < 0.04) for (let come = 0; come < 24; come += 1) void this.client("127.20.0.250");
      for (const socket of this.proxy.clients) if (this.random() < 0.1) socket.write(Buffer.alloc(200 + Math.floor(this.random() * 3000)));
    }, 100);
  }

  async client(from) {
    try {
      const socket = await this.proxy.connect(from);
      setTimeout(() => socket.end(), 1_000 + this.random() * 16_000).unref();
    } catch {
      // Some are refused: that is to be seen too.
    }
  }

  end() {
    clearInterval(this.timer);
  }
}
