// Forms of commands, made from the API's own document: a new command has a form without a line here.

import { h, put, shown, words } from "./dom.js";

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

// All commands on a ticket: [{ verb, path, summary, description }]
export async function commands(api) {
  const openapi = await document_(api);
  return Object.entries(openapi.paths)
    .filter(([path, methods]) => path.startsWith("/tickets/{ticket_id}/") && methods.post)
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
  if (first.type === "array") {
    const input = h("input", { ...described, type: "text" });
    return {
      element: input,
      note: "several, with commas between",
      read: () =>
        input.value
          .split(",")
          .map((each) => each.trim())
          .filter(Boolean),
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
            .filter((line) => line.includes("="))
            .map((line) => [line.split("=")[0].trim(), value(line.slice(line.indexOf("=") + 1).trim())]),
        ),
    };
  }
  if (some.length > 1) {
    const input = h("input", { ...described, type: "text" });
    return {
      element: input,
      note: canBeNull ? "text, a number, true or false; empty for none" : "text, a number, true or false",
      read: () => (input.value === "" ? null : value(input.value)),
    };
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

const value = (text) =>
  /^-?\d{1,15}$/.test(text) ? Number(text) : text === "true" ? true : text === "false" ? false : text;

// `path` as the document has it; `target`: the ticket, `version`: what was seen of it.
export async function commandForm(api, { path, name, target, version, given = {}, done, cancel }) {
  const openapi = await document_(api);
  const { post } = openapi.paths[path];
  const schema = resolved(openapi, post.requestBody?.content["application/json"].schema) ?? {};
  const properties = Object.entries(
    (schema.anyOf ? resolved(openapi, schema.anyOf[0]) : schema).properties ?? {},
  );
  const required = new Set(schema.required ?? []);
  const key = crypto.randomUUID(); // sent again, it is not done twice
  const fields = new Map();
  const general = h("div", { role: "alert" });
  const rows = properties.map(([field, inner]) => {
    const made = control(openapi, field, inner);
    const title = inner.description ?? made.note ?? "";
    const note = h(
      "p",
      { id: `field-${field}-note`, class: "note" },
      [title, inner.description && made.note].filter(Boolean).join(" "),
    );
    const fault = h("p", { class: "fault" });
    if (required.has(field)) made.element.required = true;
    if (given[field] !== undefined && given[field] !== null)
      (
        made.write ??
        ((v) => {
          made.element.value = v;
        })
      )(given[field]);
    fields.set(field, { ...made, fault });
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
    for (const [field, { read }] of fields) {
      const said = read();
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
      done(await api.command(path.replace("{ticket_id}", target), body, { key, version }));
    } catch (error) {
      refused(error);
    } finally {
      send.disabled = false;
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
        h("strong", {}, error.status === 412 ? "Somebody else was first" : "Refused"),
        h("p", {}, error.detail ?? error.message),
        error.code ? h("p", { class: "code" }, error.code) : null,
      ),
    );
    (first ?? send).focus();
  }
}
