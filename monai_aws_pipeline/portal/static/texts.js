// Texts come with the page, in its language.

export const textsOf = (element) => JSON.parse(element.dataset.texts);

/** A text with its values in it. */
export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values?.[name] ?? whole);

/** Bytes as a person reads them. */
export function sized(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit ? value.toFixed(1) : value} ${units[unit]}`;
}
