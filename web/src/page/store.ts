// What the browser keeps for this page. It may refuse to: then the page goes on without.

export function kept(storage: "local" | "session", name: string): string | null {
  try {
    return area(storage).getItem(`edgeproxy.${name}`);
  } catch {
    return null;
  }
}

export function keep(storage: "local" | "session", name: string, value: string | null): void {
  try {
    if (value === null) area(storage).removeItem(`edgeproxy.${name}`);
    else area(storage).setItem(`edgeproxy.${name}`, value);
  } catch {
    // Storage is off; nothing is remembered.
  }
}

function area(storage: "local" | "session"): Storage {
  return storage === "local" ? window.localStorage : window.sessionStorage;
}
