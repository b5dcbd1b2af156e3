// Figures as people read them. What is not known is a dash.

export const NONE = "–";

const known = (value) => typeof value === "number" && Number.isFinite(value);

export const score = (value) => (known(value) ? value.toFixed(3) : NONE);

export const count = (value) => (known(value) ? value.toLocaleString("en") : NONE);

// A number of things that may be a mean.
export const mean = (value) => (known(value) ? value.toFixed(Number.isInteger(value) ? 0 : 1) : NONE);

// Three digits, or all before the point.
export const figure = (value) => (known(value) ? String(value < 1000 ? Number(value.toPrecision(3)) : Math.round(value)) : NONE);

export const factor = (value) => (known(value) ? `${value.toFixed(value < 10 ? 1 : 0)}×` : NONE);

export function bytes(value) {
  if (!known(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function seconds(value) {
  if (!known(value)) return NONE;
  if (value < 10 && !Number.isInteger(value)) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  if (value < 172800) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} days`;
}

export const ago = (value) => (known(value) ? (value < 2 ? "just now" : `${seconds(Math.round(value))} ago`) : NONE);

export const ratio = (part, whole) => (known(part) && known(whole) && whole > 0 ? part / whole : undefined);

export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

export const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);
