// The last minutes of a number, one sample a second. A gap is a sample that is missing.

/** Samples that are kept: three minutes. */
const KEPT = 180;

export class History {
  private readonly samples: (number | null)[] = [];

  push(value: number | null): void {
    this.samples.push(value);
    if (this.samples.length > KEPT) this.samples.shift();
  }

  /** The oldest first. */
  get values(): readonly (number | null)[] {
    return this.samples;
  }

  get most(): number {
    return this.samples.reduce<number>((most, value) => Math.max(most, value ?? 0), 0);
  }
}
