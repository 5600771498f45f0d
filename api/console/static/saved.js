// Saved views: made from the search that is shown, changed and deleted.

import { document_, form } from "./forms.js";
import { field, kindOf } from "./fields.js";
import { h, loading, modal, put, trouble } from "./dom.js";
import { twice } from "./parts.js";

const TERM = /(?:[^\s"]|"(?:[^"\\]|\\.)*")+/g;
const IS = { "is:unsolved": ["solved", false], "is:solved": ["solved", true], "is:spam": ["spam", true] };
const KEPT = /^(status|priority|group|assignee|requester|tag):(.+)$/;
const NONE = ["group", "assignee"]; // of which `none` is an empty text to the API

// What a saved view can keep of a search, and the terms that it cannot.
function filterOf(q) {
  const filter = {};
  const others = [];
  for (const term of q.match(TERM) ?? []) {
    const [, key, text = ""] = KEPT.exec(term) ?? [];
    const [name, value] = IS[term] ?? [key, text.replace(/^"(.*)"$/, "$1").replace(/\\(.)/g, "$1")];
    if (name && !(name in filter)) filter[name] = value;
    else others.push(term);
  }
  return { filter, others };
}

// Buttons below the list of saved views, for those who may change them. `q` is the search that is
// shown, `current` the view, if one is; `open(name)` shows a view, or all tickets.
export function savedViews({ api, session, say }, { views, q, current, open }) {
  const button = (name, act) => h("button", { type: "button", class: "quiet small", onclick: act }, name);
  const at = (name) => `/views/${encodeURIComponent(name)}`;

  async function edit(view) {
    const { filter, others } = view ? { filter: view.filter, others: [] } : filterOf(q);
    const title = view ? `Change the view ${view.name}` : "Save a view";
    const dialog = modal(title, loading("the form"));
    try {
      const openapi = await document_(api);
      const fields = view ? {} : { name: field({ type: "text" }, { name: "name", required: true, hint: "a-z, 0-9, - and _" }) };
      for (const [name, schema] of Object.entries(openapi.components.schemas.TicketFilter.properties)) {
        const kind = { ...kindOf(openapi, schema), suggestions: await session.known.suggestions(name) };
        const hint = NONE.includes(name) ? "none for those without one" : kind.hint;
        const isNone = NONE.includes(name) && filter[name] === "";
        fields[name] = field(kind, { name, value: isNone ? "none" : filter[name], hint });
      }
      const left = others.length ? ` Not kept of this search, as no view has it: ${others.join(" ")}` : "";
      const content = form({
        name: title,
        note: `All that is filled in must hold. Everybody on the desk sees the view.${left}`,
        action: "Save",
        fields,
        send: async ({ name = view?.name, ...body }) => {
          if (!view && views.some((each) => each.name === name)) {
            const detail = "there is a view of that name: change it, or choose another name";
            throw Object.assign(new Error(detail), { status: 409, errors: [{ parameter: "name", detail }] });
          }
          for (const each of NONE) if (body[each] === "none") body[each] = "";
          return api.ask("PUT", at(name), { body });
        },
        done: ({ name }) => {
          dialog.close();
          say("The view was saved.");
          open(name);
        },
        cancel: () => dialog.close(),
      });
      put(dialog, content);
      content.querySelector("input, select").focus();
    } catch (error) {
      put(dialog, trouble(error));
    }
  }

  async function remove() {
    try {
      await api.ask("DELETE", at(current.name));
      say("The view was deleted.");
      open();
    } catch (error) {
      say(error.message);
    }
  }

  return h(
    "p",
    { class: "buttons" },
    button("Save a view …", () => edit()),
    current ? [button("Change …", () => edit(current)), twice("Delete", "Really delete it?", remove)] : null,
  );
}
