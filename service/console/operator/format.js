// Numbers as text, in the form that docs and log use. Pure.

const COUNT = new Intl.NumberFormat("en");
const MINUTE = 60;
const HOUR = 3600;
const DAY = 86_400;

/** @param {number} value */
export function count(value) {
  return COUNT.format(value);
}

/** A short count, such as 12.3k. @param {number} value */
export function shortCount(value) {
  if (value < 10_000) return count(value);
  return value < 1_000_000 ? `${(value / 1000).toFixed(value < 100_000 ? 1 : 0)}k` : `${(value / 1_000_000).toFixed(1)}M`;
}

/** @param {number | null} seconds */
export function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 0.0005) return "< 1 ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return age(seconds);
}

/** An age in whole units. @param {number | null} seconds */
export function age(seconds) {
  if (seconds === null) return "never";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < MINUTE) return `${whole} s`;
  if (whole < HOUR) return two(whole, MINUTE, "min", 1, "s");
  return whole < DAY ? two(whole, HOUR, "h", MINUTE, "min") : two(whole, DAY, "d", HOUR, "h");
}

/** @param {number} whole @param {number} size @param {string} unit @param {number} small @param {string} smallUnit */
function two(whole, size, unit, small, smallUnit) {
  const rest = Math.floor((whole % size) / small);
  return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${smallUnit}` : ""}`;
}

/** @param {number | null} value */
export function bytes(value) {
  if (value === null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let scaled = value;
  let unit = 0;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit += 1;
  }
  return `${unit === 0 || scaled >= 99.5 ? Math.round(scaled) : scaled.toFixed(1)} ${units[unit]}`;
}

/** A cost in US dollars, with the digits that small ones need. @param {number} value */
export function dollars(value) {
  if (value === 0) return "$0";
  if (value < 0.0001) return "< $0.0001";
  return `$${value.toFixed(value < 1 ? 4 : 2)}`;
}

/** A ratio in per cent, rounded down: 100 % means that nothing failed. @param {number | null} ratio */
export function percent(ratio) {
  if (ratio === null) return "–";
  const value = Math.floor(ratio * 10_000 + 1e-6) / 100;
  return `${value === 100 || value === 0 ? value : value.toFixed(value < 99 ? 1 : 2)} %`;
}

/** The local time of day. @param {number} seconds since 1970 */
export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

/** The local date and time, for a title. @param {number} seconds since 1970 */
export function dateTime(seconds) {
  return new Date(seconds * 1000).toLocaleString("en-GB", { timeZoneName: "short" });
}

/** "1 session", "2 sessions". @param {number} number @param {string} noun */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}
