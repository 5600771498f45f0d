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

// A button that acts; `kind` is its class.
export const button = (name, onclick, kind = null, more = {}) =>
  h("button", { type: "button", class: kind, onclick, ...more }, name);

export function put(parent, ...children) {
  drawn.delete(parent);
  waiting.delete(parent);
  parent.replaceChildren(
    ...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false),
  );
  return parent;
}

// Draws what is in an element anew if what it shows has changed; the focus stays where it was. It waits
// while a pointer is held down in there, something is typed, or is to be confirmed: a click would find
// nothing, and what was typed would go.
const drawn = new WeakMap(); // what each element shows
const waiting = new Map(); // by element, what draws it
const FOCUSED = "button, a, summary, input, [tabindex]";
const TYPED = "textarea, select, input:not([type=checkbox], [type=radio], [type=range])";
let pressed = null;

const isHeld = (element) =>
  element.contains(pressed) || element.querySelector(`.sure:enabled, :is(${TYPED}):focus`) !== null;

export function redraw(element, value, draw) {
  waiting.delete(element);
  const is = JSON.stringify(value);
  if (drawn.get(element) === is) return;
  if (isHeld(element)) return waiting.set(element, () => redraw(element, value, draw));
  const label = (each) => each.getAttribute("href") ?? each.getAttribute("aria-label") ?? each.textContent;
  const held = element.contains(document.activeElement) ? label(document.activeElement) : null;
  const kept = [...element.querySelectorAll("details, .scroll")].map((each) => [each.open, each.scrollTop]);
  put(element, draw());
  drawn.set(element, is);
  for (const [n, each] of element.querySelectorAll("details, .scroll").entries()) {
    const [open, top] = kept[n] ?? [];
    if (open) each.open = true;
    if (top) each.scrollTop = top;
  }
  if (held === null) return;
  const all = [...element.querySelectorAll(FOCUSED)];
  (all.find((each) => label(each) === held) ?? all[0])?.focus();
}

const release = () =>
  setTimeout(() => {
    for (const [element, draw] of waiting) if (!isHeld(element)) draw();
  });
addEventListener("focusout", release);
addEventListener("pointerdown", ({ target }) => {
  pressed = target;
  for (const each of document.querySelectorAll(".menu[open]")) if (!each.contains(target)) each.open = false;
});
for (const type of ["pointerup", "pointercancel", "contextmenu", "blur"])
  addEventListener(type, () => {
    setTimeout(() => (pressed = null)); // once the click has found what it is for
    release();
  });

// Whether the focus may go into an element: it is not taken from where something else is typed.
export const mayFocus = (element) =>
  element.contains(document.activeElement) || !document.activeElement?.matches(TYPED);

// Whether a key is typed into an element: one of a dialog that has just been closed takes none.
export const isTyped = (element) => Boolean(element.closest?.(`${TYPED}, dialog`)?.checkVisibility());

export function say(text) {
  const status = document.getElementById("status");
  status.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (status.textContent = ""), 5000);
}

const numbers = new Intl.NumberFormat("en");
const times = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const days = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium" });
const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

export const number = (value) => numbers.format(value);

// In the two largest units that it has: "1 h 30 min".
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  let left = seconds < 60 ? Math.round(seconds) : Math.round(seconds / 60) * 60;
  const parts = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count || parts.length) parts.push(count ? `${count} ${unit}` : null);
  }
  return parts.slice(0, 2).filter(Boolean).join(" ") || "0 s";
}

// How long ago, or in how long; of what is a month away the day, and `full` the time of day too.
export function when(time, full = false) {
  if (!time) return h("span", {}, "–");
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return h("span", {}, String(time));
  const about = { datetime: time, title: times.format(date), "data-full": full };
  return h("time", about, distance(date, full));
}

function distance(date, full) {
  const seconds = (date - Date.now()) / 1000;
  const units = [
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
    ["second", 1],
  ];
  const [unit, length] = units.find(([, size]) => Math.abs(seconds) >= size) ?? units.at(-1);
  if (Math.abs(seconds) > 30 * 86400) return (full ? times : days).format(date);
  return ago.format(Math.round(seconds / length), unit);
}

