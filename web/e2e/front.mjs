// For development: serves pages from a folder in front of an edge-proxy, as if they were built in.

import { readFile } from "node:fs/promises";
import http from "node:http";
import path from "node:path";

const PAGES = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/docs": ["docs.html", "text/html; charset=utf-8"],
  "/assets/app.js": ["assets/app.js", "text/javascript; charset=utf-8"],
  "/assets/app.css": ["assets/app.css", "text/css; charset=utf-8"],
  "/assets/docs.js": ["assets/docs.js", "text/javascript; charset=utf-8"],
};
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Where it listens, and how it is ended. */
export async function front(folder, apiPort) {
  const server = http.createServer(async (request, answer) => {
    const page = PAGES[new URL(request.url, "http://localhost").pathname];
    if (page !== undefined) {
      const [file, kind] = page;
      answer.writeHead(200, {
        "content-type": kind,
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
      });
      answer.end(await readFile(path.join(folder, file)));
      return;
    }
    const { hostname } = new URL(`http://${request.headers.host}`);
    const upstream = http.request(
      { host: "127.0.0.1", port: apiPort, method: request.method, path: request.url, headers: { ...request.headers, host: `${hostname}:${apiPort}` } },
      (given) => {
        answer.writeHead(given.statusCode, given.headers);
        answer.flushHeaders();
        given.on("error", () => answer.destroy());
        given.pipe(answer);
      },
    );
    upstream.on("error", () => answer.destroy());
    answer.on("close", () => upstream.destroy());
    request.pipe(upstream);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: server.address().port,
    end: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
