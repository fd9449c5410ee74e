// Elements that stand for items: each keeps its element for as long as it is there.

export interface Entry<T> {
  element: Element;
  update: (item: T) => void;
}

export class List<T> {
  private readonly entries = new Map<string, Entry<T>>();

  constructor(
    private readonly parent: Element,
    private readonly key: (item: T) => string,
    private readonly make: (item: T) => Entry<T>,
  ) {}

  /** Shows these items in this order, and forgets the others. */
  show(items: readonly T[]): void {
    const present = new Set<string>();
    const wanted: Element[] = [];
    for (const item of items) {
      const key = this.key(item);
      if (present.has(key)) continue;
      present.add(key);
      let entry = this.entries.get(key);
      if (entry === undefined) {
        entry = this.make(item);
        this.entries.set(key, entry);
      }
      entry.update(item);
      wanted.push(entry.element);
    }
    for (const [key, entry] of this.entries) {
      if (present.has(key)) continue;
      entry.element.remove();
      this.entries.delete(key);
    }
    this.order(wanted);
  }

  /** Brings elements in order, moving only those that are elsewhere, and keeps the focus. */
  private order(wanted: readonly Element[]): void {
    const focused = document.activeElement;
    let next = this.parent.firstElementChild;
    for (const element of wanted) {
      if (element === next) {
        next = next.nextElementSibling;
        continue;
      }
      // One that has gone up leaves a hole: those after it need not move.
      if (next !== null && next.nextElementSibling === element) {
        const late = next;
        next = element.nextElementSibling;
        this.parent.insertBefore(late, next);
        next = late;
        continue;
      }
      this.parent.insertBefore(element, next);
    }
    if (focused instanceof HTMLElement && focused !== document.activeElement && focused.isConnected) {
      focused.focus({ preventScroll: true });
    }
  }
}
