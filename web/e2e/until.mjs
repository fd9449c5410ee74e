// Waits for conditions, never for time alone.

import net from "node:net";

const PAUSE_MS = 25;
export const DEADLINE_MS = 10_000;

/** Asks again and again until `condition` holds; what it said. */
export async function until(what, condition, deadline = DEADLINE_MS) {
  const end = performance.now() + deadline;
  let trouble = "";
  for (;;) {
    try {
      const value = await condition();
      if (value) return value;
    } catch (error) {
      trouble = `: ${error.message}`;
    }
    if (performance.now() > end) throw new Error(`not within ${deadline} ms: ${what}${trouble}`);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

/** A port that nobody listens on. */
export async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}
