// Elements and words. Text is only ever set as text, so no markup of a ticket becomes the page's.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

export function put(parent, ...children) {
  parent.replaceChildren(
    ...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false),
  );
  return parent;
}

export function say(text) {
  const status = document.getElementById("status");
  status.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (status.textContent = ""), 5000);
}

const numbers = new Intl.NumberFormat("en");
const times = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

export const number = (value) => numbers.format(value);

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export function when(time) {
  if (!time) return h("span", {}, "–");
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return h("span", {}, String(time));
  return h("time", { datetime: time, title: times.format(date) }, distance(date));
}

function distance(date) {
  const seconds = (date - Date.now()) / 1000;
  const units = [
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
    ["second", 1],
  ];
  const [unit, length] = units.find(([, size]) => Math.abs(seconds) >= size) ?? units.at(-1);
  return Math.abs(seconds) > 30 * 86400 ? times.format(date) : ago.format(Math.round(seconds / length), unit);
}

// Has all times that are shown say how long ago they are now.
export function tellTime() {
  for (const each of document.querySelectorAll("time[datetime]")) {
    const text = distance(new Date(each.getAttribute("datetime")));
    if (each.textContent !== text) each.textContent = text;
  }
}

export const words = (name) => name.replaceAll("_", " ");

export function shown(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (Array.isArray(value)) return value.length ? value.map(shown).join(", ") : "–";
  if (typeof value === "object") {
    const parts = Object.entries(value).map(([key, inner]) => `${words(key)}: ${shown(inner)}`);
    return parts.length ? parts.join("; ") : "–";
  }
  if (value === true) return "yes";
  if (value === false) return "no";
  if (typeof value === "string" && /^\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)$/.test(value))
    return times.format(new Date(value));
  return String(value);
}

export const badge = (kind, value) => h("span", { class: `badge ${kind}-${value}` }, words(value));

export function loading(what) {
  return h(
    "p",
    { class: "placeholder", role: "status" },
    h("span", { class: "spinner", "aria-hidden": "true" }),
    ` Loading ${what} …`,
  );
}

export function empty(...text) {
  return h("p", { class: "placeholder" }, ...text);
}

export function trouble(error, again) {
  return h(
    "div",
    { class: "trouble", role: "alert" },
    h("strong", {}, error.title ?? "That did not work"),
    h("p", {}, error.detail ?? error.message),
    error.code ? h("p", { class: "code" }, error.code) : null,
    again ? h("button", { type: "button", onclick: again }, "Try again") : null,
  );
}
