// Values of any shape as forms, made from the API's own document: what it learns has its field here
// without a line, and what it refuses is told where that stands.

import { field, kindOf, resolved } from "./fields.js";
import { document_, refused } from "./forms.js";
import { button, h, loading, mayFocus, put, trouble, words } from "./dom.js";

const isEmpty = (value) =>
  value === undefined || (value !== null && typeof value === "object" && !Object.keys(value).length);
const step = (name) => `/${String(name).replaceAll("~", "~0").replaceAll("/", "~1")}`;

// An editor of one value: { element, read(pointer, places) }. `read` returns the value, or undefined
// for none, and notes in `places`, by JSON pointer, where a fault of it is told.
// `path`: the names of what it is in, without those that somebody gives; `start`: what it is now.
function editor(openapi, path, schema, start, isRequired = false) {
  const whole = resolved(openapi, schema);
  const kinds = (whole.anyOf ?? [whole]).map((kind) => resolved(openapi, kind));
  const [kind, ...others] = kinds.filter((each) => each.type !== "null");
  const canBeNull = kinds.length > others.length + 1;
  const about = { openapi, path, kind, start, isRequired, title: schema.description ?? kind.description };
  const single = () => leaf(about, { ...kindOf(openapi, schema), nullable: canBeNull || !isRequired });
  if (others.length) return single();
  if (kind.properties && canBeNull) return optional(about);
  if (kind.properties) return object(about, kind.properties);
  if (kind.type === "object") {
    const inner = kind.additionalProperties ?? Object.values(kind.patternProperties)[0];
    const names = resolved(openapi, kind.propertyNames ?? {}).enum;
    if (names) {
      const each = { ...resolved(openapi, inner), description: undefined }; // or it is said for each
      return object(about, Object.fromEntries(names.map((name) => [name, each])));
    }
    return entries(about, inner, true);
  }
  if (kind.type !== "array") return single();
  const inner = resolved(openapi, kind.items);
  if (inner.properties) return entries(about, inner, false);
  return inner.enum ? single() : lines(about, inner.pattern && inner.examples?.[0]);
}

// What an entry of a list is, or the value of a name in it.
const INSIDE = {
  "/groups": "agents",
  "/fields": "field",
  "/sla_rules": "rule",
  "/calendars": "calendar",
  "/retired/groups": "its tickets go to",
  "/retired/agents": "their tickets go to",
  "/retired/fields": "its values",
  "/retired/choices": "choices",
  "/retired/choices/choices": "becomes",
};
const SAID_BY_SERVER = ["/calendars/calendar/version", "/calendars/calendar/public_holidays/dates"];
const NAMES = {
  "/sla": "SLA by priority",
  "/sla_rules": "SLA rules: promises by group, priority or value",
  "/sla_field": "SLA field: whose value the rules go by",
  "/retired": "What becomes of what is gone",
};
const nameOf = (path) => NAMES[path] ?? words(path.split("/").at(-1));

// One value. What nobody has touched stays as it is.
function leaf({ path, start, isRequired }, kind, names = {}) {
  if (path === "/url") kind = { ...kind, type: "text" }; // of one line, however long
  const made = field(kind, { name: nameOf(path), value: start, required: isRequired, ...names });
  const before = JSON.stringify(made.read());
  return {
    element: made.row,
    read(pointer, places) {
      places.set(pointer, made);
      const now = made.read();
      return start !== undefined && JSON.stringify(now) === before ? start : (now ?? undefined);
    },
  };
}

// Several texts: names may have commas.
function lines(about, example) {
  const start = about.start?.join("\n");
  const hint = [about.title, example ? `One a line, like ${example}.` : "One a line."].filter(Boolean).join(" ");
  const made = leaf({ ...about, start }, { type: "long" }, { hint });
  made.element.querySelector("textarea").rows = Math.min(8, 1 + (about.start?.length ?? 0));
  return {
    ...made,
    read(pointer, places) {
      const text = made.read(pointer, places);
      if (text === start) return about.start;
      const found = (text ?? "").split("\n").map((each) => each.trim()).filter(Boolean);
      return found.length ? found : undefined;
    },
  };
}

// Where a fault is told that no single control has.
function place() {
  const element = h("p", { class: "fault" });
  return {
    element,
    fault(text) {
      element.textContent = text;
    },
    focus: () => element.parentElement.querySelector("input, select, textarea, button")?.focus(),
  };
}

function object({ openapi, path, kind, start = {}, title }, properties) {
  const required = new Set(kind.required ?? []);
  const asked = Object.entries(properties).filter(([name]) => !SAID_BY_SERVER.includes(`${path}/${name}`));
  const parts = asked.map(([name, inner]) => [
    name,
    editor(openapi, `${path}/${name}`, inner, start[name] ?? undefined, required.has(name)),
  ]);
  const where = place();
  const element = h(
    "fieldset",
    {},
    path ? h("legend", {}, nameOf(path)) : null,
    title ? h("p", { class: "note" }, title) : null,
    where.element,
    parts.map(([, part]) => part.element),
  );
  return {
    element,
    read(pointer, places) {
      places.set(pointer, where);
      const found = { ...start };
      for (const [name, part] of parts) {
        const value = part.read(pointer + step(name), places);
        if (!isEmpty(value) || (value && name in start)) found[name] = value;
        else delete found[name];
      }
      return found;
    },
  };
}

