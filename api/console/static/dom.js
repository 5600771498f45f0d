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

// A problem in its own words; `again` tries once more, and `more` may be ways back.
export function trouble(error, again, ...more) {
  return h(
    "div",
    { class: "trouble", role: "alert" },
    h("strong", {}, error.title ?? "That did not work"),
    h("p", {}, error.detail ?? error.message),
    error.code ? h("p", { class: "code" }, error.code) : null,
    again ? h("button", { type: "button", onclick: again }, "Try again") : null,
    more,
  );
}

// A dialog over the page: Escape closes it, and the focus goes back to where it was.
export function modal(title, ...content) {
  const before = document.activeElement;
  const dialog = h("dialog", { "aria-label": title }, content);
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before?.isConnected) before.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// Parts of a view of which one is shown: `parts` is [name, element]; `told` hears which.
export function tabs(label, parts, told = () => {}) {
  const buttons = parts.map(([name, element], n) =>
    h(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${n}`,
        onclick: () => choose(n),
        onkeydown: (event) => {
          const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (!step) return;
          choose((n + step + parts.length) % parts.length);
          buttons.find((each) => each.ariaSelected === "true").focus();
        },
      },
      name,
    ),
  );
  for (const [n, [, element]] of parts.entries()) {
    element.setAttribute("role", "tabpanel");
    element.setAttribute("aria-labelledby", `tab-${n}`);
  }
  function choose(n) {
    for (const [at, button] of buttons.entries()) {
      button.setAttribute("aria-selected", String(at === n));
      button.tabIndex = at === n ? 0 : -1;
      parts[at][1].hidden = at !== n;
    }
    told(n);
  }
  choose(0);
  const list = h("div", { class: "tabs", role: "tablist", "aria-label": label }, buttons);
  return Object.assign(list, { choose, buttons });
}

// A button that opens a list of what else can be done: `actions` is [name, function].
export function menu(label, actions) {
  const details = h(
    "details",
    {
      class: "menu",
      onfocusout: (event) => details.contains(event.relatedTarget) || (details.open = false),
      onkeydown: (event) => {
        const items = [...details.querySelectorAll("li button")];
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
      actions.map(([name, act]) =>
        h(
          "li",
          {},
          h(
            "button",
            {
              type: "button",
              onclick: () => {
                details.firstChild.focus(); // to which a dialog gives the focus back
                details.open = false;
                act();
              },
            },
            name,
          ),
        ),
      ),
    ),
  );
  return details;
}

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
