// What several pages are made of: figures, tables, facts, and buttons that ask whether one is sure.

import { button, h, redraw, say, trouble } from "./dom.js";

export const tile = (name, value, more = [], kind = "") =>
  h(
    "div",
    { class: `tile ${kind}` },
    h("dt", {}, name),
    h("dd", {}, value, more.filter(Boolean).map((text) => h("small", {}, text))),
  );

// `rows`: lists of cells, of which the first is what the row is of.
export const table = (label, heads, rows) =>
  h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, heads.map((name) => h("th", { scope: "col" }, name)))),
      h(
        "tbody",
        {},
        rows.map(([first, ...others]) =>
          h("tr", {}, h("th", { scope: "row" }, first), others.map((cell) => h("td", {}, cell))),
        ),
      ),
    ),
  );

export const facts = (rows) =>
  h(
    "dl",
    { class: "props" },
    rows.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );

// A button for what cannot be undone: it acts when it is pressed a second time.
export function twice(name, sure, act) {
  const rest = () => {
    yes.textContent = name;
    yes.classList.remove("sure");
    no.remove();
  };
  const press = async ({ detail }) => {
    if (detail > 1) return; // a double click is no second thought
    if (yes.textContent === name) {
      yes.textContent = sure;
      yes.after(no);
      yes.classList.add("sure");
      return yes.focus(); // which not every browser gives to what is clicked
    }
    yes.disabled = true;
    await act();
    yes.disabled = false;
    rest();
  };
  const no = button("No", () => (yes.focus(), rest()), "quiet small", { onblur: rest });
  const yes = button(name, press, "quiet small", { onblur: ({ relatedTarget: to }) => to === no || rest() });
  return yes;
}

// Shows what a server has told once, and will not tell again.
export const secret = (what, text) =>
  h(
    "p",
    { class: "secret", role: "status" },
    `${what}. It is shown this once, so keep it now: `,
    h("code", { tabindex: "0" }, text),
    " ",
    navigator.clipboard // which is there over HTTPS and on this machine only
      ? button("Copy", () => copy(text), "quiet small")
      : null,
  );

const copy = (text) =>
  navigator.clipboard.writeText(text).then(
    () => say("Copied."),
    () => say("It could not be copied: select it."),
  );

// Reads a list, which `read` draws anew in a place, and again whenever it is called; a failure is shown
// there.
export const reader = (place, read) => async function again() {
  try {
    await read();
  } catch (error) {
    if (error.name !== "AbortError") redraw(place, error.message, () => [trouble(error, again)]);
  }
};
