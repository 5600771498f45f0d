// Forms, and forms of commands made from the API's own document: a new command has one without a
// line here.

import { button, h, mayFocus, put, shown } from "./dom.js";
import { field, kindOf, resolved } from "./fields.js";

const UNKNOWN = "It is not known whether this was done";
const TITLES = {
  412: "It was changed meanwhile",
  idempotency_key_reused: "What this form was sent with before has been done",
};
let kept = null;

export async function document_(api) {
  kept ??= api.get("/openapi.json").then(plain).catch((error) => {
    kept = null;
    throw error;
  });
  return kept;
}

// Without the backticks that its texts have.
const plain = (openapi) =>
  JSON.parse(JSON.stringify(openapi), (key, value) =>
    ["summary", "description"].includes(key) && typeof value === "string" ? value.replaceAll("`", "") : value,
  );

// What the document says of a command, as `/tickets/{ticket_id}/<verb>` or `/bulk/<verb>`:
// { summary, description, properties, required }
export async function described(api, path) {
  const openapi = await document_(api);
  const { post } = openapi.paths[path];
  let schema = resolved(openapi, post.requestBody?.content["application/json"].schema) ?? {};
  if (path.startsWith("/bulk/")) schema = resolved(openapi, schema.properties.command);
  if (schema.anyOf) schema = resolved(openapi, schema.anyOf[0]);
  return {
    summary: post.summary,
    description: post.description,
    moves: post["x-moves"] ?? {}, // from which status to which
    properties: schema.properties ?? {},
    required: new Set(schema.required ?? []),
    kind: (name) => kindOf(openapi, schema.properties[name]),
  };
}

