// Numbers, times and names for people.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clockTime = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const dateTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const countries = new Intl.DisplayNames(["en"], { type: "region", fallback: "code" });

/** A whole number: 12,345. */
export function count(value: number): string {
  return whole.format(value);
}

/** A large number in few characters: 12.3k. */
export function short(value: number): string {
  if (value < 10_000) return whole.format(value);
  const [scaled, unit] = value < 1e6 ? [value / 1e3, "k"] : value < 1e9 ? [value / 1e6, "M"] : [value / 1e9, "G"];
  return `${figures(scaled)}${unit}`;
}

/** Three figures: 1.23, 12.3, 123. */
function figures(value: number): string {
  if (value >= 99.95) return value.toFixed(0);
  return value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

/** So many a second. */
export function rate(value: number): string {
  // A second is never quite a second: 4.9998 is 5.
  const rounded = Math.round(value * 10) / 10;
  return rounded >= 10 || Number.isInteger(rounded) ? short(Math.round(rounded)) : rounded.toFixed(1);
}

/** Bytes, as a number and its unit. */
export function bytes(value: number): [number: string, unit: string] {
  if (value < 1000) return [whole.format(value), "B"];
  for (const unit of ["kB", "MB", "GB", "TB"]) {
    value /= 1000;
    if (value < 999.5 || unit === "TB") return [figures(value), unit];
  }
  return ["", ""];
}

/** Bytes in one piece: 1.23 MB. */
export function size(value: number): string {
  return bytes(value).join(" ");
}

/** Milliseconds: 0.07, 1.2, 345. */
export function millis(value: number): string {
  if (value >= 10_000) return short(value);
  return value < 0.995 ? value.toFixed(2) : figures(value);
}

/** A span of time: 3d 4h, 5m 6s. */
export function span(secs: number): string {
  const left = Math.max(0, Math.round(secs));
  if (left < 60) return `${left} s`;
  if (left < 3_600) return `${Math.floor(left / 60)} min ${left % 60} s`;
  if (left < 86_400) return `${Math.floor(left / 3_600)} h ${Math.floor((left % 3_600) / 60)} min`;
  return `${Math.floor(left / 86_400)} d ${Math.floor((left % 86_400) / 3_600)} h`;
}

/** A short span, with tenths: 0.4 s. */
export function moment(secs: number): string {
  return secs < 10 ? `${secs.toFixed(1)} s` : span(secs);
}

/** A time of day; with the day when that is another one. */
export function time(secs: number): string {
  const date = new Date(secs * 1000);
  const today = new Date().toDateString() === date.toDateString();
  return (today ? clockTime : dateTime).format(date);
}

/** The name of a country. */
export function country(code: string | null): string {
  if (code === null) return "Unknown";
  try {
    return countries.of(code) ?? code;
  } catch {
    return code;
  }
}

/** An address with its port. */
export function address(ip: string, port: number): string {
  return ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`;
}

/** One thing or several. */
export function many(number: number, one: string, more = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : more}`;
}
