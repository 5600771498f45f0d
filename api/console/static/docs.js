// The API's pages: every route of the OpenAPI document, and a form to try each. Nothing is loaded
// from anywhere else, and the key that is entered is kept in this page alone, until it is closed.

import { h, put, trouble, words } from "./dom.js";

const main = document.getElementById("main");
const key = h("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false" });
let openapi;

const resolved = (thing) =>
  thing?.$ref ? thing.$ref.slice(2).split("/").reduce((at, name) => at[name], openapi) : thing;

// What a schema takes, in a line: "text, 1 to 200 characters", or the name of another schema.
function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${kind(schema.items) || "anything"}${bounds(schema, "Items")}`;
  if (schema.type === "object" && schema.additionalProperties)
    return `object of ${kind(schema.additionalProperties) || "anything"}${bounds(schema, "Properties")}`;
  const named = schema.format ? `${schema.type} (${schema.format})` : (schema.type ?? "anything");
  const range = [
    schema.minimum !== undefined && `from ${schema.minimum}`,
    schema.maximum !== undefined && `to ${schema.maximum}`,
    schema.pattern && `like ${schema.pattern}`,
  ].filter(Boolean);
  return `${named}${bounds(schema, "Length")}${range.length ? `, ${range.join(" ")}` : ""}`;
}

function bounds(schema, of) {
  const [least, most] = [schema[`min${of}`], schema[`max${of}`]];
  if (least === undefined && most === undefined) return "";
  return most === undefined ? `, at least ${least}` : `, ${least ?? 0} to ${most}`;
}

// The fields of a schema, and below them those of the schemas that they name.
function fields(schema, seen = []) {
  const own = resolved(schema);
  const rows = Object.entries(own?.properties ?? {}).map(([name, field]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("code", {}, name), own.required?.includes(name) ? " (needed)" : ""),
      h("td", {}, kind(field)),
      h("td", {}, field.description ?? ""),
    ),
  );
  const inner = references(own?.properties).filter((ref) => !seen.includes(ref));
  return [
    rows.length
      ? h("div", { class: "scroll", tabindex: "0" }, h("table", {}, h("tbody", {}, rows)))
      : h("p", {}, kind(own)),
    inner.map((ref) =>
      h(
        "details",
        {},
        h("summary", {}, ref.split("/").at(-1)),
        resolved({ $ref: ref }).description ?? "",
        lazily(() => fields({ $ref: ref }, [...seen, ...inner])),
      ),
    ),
  ];
}

function references(node) {
  if (node === null || typeof node !== "object") return [];
  if (typeof node.$ref === "string") return [node.$ref];
  return [...new Set(Object.values(node).flatMap(references))];
}

// Made when it is first opened: all of it at once would be some thousand rows.
function lazily(make) {
  const place = h("div");
  new IntersectionObserver((seen, watching) => {
    if (!seen.some((each) => each.isIntersecting)) return;
    watching.disconnect();
    put(place, make());
  }).observe(place);
  return place;
}

function example(schema, seen = []) {
  const own = resolved(schema);
  if (own?.examples) return own.examples[0];
  if (own?.default !== undefined) return own.default;
  if (own?.anyOf) return example(own.anyOf[0], seen);
  if (own?.enum) return own.enum[0];
  if (own?.type === "array") return own.minItems ? [example(own.items, seen)] : [];
  if (own?.properties) {
    if (seen.includes(own)) return {};
    const needed = Object.entries(own.properties).filter(([name]) => own.required?.includes(name));
    return Object.fromEntries(needed.map(([name, each]) => [name, example(each, [...seen, own])]));
  }
  return { string: "", integer: 0, number: 0, boolean: false, object: {} }[own?.type] ?? null;
}

const body = (operation) => operation.requestBody?.content["application/json"]?.schema;

function tried(method, path, operation, parameters) {
  const inputs = parameters.map((parameter, n) => {
    const id = `${operation.operationId}-${n}`;
    const input = h("input", { id, type: "text", autocomplete: "off" });
    const label = h("label", { for: id }, `${parameter.name} (${parameter.in})`);
    return { parameter, input, row: h("div", { class: "field" }, label, input) };
  });
  const schema = body(operation);
  const id = `${operation.operationId}-body`;
  const content = schema && h("textarea", { id, rows: "6", spellcheck: "false" });
  if (content) content.value = JSON.stringify(example(schema), null, 2);
  const answer = h("div", { "aria-live": "polite" });

  async function send(event) {
    event.preventDefault();
    const query = new URLSearchParams();
    const headers = new Headers();
    let target = path;
    for (const { parameter, input } of inputs) {
      if (parameter.in === "path") {
        if (!input.value) return input.focus();
        target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      } else if (input.value && parameter.in === "query") {
        const several = parameter.schema?.type === "array" ? input.value.split(",") : [input.value];
        for (const each of several) query.append(parameter.name, each.trim());
      } else if (input.value) headers.set(parameter.name, input.value);
    }
    if (key.value) headers.set("Authorization", `Bearer ${key.value.trim()}`);
    if (content) headers.set("Content-Type", "application/json");
    const asked = query.size ? `${target}?${query}` : target;
    put(answer, h("p", {}, `${method.toUpperCase()} ${asked} …`));
    try {
      const got = await fetch(asked, { method: method.toUpperCase(), headers, body: content?.value, signal: AbortSignal.timeout(30000) });
      put(answer, h("p", {}, h("strong", {}, `${got.status} `), `${method.toUpperCase()} ${asked}`));
      answer.append(h("pre", { tabindex: "0" }, readable(await begun(got))));
    } catch (error) {
      put(answer, trouble(error));
    }
  }

  return h(
    "form",
    { onsubmit: send, "aria-label": `Try ${method.toUpperCase()} ${path}` },
    inputs.map(({ row }) => row),
    content ? h("div", { class: "field" }, h("label", { for: id }, "Body"), content) : null,
    h("button", { type: "submit" }, "Send"),
    answer,
  );
}

// A stream has no end, and an export may be long: what has come after a while, or so much of it.
async function begun(answer) {
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  const late = new Promise((go) => setTimeout(() => go({ done: true }), 3000));
  let text = "";
  while (reader && text.length < 200000) {
    const { value, done } = await Promise.race([reader.read(), late]);
    if (done) break;
    text += value;
  }
  reader?.cancel().catch(() => {});
  return text;
}

function readable(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function operation(method, path, told) {
  const parameters = (told.parameters ?? []).map(resolved);
  const roles = told["x-roles"];
  const answers = Object.entries(told.responses).map(([status, response]) => {
    const schema = Object.values(response.content ?? {})[0]?.schema;
    return h(
      "li",
      {},
      h("strong", {}, `${status} `),
      response.description,
      schema && status < 300 ? lazily(() => fields(schema)) : null,
    );
  });
  const inside = () => [
    h("p", {}, told.description ?? ""),
    roles ? h("p", {}, `For: ${roles.join(", ")}`) : h("p", {}, "For anybody, without a key"),
    parameters.length
      ? h(
          "ul",
          {},
          parameters.map((each) =>
            h("li", {}, h("code", {}, each.name), ` (${each.in}): ${kind(each.schema)}. `, each.description ?? ""),
          ),
        )
      : null,
    body(told) ? [h("h3", {}, "Body"), fields(body(told))] : null,
    h("h3", {}, "Answers"),
    h("ul", {}, answers),
    h("h3", {}, "Try it"),
    tried(method, path, told, parameters),
  ];
  const place = h("div");
  const opened = h(
    "details",
    { id: told.operationId, class: "operation" },
    h("summary", {}, h("code", {}, `${method.toUpperCase()} ${path}`), ` ${told.summary ?? words(told.operationId)}`),
    place,
  );
  opened.addEventListener("toggle", () => {
    if (opened.open && !place.childElementCount) put(place, inside());
  });
  return opened;
}

function shown() {
  const of = new Map();
  for (const [path, methods] of Object.entries(openapi.paths)) {
    for (const [method, told] of Object.entries(methods)) {
      const tag = told.tags?.[0] ?? "other";
      of.set(tag, [...(of.get(tag) ?? []), operation(method, path, told)]);
    }
  }
  put(
    main,
    h("h1", {}, `${openapi.info.title} ${openapi.info.version}`),
    openapi.info.description.split("\n\n").map((part) => h("p", {}, part)),
    h("div", { class: "field" }, h("label", { for: "key" }, "Key, for what is tried here"), key),
    [...of].map(([tag, operations]) => h("section", {}, h("h2", {}, words(tag)), operations)),
  );
  const asked = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (asked?.matches("details")) {
    asked.open = true;
    asked.scrollIntoView();
  }
}

async function begin() {
  try {
    const answer = await fetch("/openapi.json");
    if (!answer.ok) throw new Error(`answer ${answer.status}`);
    openapi = await answer.json();
    shown();
  } catch (error) {
    put(main, trouble(error, begin));
  }
}

begin();