// The verbs of commands that are for a role, below "/tickets/{ticket_id}/" or "/bulk/": [[verb, summary]]
export async function commands(api, role, below) {
  const { paths } = await document_(api);
  return Object.entries(paths)
    .filter(([path, { post }]) => path.startsWith(below) && post?.["x-roles"].includes(role))
    .map(([path, { post }]) => [path.slice(below.length), post.summary.replace(", many at once", "")]);
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Whether nobody knows if it was done; else it was not, and what is sent next is another.
export const isUnknown = ({ status }) => !status || status >= 500;

function titleOf(error) {
  const next = error.isOnce ? "send it again, and it is done once" : "look before you send it again";
  if (error.status === 0 || error.status >= 500) return `${UNKNOWN}; ${next}`;
  return TITLES[error.status] ?? TITLES[error.code] ?? "Refused";
}

// Puts what was refused where it belongs: `fields` by name, the rest into `general`; an error's
// `meanwhile` are lines that say what has changed.
export function refused(error, fields, general) {
  const placed = (pointer) => {
    const steps = pointer.split("/").filter(Boolean);
    return fields[steps.join(".")] ?? steps.map((step) => fields[step]).find(Boolean);
  };
  const told = new Map(); // by field, for there may be several faults of one
  for (const each of error.errors ?? []) {
    const at = placed(each.pointer);
    if (!at) continue;
    told.set(at, [...(told.get(at) ?? []), each.detail ?? shown(each)]);
    at.fault(told.get(at).join("; "));
  }
  const isTold = told.size && error.code === "invalid_request" && error.errors.every(({ pointer }) => placed(pointer));
  if (isTold) return told.keys().next().value;
  put(
    general,
    h(
      "div",
      { class: "trouble" },
      h("strong", {}, titleOf(error)),
      h("p", {}, error.detail ?? error.message),
      error.meanwhile?.length
        ? h(
            "div",
            { class: "meanwhile" },
            "Meanwhile:",
            h("ul", {}, error.meanwhile.map((line) => h("li", {}, line))),
          )
        : null,
      error.status === 412
        ? h("p", {}, "What you typed is still here: send it again if it still holds.")
        : null,
      error.code ? h("p", { class: "code" }, error.code) : null,
    ),
  );
  return told.keys().next().value ?? null;
}

// A form of fields by name; those called `a.b` come as `b` of an object `a`. `send` takes what was
// said and a key by which it is done once; `inline` is one without a title; `sure` is asked before
// what cannot be undone is sent; one that `isWhole` is not sent while a required field is empty.
export function form({ name, note, fields, action = name, sure, isWhole, send, done = () => {}, cancel, inline = false }) {
  let key = newKey(); // sent again, it is not done twice
  const general = h("div", { role: "alert" });
  const once = (event) => event.detail > 1 && event.preventDefault(); // a double click is no second thought
  const primary = h("button", { type: "submit", class: inline ? "small" : null, onclick: once, onblur: rest }, action);
  return h(
    "form",
    { class: inline ? "inline" : "command", "aria-label": name, novalidate: true, onsubmit: submit },
    inline ? null : h("h2", {}, name),
    note ? h("p", { class: "note" }, note) : null,
    Object.values(fields).map(({ row }) => row),
    general,
    h(
      "div",
      { class: "buttons" },
      primary,
      cancel
        ? button("Cancel", cancel, inline ? "quiet small" : "quiet")
        : null,
    ),
  );

  function rest() {
    primary.textContent = action;
    primary.classList.remove("sure");
  }

  async function submit(event) {
    event.preventDefault();
    if (sure && primary.textContent !== sure) {
      primary.textContent = sure;
      primary.classList.add("sure");
      return primary.focus();
    }
    put(general);
    for (const each of Object.values(fields)) each.fault("");
    primary.disabled = true;
    let first = null;
    try {
      const body = await said();
      if (body) await done(await send(body, key));
    } catch (error) {
      first = refused(error, fields, general) ?? primary;
      if (!isUnknown(error)) key = newKey();
    }
    primary.disabled = false;
    rest();
    if (mayFocus(primary.form)) first?.focus();
  }

  async function said() {
    const body = {};
    for (const [path, { read, required, kind, fault, focus }] of Object.entries(fields)) {
      let value;
      try {
        value = await read();
      } catch (error) {
        if (error.status !== undefined) throw error;
        fault(error.message);
        focus();
        return null;
      }
      const isEmpty = value === null || (typeof value === "object" && !Object.keys(value).length);
      if (isEmpty && !required) continue;
      if (isEmpty && isWhole) {
        fault("Fill this in.");
        focus();
        return null;
      }
      // What is needed and empty is for the API to refuse, in its words.
      const [outer, inner] = path.split(".");
      const given = value === null && !kind.nullable ? "" : value;
      if (inner) (body[outer] ??= {})[inner] = given;
      else body[path] = given;
    }
    return body;
  }
}

// The form of a command. `given`: what fields begin with; `more`: fields that come first; `fixed`:
// what is said without being asked; `group`, `status`: the ticket's. A ticket's custom fields are
// asked for as the desk has them.
export async function commandForm(
  context,
  { path, name, action, sure, isWhole, given = {}, fixed = {}, more = {}, group, status, send, done, cancel },
) {
  const { api, session } = context;
  const { fields: kinds } = await session.known.desk();
  const about = await described(api, path);
  const fields = { ...more };
  for (const property of Object.keys(about.properties)) {
    if (property in fixed) continue;
    const kind = await kindFor(session, about, property, group);
    if (property === "fields" && kind.type === "map" && Object.keys(kinds).length) {
      for (const [key, each] of Object.entries(kinds))
        fields[`fields.${key}`] = customField(key, each, { required: each.required_on === "open" });
      continue;
    }
    if (property === "key" && Object.keys(kinds).length)
      Object.assign(kind, { type: "choice", choices: Object.keys(kinds) });
    if (property === "status" && status) kind.choices = [...(about.moves[status] ?? []), status];
    const required = about.required.has(property);
    fields[property] = field(kind, { name: property, value: given[property] ?? kind.start, required });
  }
  // A field that the desk defines is asked for as its kind wants it.
  fields.key?.element.addEventListener("change", ({ target: { value } }) => {
    if (!Object.hasOwn(kinds, value)) return;
    const chosen = customField(value, kinds[value], { label: "value" });
    fields.value.row.replaceWith(chosen.row);
    fields.value = Object.assign(chosen, { required: true });
  });
  return form({
    name: name ?? about.summary,
    note: about.description.split("\n\n")[0],
    action,
    sure,
    isWhole,
    fields,
    send: (body, key) => send({ ...fixed, ...body }, key),
    done,
    cancel,
  });
}

// The kind of a command's field, with what the desk knows of it; `group`: the ticket's.
export async function kindFor({ known }, about, property, group) {
  const suggestions = await known.suggestions(property, group);
  const isOneOf = property === "group" && suggestions.length;
  const choice = isOneOf ? { type: "choice", choices: suggestions } : {};
  return { ...about.kind(property), suggestions, find: (text) => known.find(text), ...choice };
}

// The editor of a custom field; `kind` is the desk's, or undefined for one that it does not define.
export function customField(key, kind, more = {}) {
  return field({ type: "any", ...kind, nullable: true, hint: "" }, { name: key, label: key, ...more });
}
