// The system: a page of its own for each part of it that is for the caller's role and key.

import { h, put, words } from "./dom.js";
import { keys } from "./keys.js";
import { persons } from "./persons.js";
import { projections } from "./projections.js";
import { setUp } from "./set-up.js";
import { webhooks } from "./webhooks.js";

const OVERSEERS = ["supervisor", "auditor"];
const PARTS = {
  projections: { show: projections, scope: "operate", roles: [...OVERSEERS, "admin"] },
  webhooks: { show: webhooks, scope: "feed", roles: OVERSEERS },
  desk: { show: setUp, scope: "desk", roles: [...OVERSEERS, "admin"], name: "Desk set-up" },
  keys: { show: keys, scope: "keys", roles: ["admin"] },
  erasures: { show: persons, scope: "persons", roles: ["admin"] },
};

export const partsOf = (me) =>
  Object.keys(PARTS).filter((name) => PARTS[name].roles.includes(me.role) && me.scopes.includes(PARTS[name].scope));

export function system(main, context) {
  const mine = partsOf(context.me);
  const part = mine.includes(context.id) ? context.id : mine[0];
  const titled = (name) => PARTS[name].name ?? words(name)[0].toUpperCase() + words(name).slice(1);
  const place = h("div");
  put(
    main,
    h("div", { class: "title" }, h("h1", {}, "System")),
    h(
      "nav",
      { class: "parts", "aria-label": "System" },
      mine.map((name) =>
        h(
          "a",
          { href: `#/system/${name}`, "aria-current": name === part ? "page" : undefined },
          titled(name),
        ),
      ),
    ),
    context.me.role === "admin" ? forAnAdmin() : null,
    place,
  );
  return PARTS[part].show(place, context);
}

// The first key that a server makes is an admin's, who sees no ticket: what to do next.
const forAnAdmin = () =>
  h(
    "p",
    { class: "banner" },
    "An admin sees no tickets. ",
    h("a", { href: "#/system/keys" }, "Make a key"),
    " for each agent and supervisor, ",
    h("a", { href: "#/system/desk" }, "set the desk up"),
    ", and sign in with the key of an agent to work on tickets. ",
    h("code", {}, "make demo"),
    " loads some to look at.",
  );
