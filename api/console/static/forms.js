// Forms of commands, made from the API's own document: a new command has a form without a line here.

import { h, put, shown, words } from "./dom.js";

const TITLES = {
  0: "It is not known whether this was done; send it again, and it is done once",
  412: "Somebody else was first",
  503: "It is not known whether this was done; send it again, and it is done once",
  idempotency_key_reused: "What this form was sent with before has been done",
};
const LONG = 300; // characters; then it is a text of several lines
let kept = null;

export async function document_(api) {
  kept ??= api.get("/openapi.json").catch((error) => {
    kept = null;
    throw error;
  });
  return kept;
}

const resolved = (openapi, schema) =>
  schema?.$ref ? openapi.components.schemas[schema.$ref.split("/").at(-1)] : schema;

// The commands on a ticket that are for a role: [{ verb, path, summary, description }]
export async function commands(api, role) {
  const openapi = await document_(api);
  return Object.entries(openapi.paths)
    .filter(
      ([path, methods]) =>
        path.startsWith("/tickets/{ticket_id}/") && methods.post?.["x-roles"].includes(role),
    )
    .map(([path, { post }]) => ({
      verb: path.split("/").at(-1),
      path,
      summary: post.summary,
      description: post.description,
    }));
}

function control(openapi, name, schema) {
  schema = resolved(openapi, schema);
  const parts = (schema.anyOf ?? [schema]).map((part) => resolved(openapi, part));
  const some = parts.filter((part) => part.type !== "null");
  const canBeNull = parts.length > some.length;
  const [first] = some;
  const id = `field-${name}`;
  const described = { id, name, "aria-describedby": `${id}-note` };
  if (some.length === 1 && first.enum) {
    const select = h(
      "select",
      described,
      canBeNull ? h("option", { value: "" }, "–") : null,
      first.enum.map((value) => h("option", { value }, words(String(value)))),
    );
    return { element: select, read: () => select.value || null };
  }
  if (some.length === 1 && first.type === "boolean") {
    const box = h("input", { ...described, type: "checkbox" });
    return { element: box, read: () => box.checked };
  }
  if (some.length === 1 && ["integer", "number"].includes(first.type)) {
    const input = h("input", {
      ...described,
      type: "number",
      step: first.type === "integer" ? "1" : "any",
      min: first.minimum,
      max: first.maximum,
    });
    return { element: input, read: () => (input.value === "" ? null : Number(input.value)) };
  }
  if (first.type === "array" && first.items.enum) {
    const options = first.items.enum.map((value) => h("option", { value }, value));
    const select = h("select", { ...described, multiple: true }, options);
    const chosen = () => [...select.selectedOptions].map((option) => option.value);
    return { element: select, note: "one or several", read: () => (chosen().length ? chosen() : null) };
  }
  if (first.type === "array") {
    const input = h("input", { ...described, type: "text" });
    return {
      element: input,
      note: "several, with commas between",
      read: () => listed(input.value),
      write: (value) => {
        input.value = value.join(", ");
      },
    };
  }
  if (first.type === "object") {
    const area = h("textarea", { ...described, rows: "2" });
    return {
      element: area,
      note: "one name=value a line",
      read: () =>
        Object.fromEntries(
          area.value
            .split("\n")
            .filter((line) => line.trim())
            .map(named),
        ),
    };
  }
  if (some.length > 1) {
    const input = h("input", { ...described, type: "text" });
    return {
      element: input,
      note: `text, a number, true or false, or several: [one, another]${canBeNull ? "; empty for none" : ""}`,
      read: () => (input.value === "" ? null : value(input.value)),
    };
  }
  if (first.format === "date") {
    const input = h("input", { ...described, type: "date" });
    return { element: input, read: () => input.value || null };
  }
  if (first.format === "date-time") {
    const input = h("input", { ...described, type: "datetime-local" });
    return {
      element: input,
      note: "in your time zone",
      read: () => (input.value ? new Date(input.value).toISOString() : null),
    };
  }
  if ((first.maxLength ?? 0) > LONG) {
    const area = h("textarea", { ...described, rows: "4", maxlength: String(first.maxLength) });
    return { element: area, read: () => area.value || null };
  }
  const input = h("input", {
    ...described,
    type: "text",
    maxlength: first.maxLength ? String(first.maxLength) : undefined,
    autocomplete: "off",
  });
  return { element: input, read: () => input.value || null };
}

const listed = (text) => text.split(",").map((each) => each.trim()).filter(Boolean);

// What a custom field of the desk takes, as a schema.
function ofKind({ type, choices }) {
  const kinds = {
    integer: { type: "integer" },
    boolean: { type: "boolean" },
    choice: { anyOf: [{ enum: choices }, { type: "null" }] },
    choices: { type: "array", items: { enum: choices } },
    date: { type: "string", format: "date" },
  };
  return kinds[type] ?? { type: "string" };
}

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

