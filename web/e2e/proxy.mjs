// One edge-proxy of our own, with its backends and its clients, all on loopback.

import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { freePort, until } from "./until.mjs";

export const TOKEN = "end-to-end-token-7b1f";

const run = promisify(execFile);
const MOST_OUTPUT = 20_000;

/** The environment without what somebody has set for another edge-proxy. */
function clean(extra) {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("EDGEPROXY_") && name !== "RUST_LOG");
  return { ...Object.fromEntries(inherited), ...extra };
}

export class Proxy {
  static async make(binary, { overrides, settings = {}, extra = "" }) {
    const folder = await mkdtemp(path.join(os.tmpdir(), "edgeproxy-web-"));
    const proxy = new Proxy(binary, folder, await freePort(), await freePort());
    proxy.env = clean({
      EDGEPROXY_CONFIG: path.join(folder, "edge.toml"),
      EDGEPROXY_DB_PATH: path.join(folder, "routing.db"),
      EDGEPROXY_DB_RELOAD_SECS: "1",
      EDGEPROXY_REGION: "sa",
      EDGEPROXY_POP: "e2e",
      EDGEPROXY_WORKERS: "1",
      EDGEPROXY_LISTEN_ADDR: `127.0.0.1:${proxy.port}`,
      EDGEPROXY_API_ENABLED: "true",
      EDGEPROXY_API_LISTEN_ADDR: `127.0.0.1:${proxy.apiPort}`,
      EDGEPROXY_API_TOKEN: TOKEN,
      EDGEPROXY_BINDING_TTL_SECS: "0",
      EDGEPROXY_SLOW_START_SECS: "0",
      ...settings,
    });
    const ranges = Object.entries(overrides).map(([cidr, country]) => `[[geo_override]]\ncidr = "${cidr}"\ncountry = "${country}"\n`);
    await writeFile(proxy.env.EDGEPROXY_CONFIG, `${extra}\n${ranges.join("\n")}`);
    return proxy;
  }

  constructor(binary, folder, port, apiPort) {
    Object.assign(this, { binary, folder, port, apiPort, child: null, output: "", backends: [], clients: new Set() });
    // Whatever ends this program ends what it has started.
    this.atExit = () => this.child?.kill("SIGKILL");
    process.on("exit", this.atExit);
  }

  get api() {
    return `http://127.0.0.1:${this.apiPort}`;
  }

  /** Starts something that answers; its port. */
  async serve(ip, up = true) {
    const backend = await Backend.start(ip);
    if (up) this.backends.push(backend);
    else backend.stop();
    return backend.port;
  }

  /** Adds a backend, and starts it unless `up` says no. */
  async add(id, { app = "web", region, country = "", ip = "127.0.0.1", up = true, soft = 100, hard = 150, weight = 1 }) {
    const port = await this.serve(ip, up);
    const args = ["backends", "add", id, "--app", app, "--region", region, "--addr", `${ip}:${port}`];
    args.push("--soft-limit", String(soft), "--hard-limit", String(hard), "--weight", String(weight));
    if (country !== "") args.push("--country", country);
    await run(this.binary, args, { env: this.env });
  }

  /** Puts rows into the registry, all at once. */
  async load(rows) {
    const file = path.join(this.folder, "rows.json");
    await writeFile(file, JSON.stringify(rows));
    await run(this.binary, ["backends", "import", file], { env: this.env });
  }

  async start(settings = {}) {
    this.output = "";
    this.child = spawn(this.binary, [], { env: { ...this.env, ...settings }, stdio: ["ignore", "pipe", "pipe"] });
    const note = (data) => {
      this.output = (this.output + data).slice(-MOST_OUTPUT);
    };
    this.child.stdout.on("data", note);
    this.child.stderr.on("data", note);
    this.ended = new Promise((resolve) => this.child.once("exit", resolve));
    await until("edge-proxy is ready", async () => {
      if (this.child.exitCode !== null) throw new Error(`it ended with ${this.child.exitCode}: ${this.output}`);
      return (await fetch(`${this.api}/readyz`)).ok;
    });
  }

  async stop() {
    for (const client of this.clients) client.destroy();
    if (this.child === null) return;
    this.child.kill("SIGKILL");
    await this.ended;
    this.child = null;
  }

  async end() {
    await this.stop();
    for (const backend of this.backends) backend.stop();
    process.removeListener("exit", this.atExit);
    await rm(this.folder, { recursive: true, force: true });
  }

  /** A client from an address of loopback; it stays until it is destroyed. */
  connect(from) {
    return new Promise((resolve, reject) => {
      const socket = net.connect({ host: "127.0.0.1", port: this.port, localAddress: from });
      this.clients.add(socket);
      socket.on("close", () => {
        this.clients.delete(socket);
        reject(new Error("closed"));
      });
      socket.once("error", reject);
      socket.once("data", () => {
        socket.on("error", () => {});
        resolve(socket);
      });
      socket.write("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
      // Bytes are read as they come, so that the proxy is never held up.
      socket.on("data", () => {});
    });
  }

  async read(address) {
    const answer = await fetch(this.api + address);
    if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
    return answer.json();
  }

  async write(method, address, body) {
    const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };
    const answer = await fetch(this.api + address, { method, headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${address}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }
}

/** A backend that answers each piece with a little page, and echoes nothing. */
class Backend {
  static async start(ip) {
    const backend = new Backend();
    backend.open = new Set();
    backend.server = net.createServer((socket) => {
      backend.open.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => backend.open.delete(socket));
      socket.on("data", () => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    });
    await new Promise((resolve, reject) => {
      backend.server.once("error", reject);
      backend.server.listen(0, ip, resolve);
    });
    backend.port = backend.server.address().port;
    return backend;
  }

  stop() {
    this.server.close();
    for (const socket of this.open) socket.destroy();
  }
}
