// Values as people read them.

const NUMBER = new Intl.NumberFormat();
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const THIS_YEAR = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const MONEY = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD", maximumFractionDigits: 4 });

/** @param {number} number */
export const count = (number) => NUMBER.format(number);

/** `1 output`, `2 outputs`. @param {number} number @param {string} noun */
export const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** A day as YYYY-MM-DD, at its beginning here. @param {string | null | undefined} day */
function begin(day) {
  const parts = /^(\d{4})-(\d\d)-(\d\d)$/.exec(day ?? "");
  return parts && day !== "1970-01-01" ? new Date(Number(parts[1]), Number(parts[2]) - 1, Number(parts[3])) : null;
}

/** Today, Yesterday, or the date. Days are the server's, and so is what it calls today.
 * @param {string | null} day as YYYY-MM-DD @param {string | undefined} serversToday the same */
export function dayName(day, serversToday) {
  const date = begin(day);
  if (!date) return "Date unknown";
  const today = begin(serversToday) ?? new Date();
  const ago = Math.round((new Date(today.getFullYear(), today.getMonth(), today.getDate()).getTime() - date.getTime()) / 864e5);
  if (ago === 0) return "Today";
  if (ago === 1) return "Yesterday";
  return (date.getFullYear() === today.getFullYear() ? THIS_YEAR : DAY).format(date);
}

/** @param {string | number | null | undefined} when RFC 3339, or FLORA's seconds or milliseconds */
export function time(when) {
  if (when === null || when === undefined || when === "") return null;
  const date = new Date(typeof when === "number" && when < 1e11 ? when * 1000 : when);
  return Number.isNaN(date.getTime()) ? String(when) : TIME.format(date);
}

/** @param {number | null | undefined} number of bytes */
export function bytes(number) {
  if (typeof number !== "number") return null;
  if (number < 1000) return counted(number, "byte");
  let value = number;
  let unit = "";
  for (const next of ["kB", "MB", "GB", "TB"]) {
    value /= 1000;
    unit = next;
    if (value < 999.5) break;
  }
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

/** @param {number | null | undefined} dollars */
export const money = (dollars) => (typeof dollars === "number" ? MONEY.format(dollars) : null);

/** The technique as people call it. @param {{technique: string | null, technique_name?: string | null}} of */
export const techniqueName = (of) => of.technique_name || of.technique || "Unknown technique";

/** What a screen reader says of an output: the technique, what it is, and its run. @param {Record<string, any>} output */
export function spoken(output) {
  const named = techniqueName(output);
  const slug = output.technique && output.technique !== named ? ` (${output.technique})` : "";
  const label = output.label ? `, ${output.label}` : "";
  const words = output.text ? `: ${output.text.slice(0, 80)}` : "";
  return `${named}${slug}, ${output.kind}${label}, ${output.run_id}, ${output.output_id}${words}`;
}