function random() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// `path` as the document has it; `target`: the ticket, `version`: what was seen of it.
// It is called when it is sent; `conflict` when somebody else was first.
export async function commandForm(
  api,
  { path, name, target, version = () => undefined, conflict, given = {}, kinds = {}, done, cancel },
) {
  const openapi = await document_(api);
  const { post } = openapi.paths[path];
  const schema = resolved(openapi, post.requestBody?.content["application/json"].schema) ?? {};
  const properties = Object.entries(
    (schema.anyOf ? resolved(openapi, schema.anyOf[0]) : schema).properties ?? {},
  ).map(([field, inner]) => {
    const names = Object.keys(kinds);
    return [field, field === "key" && names.length ? { ...inner, enum: names } : inner];
  });
  const required = new Set(schema.required ?? []);
  const key = random(); // sent again, it is not done twice
  const fields = new Map();
  const general = h("div", { role: "alert" });
  const rows = properties.map(([field, inner]) => {
    const made = control(openapi, field, inner);
    made.write ??= (start) => {
      if (made.element.type === "checkbox") made.element.checked = start;
      else if (typeof start !== "object") made.element.value = start;
    };
    const title = inner.description ?? made.note ?? "";
    const note = h(
      "p",
      { id: `field-${field}-note`, class: "note" },
      [title, inner.description && made.note].filter(Boolean).join(" "),
    );
    const fault = h("p", { class: "fault" });
    if (required.has(field)) made.element.required = true;
    const start = given[field] ?? inner.default;
    if (start !== undefined && start !== null) made.write(start);
    else if (made.element.matches("select") && required.has(field)) {
      made.element.prepend(h("option", { value: "" }, "choose …"));
      made.element.value = "";
    }
    fault.id = `field-${field}-fault`;
    made.element.setAttribute("aria-describedby", `${note.id} ${fault.id}`);
    fields.set(field, { ...made, fault, note });
    return h(
      "div",
      { class: "field" },
      h(
        "label",
        { for: `field-${field}` },
        words(field),
        required.has(field) ? h("span", { class: "required" }, " (required)") : null,
      ),
      made.element,
      note,
      fault,
    );
  });
  // A field that the desk defines is asked for as its kind wants it.
  fields.get("key")?.element.addEventListener("change", ({ target: { value: chosen } }) => {
    const row = fields.get("value");
    const [, any] = properties.find(([field]) => field === "value");
    const made = control(openapi, "value", kinds[chosen] ? ofKind(kinds[chosen]) : any);
    made.element.setAttribute("aria-describedby", row.element.getAttribute("aria-describedby"));
    row.element.replaceWith(made.element);
    row.note.textContent = made.note ?? "";
    Object.assign(row, made);
  });
  const send = h("button", { type: "submit" }, name);
  return h(
    "form",
    { class: "command", "aria-label": name, novalidate: true, onsubmit: submit },
    h("h2", {}, name),
    h("p", { class: "note" }, post.description),
    rows,
    general,
    h(
      "div",
      { class: "buttons" },
      send,
      h("button", { type: "button", class: "quiet", onclick: cancel }, "Cancel"),
    ),
  );

  async function submit(event) {
    event.preventDefault();
    put(general);
    for (const { fault, element } of fields.values()) {
      fault.textContent = "";
      element.removeAttribute("aria-invalid");
    }
    const body = {};
    for (const [field, { read, element, fault }] of fields) {
      let said;
      try {
        said = read();
      } catch (error) {
        fault.textContent = error.message;
        element.setAttribute("aria-invalid", "true");
        return element.focus();
      }
      const isSaid =
        said !== null &&
        !(Array.isArray(said) && !said.length && !required.has(field)) &&
        !(typeof said === "object" && !Array.isArray(said) && !Object.keys(said).length);
      if (isSaid) body[field] = said;
      else if (required.has(field))
        body[field] = Array.isArray(said)
          ? []
          : properties.find(([each]) => each === field)[1].anyOf
            ? null
            : "";
    }
    send.disabled = true;
    try {
      const answer = await api.command(path.replace("{ticket_id}", target), body, {
        key,
        version: version(),
      });
      send.disabled = false;
      await done(answer);
    } catch (error) {
      send.disabled = false;
      if (error.status === 412) await conflict?.();
      refused(error);
    }
  }

  function refused(error) {
    let first = null;
    for (const each of error.errors ?? []) {
      const field = fields.get(each.pointer?.split("/").filter(Boolean)[0] ?? each.parameter);
      if (!field) continue;
      field.fault.textContent = each.detail ?? shown(each);
      field.element.setAttribute("aria-invalid", "true");
      first ??= field.element;
    }
    put(
      general,
      h(
        "div",
        { class: "trouble" },
        h("strong", {}, TITLES[error.status] ?? TITLES[error.code] ?? "Refused"),
        h("p", {}, error.detail ?? error.message),
        error.status === 412
          ? h("p", {}, "What has happened is shown now. Send it again if it still holds.")
          : null,
        error.code ? h("p", { class: "code" }, error.code) : null,
      ),
    );
    (first ?? send).focus();
  }
}
