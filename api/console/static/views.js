// The side of the list: views of the console's own and those that are saved, each with how many
// tickets it has.

import { h, number, redraw } from "./dom.js";
import { savedViews } from "./saved.js";

const COUNTED_MS = 10000; // how old a count of many may be
const COUNTED = ["Unsolved", "Mine, unsolved", "Unassigned", "SLA breached"];

// `asked()`: what the list is asked for, { q, view }; `open(name)` shows a saved view, or all tickets.
export function views(context, signal, { asked, can, open }) {
  const { api, me } = context;
  const element = h("nav", { class: "views", "aria-label": "Saved views" });
  const own = [
    ["All tickets", {}],
    ["Unsolved", { q: "is:unsolved", sort: "-priority" }],
    ["Mine, unsolved", { q: `assignee:"${me.id.replace(/["\\]/g, "\\$&")}" is:unsolved`, sort: "-priority" }],
    ["Unassigned", { q: "assignee:none is:unsolved", sort: "opened_at" }],
    ["SLA breached", { q: "is:breached is:unsolved" }],
    ["Spam", { q: "is:spam" }],
  ];
  const counts = new Map(); // by query, where the API keeps none: [when, how many]
  let looks = 0;
  let again;

  async function draw() {
    const look = ++looks;
    const found = await api.get("/views", {}, signal).catch(() => null);
    if (found === null) return;
    const { view } = asked();
    // One that is not there is asked for all the same: it is for the answer to say so.
    const isThere = !view || found.views.some((each) => each.name === view);
    const own_ = own.map(([name, wanted]) => ({ name, wanted, count: COUNTED.includes(name) ? null : undefined }));
    const saved = found.views.map(({ name, count }) => ({ name, wanted: { view: name }, count }));
    if (!isThere) saved.push({ name: view, wanted: { view } });
    const show = () => look === looks && drawLinks(own_, saved, found.views);
    const uncounted = [...own_, ...saved].filter((each) => each.count === null);
    for (const each of uncounted) each.count = counts.get(each.name)?.[1] ?? null;
    show();
    for (const each of uncounted) {
      if (performance.now() - (counts.get(each.name)?.[0] ?? -Infinity) <= COUNTED_MS) {
        clearTimeout(again);
        again = setTimeout(draw, COUNTED_MS); // or what has just happened would count with the next change only
        continue;
      }
      const { sort, ...wanted } = each.wanted;
      const answer = await api.get("/tickets", { ...wanted, limit: 1, count: true }, signal).catch(() => ({ total: null }));
      each.count = answer.total;
      counts.set(each.name, [performance.now(), answer.total]);
    }
    if (uncounted.length) show();
  }

  function drawLinks(own_, saved, all) {
    const { q, view } = asked();
    const link = ({ name, wanted, count }) => {
      const parameters = new URLSearchParams(wanted);
      const is = view ? wanted.view === view : !wanted.view && (wanted.q ?? "") === q;
      return h(
        "li",
        {},
        h(
          "a",
          { href: parameters.size ? `#/tickets?${parameters}` : "#/tickets", "aria-current": is ? "true" : null },
          name,
          count === undefined ? null : h("span", { class: "n" }, count === null ? "…" : number(count)),
        ),
      );
    };
    const current = all.find((each) => each.name === view);
    const mayChange = can && me.role === "supervisor";
    const changed = (name) => {
      counts.clear();
      open(name);
    };
    redraw(element, [own_, saved, all, view, q], () => [
      h("ul", {}, own_.map(link)),
      saved.length || mayChange ? h("h2", {}, "Saved views") : null,
      h("ul", {}, saved.map(link)),
      mayChange ? savedViews(context, { views: all, q, current, open: changed }) : null,
    ]);
  }

  return { element, draw };
}
