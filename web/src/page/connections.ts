// Connections that are open now.

import type { Connections, Killed } from "../wire";
import type { Api } from "./api";
import { ask } from "./dialog";
import { h } from "./dom";
import * as format from "./format";
import { Panel } from "./panel";
import { failure } from "./problem";
import { field, table } from "./table";
import type { Toasts } from "./toast";

export class ConnectionsPanel extends Panel {
  private readonly client = h("input", { id: "connections-client", placeholder: "address or range", autocomplete: "off", spellcheck: "false" });
  private readonly backend = h("input", { id: "connections-backend", autocomplete: "off", spellcheck: "false" });
  private readonly app = h("input", { id: "connections-app", autocomplete: "off", spellcheck: "false" });
  private readonly limit = h("input", { id: "connections-limit", type: "number", min: "1", max: "1000", value: "100" });

  constructor(
    private readonly api: Api,
    private readonly toasts: Toasts,
  ) {
    super("connections", "Connections", "Open client connections, the oldest first.");
    this.fields(field("Client", this.client), field("Backend", this.backend), field("App", this.app), field("At most", this.limit));
    this.also(h("button", { type: "button", class: "danger", onclick: () => void this.killAll() }, "Close all that match…"));
  }

  private get wanted(): Record<string, string> {
    return { client: this.client.value.trim(), backend: this.backend.value.trim(), app: this.app.value.trim() };
  }

  protected override async load(): Promise<void> {
    const answer = await this.api.read<Connections>("/api/v1/connections", { ...this.wanted, limit: this.limit.value });
    this.show(answer, ({ total, connections }) => [
      h("p", { class: "hint", role: "status" }, total > connections.length ? `The ${connections.length} oldest of ${format.count(total)}.` : `${format.many(total, "connection")}.`),
      connections.length > 0 &&
        table(
          "Open connections",
          [
            { name: "Client" },
            { name: "Country" },
            { name: "App" },
            { name: "Backend" },
            { name: "State" },
            { name: "Age", number: true },
            { name: "Idle", number: true },
            { name: "Sent", number: true },
            { name: "Received", number: true },
            { name: "Server name" },
            { name: "Action", unseen: true },
          ],
          connections.map((connection) => [
            h("code", {}, connection.client),
            connection.country ?? "–",
            connection.app ?? "–",
            connection.backend ?? "–",
            connection.state,
            format.moment(connection.age_secs),
            format.moment(connection.idle_secs),
            connection.sent === null ? "–" : format.size(connection.sent),
            connection.received === null ? "–" : format.size(connection.received),
            connection.server_name ?? "–",
            h("button", { type: "button", "aria-label": `Close the connection of ${connection.client}`, onclick: () => void this.kill(connection.id, connection.client) }, "Close…"),
          ]),
        ),
    ]);
  }

  private async kill(id: string, client: string): Promise<void> {
    const agreed = await ask({ title: "Close this connection?", body: [h("p", {}, `The connection of ${client} is cut off at once.`)], agree: "Close it", danger: true });
    if (!agreed) return;
    const answer = await this.api.write<Killed>("DELETE", `/api/v1/connections/${encodeURIComponent(id)}`, `To close the connection of ${client}, give the admin token.`);
    if (answer.kind === "done") this.toasts.done(`The connection of ${client} is closed.`);
    else if (answer.kind === "failed") this.toasts.failed(failure(answer));
    await this.reload();
  }

  private async killAll(): Promise<void> {
    const { wanted } = this;
    const given = Object.entries(wanted).filter(([, value]) => value !== "");
    if (given.length === 0) {
      this.toasts.failed("Say which ones: fill in the client, the backend or the app.");
      return;
    }
    const counted = await this.api.read<Connections>("/api/v1/connections", { ...wanted, limit: 1 });
    if (counted.kind !== "done") {
      if (counted.kind === "failed") this.toasts.failed(failure(counted));
      return;
    }
    const agreed = await ask({
      title: `Close ${format.many(counted.value.total, "connection")}?`,
      body: [
        h("p", {}, "All that match now are cut off at once:"),
        h("ul", {}, ...given.map(([name, value]) => h("li", {}, `${name}: `, h("strong", {}, value)))),
      ],
      agree: "Close them",
      danger: true,
    });
    if (!agreed) return;
    const answer = await this.api.write<Killed>("DELETE", "/api/v1/connections", "To close connections, give the admin token.", undefined, wanted);
    if (answer.kind === "done") this.toasts.done(`${format.many(answer.value.killed, "connection")} closed.`);
    else if (answer.kind === "failed") this.toasts.failed(failure(answer));
    await this.reload();
  }
}
