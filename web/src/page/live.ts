// The stream of what happens, a line a second, and whether it can be believed.

import type { Live } from "../wire";
import { problem, type Api } from "./api";

/** How the stream stands. */
export type Link = "connecting" | "live" | "stale" | "lost" | "locked";

/** Without a line for so long the numbers are old, and then the connection is taken for dead. */
const STALE_MS = 3_000;
const DEAD_MS = 8_000;
/** Waits between tries. */
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8_000;
/** A line of 200 backends has some 100 kB. */
const LONGEST_LINE = 8_000_000;

export class Stream {
  private wait = FIRST_WAIT_MS;
  private wake: (() => void) | null = null;
  private heard = 0;
  private link: Link = "connecting";

  constructor(
    private readonly api: Api,
    private readonly onLive: (live: Live) => void,
    private readonly onLink: (link: Link, reason: string) => void,
  ) {
    const retry = (): void => {
      // Who did not want to give a token is not asked again for that.
      if (!document.hidden && this.link !== "locked") this.retry();
    };
    document.addEventListener("visibilitychange", retry);
    window.addEventListener("online", retry);
  }

  /** Reads for ever. */
  async run(): Promise<never> {
    for (;;) {
      const reason = await this.read();
      if (this.link !== "locked") this.say("lost", reason);
      await this.pause();
    }
  }

  /** Tries again now. */
  retry(): void {
    this.wake?.();
  }

  /** Milliseconds since the last line. */
  silence(): number {
    return performance.now() - this.heard;
  }

  private say(link: Link, reason = ""): void {
    this.link = link;
    this.onLink(link, reason);
  }

  private async pause(): Promise<void> {
    // Some chance in it: many pages that lost the same POP do not come back at once.
    const wait = this.link === "locked" ? null : this.wait * (0.75 + Math.random() / 2);
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT_MS);
    await new Promise<void>((resolve) => {
      const timer = wait === null ? 0 : window.setTimeout(resolve, wait);
      this.wake = () => {
        window.clearTimeout(timer);
        resolve();
      };
    });
    this.wake = null;
  }

  /** Reads until it ends; why it has. */
  private async read(): Promise<string> {
    const controller = new AbortController();
    this.heard = performance.now();
    const watch = window.setInterval(() => {
      const silence = this.silence();
      if (silence > DEAD_MS) controller.abort();
      else if (silence > STALE_MS && this.link === "live") this.say("stale");
    }, 500);
    try {
      const response = await this.api.open("/api/v1/live", controller.signal);
      if (response.status === 401 || response.status === 403) return await this.knock(response);
      if (!response.ok) return (await problem(response)).reason;
      if (response.body === null) return "there was no answer";
      await this.lines(response.body);
      return "the stream ended";
    } catch {
      return controller.signal.aborted ? "it fell silent" : "it cannot be reached";
    } finally {
      window.clearInterval(watch);
      controller.abort();
    }
  }

  /** Asks for a token. */
  private async knock(response: Response): Promise<string> {
    const { reason } = await problem(response);
    this.say("locked", reason);
    if (await this.api.unlock(reason)) {
      this.wait = 0;
      this.say("connecting");
    }
    return reason;
  }

  private async lines(body: ReadableStream<Uint8Array>): Promise<void> {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const end = text.lastIndexOf("\n");
      if (end < 0) {
        if (text.length > LONGEST_LINE) throw new Error("a line without end");
        continue;
      }
      // When several have come at once the last one says it all.
      const from = text.lastIndexOf("\n", end - 1) + 1;
      const live = JSON.parse(text.slice(from, end)) as Live;
      text = text.slice(end + 1);
      this.heard = performance.now();
      this.wait = FIRST_WAIT_MS;
      if (this.link !== "live") this.say("live");
      this.onLive(live);
    }
  }
}
