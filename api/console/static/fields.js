// One editor for each kind of value: forms of commands, a ticket's properties and the set-up use it.
// A kind is what the desk says of a custom field, `{ type, choices }`, or what `kindOf` makes of a
// schema of the API.

import { h, put, words } from "./dom.js";

const LONG = 1000; // characters; then it is a text of several lines
const NOTES = {
  list: "several, with commas between",
  map: "one name=value a line",
  time: "in your time zone",
  any: "text, a whole number, true, false, or several: [one, another]",
  ticket: "its number, like C-1042",
};
let made = 0;

const listed = (text) => text.split(",").map((each) => each.trim()).filter(Boolean);

// A whole number as JSON writes it, true, false, several texts in brackets, or text; text in quotes
// is text whatever it looks like.
function value(text) {
  if (/^\[.*\]$/.test(text)) return listed(text.slice(1, -1));
  if (/^(0|-?[1-9]\d{0,14})$/.test(text)) return Number(text);
  if (text === "true" || text === "false") return text === "true";
  return /^".*"$/.test(text) ? text.slice(1, -1) : text;
}

function named(line) {
  const [, name, rest] = /^\s*([^=\s]+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
  if (!name) throw new Error(`“${line.trim()}” is not a name=value`);
  return [name, value(rest)];
}

export const resolved = (openapi, schema) =>
  schema?.$ref ? openapi.components.schemas[schema.$ref.split("/").at(-1)] : schema;

// What kind of value a schema of the API asks for.
export function kindOf(openapi, schema) {
  schema = resolved(openapi, schema);
  const parts = (schema.anyOf ?? [schema]).map((part) => resolved(openapi, part));
  const some = parts.filter((part) => part.type !== "null");
  const nullable = parts.length > some.length;
  const [first] = some;
  const items = first.items && resolved(openapi, first.items);
  const kind = { nullable, start: schema.default, hint: schema.description ?? first.description };
  if (some.length > 1) return { ...kind, type: "any" };
  if (first.enum) return { ...kind, type: "choice", choices: first.enum };
  if (first.type === "array" && items.enum) return { ...kind, type: "choices", choices: items.enum };
  if (first.type === "array") return { ...kind, type: "list" };
  if (first.type === "object") return { ...kind, type: "map" };
  if (first.type === "integer" || first.type === "number")
    return { ...kind, type: first.type, min: first.minimum, max: first.maximum };
  if (first.type === "boolean") return { ...kind, type: "boolean" };
  const formats = { date: "date", "date-time": "time", uuid: "ticket" };
  const long = (first.maxLength ?? 0) > LONG;
  return { ...kind, type: formats[first.format] ?? (long ? "long" : "text"), length: first.maxLength };
}

function input(attributes, type, more = {}) {
  const element = h("input", { ...attributes, type, autocomplete: "off", ...more });
  return { element, read: () => element.value || null };
}

function chosen(attributes, options) {
  const element = h(
    "select",
    attributes,
    options.map(([each, name]) => h("option", { value: each }, name)),
  );
  return { element, read: () => element.value || null };
}

const CONTROLS = {
  text: (a, kind) => input(a, "text", { maxlength: kind.length && String(kind.length) }),
  decimal: (a) => input(a, "text", { inputmode: "decimal" }),
  date: (a) => input(a, "date"),
  time(a) {
    const { element } = input(a, "datetime-local");
    return { element, read: () => (element.value ? new Date(element.value).toISOString() : null) };
  },
  integer(a, kind) {
    const step = kind.type === "integer" ? "1" : "any";
    const { element } = input(a, "number", { step, min: kind.min, max: kind.max });
    return { element, read: () => (element.value === "" ? null : Number(element.value)) };
  },
  number: (a, kind) => CONTROLS.integer(a, kind),
  long(a, kind) {
    const element = h("textarea", { ...a, rows: "4", maxlength: kind.length && String(kind.length) });
    return { element, read: () => element.value || null };
  },
  boolean(a, kind) {
    if (kind.nullable) {
      const select = chosen(a, [["", "–"], ["true", "yes"], ["false", "no"]]);
      return { ...select, read: () => (select.element.value ? select.element.value === "true" : null) };
    }
    const { element } = input({ ...a, required: false }, "checkbox");
    return { element, read: () => element.checked, write: (start) => (element.checked = start) };
  },
  choice(a, kind) {
    const none = kind.nullable ? [["", "–"]] : kind.start === undefined ? [["", "choose …"]] : [];
    return chosen(a, [...none, ...kind.choices.map((each) => [each, words(String(each))])]);
  },
  choices(a, kind) {
    const boxes = kind.choices.map((each) => h("input", { type: "checkbox", value: each }));
    const lines = boxes.map((box) => h("label", { class: "check" }, box, ` ${box.value}`));
    const element = h("div", { id: a.id, role: "group", "aria-describedby": a["aria-describedby"] }, lines);
    return {
      element,
      read: () => boxes.filter((box) => box.checked).map((box) => box.value),
      write: (start) => boxes.forEach((box) => (box.checked = start.includes(box.value))),
    };
  },
  list(a) {
    const { element } = input(a, "text");
    return { element, read: () => listed(element.value), write: (start) => (element.value = start.join(", ")) };
  },
  map(a) {
    const element = h("textarea", { ...a, rows: "2" });
    const lines = () => element.value.split("\n").filter((line) => line.trim());
    return {
      element,
      read: () => Object.fromEntries(lines().map(named)),
      write: (start) =>
        (element.value = Object.entries(start).map(([key, each]) => `${key}=${each}`).join("\n")),
    };
  },
  any(a) {
    const { element } = input(a, "text");
    return { element, read: () => (element.value === "" ? null : value(element.value)) };
  },
  ticket(a, kind) {
    const { element } = input(a, "text");
    const read = async () => (element.value ? await kind.find(element.value) : null);
    return { element, read, write: (start) => (element.value = start) };
  },
};

// An editor: `row` is label, control, note and fault; `read()` (a promise, for some) is the value,
// null or an empty list if there is none, and throws an error that says what to mend.
export function field(
  kind,
  { name, label = words(name), value: start = kind.start, required = false, hint = kind.hint },
) {
  const id = `field-${++made}`;
  const said = [hint, NOTES[kind.type]].filter(Boolean).join(" ");
  const note = h("p", { class: "note", id: `${id}-note` }, said);
  const fault = h("p", { class: "fault", id: `${id}-fault` });
  const about = { id, name, required, "aria-describedby": `${note.id} ${fault.id}` };
  const control = CONTROLS[kind.type](about, kind);
  const { element } = control;
  const isGroup = element.getAttribute("role") === "group";
  const more = required ? h("span", { class: "required" }, " (required)") : null;
  const title = h(isGroup ? "span" : "label", { id: `${id}-label`, for: isGroup ? null : id }, label, more);
  if (isGroup) element.setAttribute("aria-labelledby", title.id);
  const options = h("datalist", { id: `${id}-options` });
  if (kind.suggestions?.length) {
    put(options, kind.suggestions.map((each) => h("option", { value: each })));
    element.setAttribute("list", options.id);
  }
  const write = control.write ?? ((text) => (element.value = String(text)));
  if (start !== undefined && start !== null) write(start);
  return {
    row: h("div", { class: "field" }, title, element, options, note, fault),
    element,
    kind,
    required,
    read: control.read,
    write,
    focus: () => (isGroup ? element.querySelector("input") : element)?.focus(),
    fault(text) {
      fault.textContent = text;
      if (text) element.setAttribute("aria-invalid", "true");
      else element.removeAttribute("aria-invalid");
    },
  };
}