// Something that may be there or not.
function optional(about) {
  const place = h("div");
  let inner = null;
  const draw = (start) => {
    inner = start ? object({ ...about, start }, about.kind.properties) : null;
    const act = inner ? `Remove ${nameOf(about.path)}` : `Add ${nameOf(about.path)}`;
    put(
      place,
      inner?.element,
      button(act, () => draw(inner ? null : {}), "quiet"),
    );
  };
  draw(about.start);
  return { element: place, read: (pointer, places) => inner?.read(pointer, places) };
}

// Named values, or a list of them: entries that can be added and removed.
function entries({ openapi, path, start, title }, schema, isNamed) {
  const list = h("ol", { class: "entries" });
  const where = place();
  const summary = h("summary");
  let all = [];
  const count = () => put(summary, `${nameOf(path)} (${all.length})`);
  const canBeNull = resolved(openapi, schema).anyOf?.some((each) => each.type === "null");
  const add = (name, value) => {
    const key = isNamed ? h("input", { type: "text", value: name, "aria-label": `name in ${nameOf(path)}` }) : null;
    const part = editor(openapi, `${path}/${INSIDE[path] ?? "value"}`, schema, value ?? undefined);
    const entry = { key, part, where: place() };
    const remove = () => {
      all = all.filter((each) => each !== entry);
      entry.row.remove();
      count();
      more.focus();
    };
    entry.row = h(
      "li",
      {},
      key ? h("label", { class: "name" }, "Name", key) : null,
      part.element,
      button("Remove", remove, "quiet small"),
      entry.where.element,
    );
    all.push(entry);
    list.append(entry.row);
    count();
    return entry;
  };
  count();
  for (const [name, value] of Object.entries(start ?? {})) add(name, value);
  const addOne = () => add("").row.querySelector("input, select, textarea")?.focus();
  const more = button(`Add to ${nameOf(path)}`, addOne, "quiet");
  return {
    element: h(
      "details",
      { class: "group" },
      summary,
      title ? h("p", { class: "note" }, title) : null,
      where.element,
      list,
      more,
    ),
    read(pointer, places) {
      places.set(pointer, where);
      const found = all.map(({ key, part, where: ofEntry }, n) => {
        const at = pointer + step(isNamed ? key.value.trim() : n);
        const value = part.read(at, places);
        if (isNamed || !places.has(at)) places.set(at, ofEntry); // a name may be at fault
        return [key?.value.trim(), value ?? (canBeNull ? null : emptyOf(openapi, schema))];
      });
      if (isNamed) return Object.fromEntries(found);
      return found.map(([, value]) => value);
    },
  };
}

// What stands for a value that nobody has given, where there must be one.
function emptyOf(openapi, schema) {
  const { type } = resolved(openapi, schema);
  return { array: [], object: {} }[type] ?? "";
}

// Shows a form in a place, until it is done or cancelled.
export async function edit(place, api, { done, ...about }) {
  put(place, loading("the form"));
  const close = () => put(place);
  const made = (answer) => {
    close();
    return done(answer);
  };
  try {
    put(place, await editorForm(api, { ...about, done: made, cancel: close }));
    place.querySelector("input, select, textarea")?.focus();
  } catch (error) {
    put(place, trouble(error, () => edit(place, api, { done, ...about })));
  }
}

// A form for one value. `schema`: its name in the API's document; `send(value)` sends it.
export async function editorForm(api, { name, note, schema, start, send, done, cancel }) {
  const openapi = await document_(api);
  const top = { ...openapi.components.schemas[schema], description: undefined };
  const shown = h("div", { class: "editor" });
  const general = h("div", { role: "alert" });
  const submit = h("button", { type: "submit" }, name);
  const text = h("textarea", { rows: "24", class: "json", spellcheck: "false", "aria-label": "The same as JSON" });
  const other = button("", swap, "quiet");
  let part = null; // the editor, or null while it is written as JSON
  const read = (places) => (part ? part.read("", places) : JSON.parse(text.value));

  function draw(value) {
    part = editor(openapi, "", top, value);
    put(shown, part.element);
    other.textContent = "As JSON";
  }

  function swap() {
    put(general);
    try {
      const value = read(new Map());
      if (!part) return draw(value);
      text.value = JSON.stringify(value, null, 2);
      part = null;
      put(shown, text);
      other.textContent = "As a form";
    } catch (error) {
      refused(error, {}, general);
    }
  }

  async function submitted(event) {
    event.preventDefault();
    put(general);
    const places = new Map();
    let first = null;
    submit.disabled = true;
    try {
      const value = read(places);
      for (const each of places.values()) each.fault("");
      await done(await send(value));
    } catch (error) {
      first = told(error, places) ?? submit;
    }
    submit.disabled = false;
    if (mayFocus(submit.form)) first?.focus();
  }

  // Each fault is told at the value that it is of, or else at what that is in.
  function told(error, places) {
    const fields = {};
    for (const { pointer } of error.errors ?? []) {
      let at = pointer;
      while (at && !places.has(at)) at = at.slice(0, at.lastIndexOf("/"));
      if (at) fields[pointer.split("/").filter(Boolean).join(".")] = places.get(at);
    }
    const first = refused(error, fields, general);
    for (const fault of shown.querySelectorAll(".fault:not(:empty)"))
      for (let each = fault; each !== shown; each = each.parentElement) if (each.matches("details")) each.open = true;
    return first;
  }

  draw(start);
  return h(
    "form",
    { class: "command", "aria-label": name, novalidate: true, onsubmit: submitted },
    note ? h("p", { class: "note" }, note) : null,
    shown,
    general,
    h(
      "div",
      { class: "buttons" },
      submit,
      other,
      cancel ? button("Cancel", cancel, "quiet") : null,
    ),
  );
}
