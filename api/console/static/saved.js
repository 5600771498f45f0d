// Saved views: made from the search that is shown, changed and deleted.

import { document_, form } from "./forms.js";
import { field, kindOf } from "./fields.js";
import { button, h, inDialog } from "./dom.js";
import { twice } from "./parts.js";

const TERM = /(?:[^\s"]|"(?:[^"\\]|\\.)*")+/g;
const IS = { "is:unsolved": ["solved", false], "is:solved": ["solved", true], "is:spam": ["spam", true] };
const KEPT = /^(status|priority|group|assignee|requester|tag):(.+)$/;
const LIMITS =
  "A view keeps what can be filled in here, all of which must hold: no words, no times, no custom fields, no order. Everybody on the desk sees it.";
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
  const at = (name) => `/views/${encodeURIComponent(name)}`;

  function edit(view) {
    const { filter, others } = view ? { filter: view.filter, others: [] } : filterOf(q);
    const title = view ? `Change the view ${view.name}` : "Save a view";
    return inDialog(title, async (close) => {
      const openapi = await document_(api);
      const fields = view ? {} : { name: field({ type: "text" }, { name: "name", required: true, hint: "a-z, 0-9, - and _" }) };
      for (const [name, schema] of Object.entries(openapi.components.schemas.TicketFilter.properties)) {
        const kind = { ...kindOf(openapi, schema), suggestions: await session.known.suggestions(name) };
        const hint = NONE.includes(name) ? "none for those without one" : kind.hint;
        const isNone = NONE.includes(name) && filter[name] === "";
        fields[name] = field(kind, { name, value: isNone ? "none" : filter[name], hint });
      }
      const left = others.length ? ` Not kept of this search, as no view has it: ${others.join(" ")}` : "";
      return form({
        name: title,
        note: `${LIMITS}${left}`,
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
          close();
          say("The view was saved.");
          open(name);
        },
        cancel: close,
      });
    });
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
    button("Save a view …", () => edit(), "quiet small"),
    current ? [button("Change …", () => edit(current), "quiet small"), twice("Delete", "Really delete it?", remove)] : null,
  );
}