// Has all times that are shown say how long ago they are now.
export function tellTime() {
  for (const each of document.querySelectorAll("time[datetime]")) {
    const text = distance(new Date(each.getAttribute("datetime")), "full" in each.dataset);
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

// A problem in its own words; `again` tries once more, and `more` may be ways back.
export function trouble(error, again, ...more) {
  return h(
    "div",
    { class: "trouble", role: "alert" },
    h("strong", {}, error.title ?? "That did not work"),
    h("p", {}, error.detail ?? error.message),
    error.code ? h("p", { class: "code" }, error.code) : null,
    again ? button("Try again", again) : null,
    more,
  );
}

// A dialog over the page: Escape closes it, and the focus goes back to where it was.
export function modal(title, ...content) {
  const before = document.activeElement;
  const dialog = h("dialog", { "aria-label": title }, content);
  dialog.addEventListener("close", () => {
    dialog.remove();
    // The browser gives the focus back, unless what had it is gone.
    if (!before.isConnected && document.activeElement === document.body) document.getElementById("main").focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// A dialog with a form, which `make(close)` returns; what one types takes the place of what is there.
export async function inDialog(title, make) {
  const dialog = modal(title, loading("the form"));
  try {
    put(dialog, await make(() => dialog.close()));
    focusOn(dialog.querySelector("input, select, textarea, button"));
  } catch (error) {
    put(dialog, trouble(error));
  }
}

export function focusOn(edit) {
  edit?.focus();
  edit?.select?.();
}

// Parts of a view of which one is shown: `parts` is [name, element]; `told` hears which.
export function tabs(label, parts, told = () => {}) {
  const buttons = parts.map(([name, element], n) =>
    button(name, () => choose(n), null, {
      role: "tab",
      id: `tab-${n}`,
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        choose((n + step + parts.length) % parts.length);
        buttons.find((each) => each.ariaSelected === "true").focus();
      },
    }),
  );
  for (const [n, [, element]] of parts.entries()) {
    element.setAttribute("role", "tabpanel");
    element.setAttribute("aria-labelledby", `tab-${n}`);
  }
  function choose(n) {
    for (const [at, each] of buttons.entries()) {
      each.setAttribute("aria-selected", String(at === n));
      each.tabIndex = at === n ? 0 : -1;
      parts[at][1].hidden = at !== n;
    }
    told(n);
  }
  choose(0);
  const list = h("div", { class: "tabs", role: "tablist", "aria-label": label }, buttons);
  return Object.assign(list, { choose, buttons });
}

// A button that opens a list of what else can be done: `actions` are [name, function], or elements.
export function menu(label, actions) {
  const details = h(
    "details",
    {
      class: "menu",
      onfocusout: ({ relatedTarget: to }) => to && !details.contains(to) && (details.open = false),
      onkeydown: (event) => {
        const items = [...details.querySelectorAll("li :is(button, input)")];
        const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (event.key === "Escape") {
          details.open = false;
          details.firstChild.focus();
        } else if (step) {
          event.preventDefault();
          details.open = true;
          items.at((items.indexOf(document.activeElement) + step) % items.length)?.focus();
        }
      },
    },
    h("summary", {}, label),
    h(
      "ul",
      {},
      actions.map((action) => h("li", {}, Array.isArray(action) ? choice(...action) : action)),
    ),
  );
  function choice(name, act) {
    const chosen = () => {
      details.firstChild.focus(); // to which a dialog gives the focus back
      details.open = false;
      act();
    };
    return button(name, chosen);
  }
  return details;
}

// A preview has 50 characters at most: of what is longer no word is shown in part.
const PREVIEW = 50;
export const preview = ({ preview: text }) =>
  [...text].length < PREVIEW ? text : `${text.replace(/(?<=\S)\s+\S*$/, "")} …`;

// What to do next, where there is no ticket yet.
export function welcome(me) {
  const does = me.scopes.includes("write") && !["auditor", "admin"].includes(me.role);
  const staff = me.role !== "requester";
  const steps = [
    does ? ["Open the first ticket: ", h("a", { href: "#/tickets?new" }, "New ticket"), "."] : null,
    staff ? ["Or load a desk to look at, on the server’s machine: ", h("code", {}, "make demo"), "."] : null,
    staff
      ? [
          "Let colleagues in, each with a key of their own: ",
          h("code", {}, "casebook keys make alice agent"),
          ".",
        ]
      : null,
    staff
      ? ["Have mails or another system open tickets through the API: ", h("a", { href: "/docs" }, "API"), "."]
      : null,
  ];
  return h(
    "section",
    { class: "card welcome" },
    h("h2", {}, "There are no tickets yet"),
    h("ol", {}, steps.filter(Boolean).map((step) => h("li", {}, step))),
  );
}
