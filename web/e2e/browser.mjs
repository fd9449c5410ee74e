// A browser of our own, and what it does that it should not.

import { chromium } from "playwright-core";

/** A name that leads to this machine, but that edge-proxy cannot take for it. */
export const FOREIGN = "edge.example.test";

export async function browser() {
  const root = process.getuid?.() === 0;
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      ...(root ? ["--no-sandbox"] : []),
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      `--host-resolver-rules=MAP ${FOREIGN} 127.0.0.1`,
    ],
  });
}

/** Notes what a page asks for and complains of. */
export class Watch {
  constructor() {
    this.requests = [];
    this.faults = [];
    this.failed = [];
  }

  async page(context) {
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    await page.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", (event) => {
        console.error(`policy violation: ${event.violatedDirective} ${event.blockedURI}`);
      });
    });
    page.on("request", (request) => {
      if (!request.url().startsWith("data:")) this.requests.push({ method: request.method(), url: request.url(), token: request.headers()["authorization"] ?? null });
    });
    page.on("pageerror", (error) => this.faults.push(`page error: ${error.message}`));
    page.on("console", (message) => {
      if (message.type() !== "error" && message.type() !== "warning") return;
      // The browser's own word for an answer that is no success, or for nobody there.
      const list = message.text().startsWith("Failed to load resource") ? this.failed : this.faults;
      list.push(message.text());
    });
    return page;
  }

  /** Requests that change something. */
  get writes() {
    return this.requests.filter(({ method }) => method !== "GET");
  }
}
