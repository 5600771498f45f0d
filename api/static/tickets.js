// The list: a search, a saved view, and what changes while one looks.

import { showing } from "./api.js";
import { commandForm } from "./forms.js";
import { badge, empty, h, loading, put, trouble, when } from "./dom.js";

const SORTS = [
  ["-opened_at", "last opened first"],
  ["opened_at", "first opened first"],
  ["-updated_at", "last changed first"],
  ["updated_at", "first changed first"],
];
// An example, what it means, and what of it is for requesters, where that is not all.
const HELP = [
  ["printer jam", "both words, in subject or text, whatever case and accents"],
  ["print*", "words that begin so"],
  ["status:open", "also new, pending, on_hold, resolved, closed"],
  ["priority>=high", "low, normal, high, urgent; with : < <= > >="],
  ["group:network", "also assignee, requester; none for nobody"],
  ["tag:vip", "also field.floor:3 for custom fields"],
  ["is:unsolved", "also is:solved, is:breached, has:note", "also is:solved"],
  [
    "opened>=2026-03-01",
    "also updated, resolved, due; days or times",
    "also updated, resolved; days or times",
  ],
  ["-status:closed", "a minus for what must not hold"],
];

export function tickets(main, { api, session, me }) {
  const ending = new AbortController();
  const asked = new URLSearchParams(location.hash.split("?")[1] ?? "");
  const search = h("input", {
    id: "search",
    type: "search",
    value: asked.get("q") ?? "",
    placeholder: "status:open priority>=high printer",
    spellcheck: "false",
    autocomplete: "off",
    "aria-describedby": "search-fault",
  });
  const fault = h("p", { id: "search-fault", class: "fault", role: "alert" });
  const view = h("select", { id: "view" }, h("option", { value: "" }, "all tickets"));
  const sort = h(
    "select",
    { id: "sort" },
    SORTS.map(([value, name]) => h("option", { value }, name)),
  );
  const list = h("div", {}, loading("tickets"));
  const opening = h("div");
  const news = h("p", { class: "news", role: "status" });
  let shown = [];
  let next = null;
  let pages = 0;
  put(
    main,
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Tickets"),
      me.role === "auditor" || !me.scopes.includes("write")
        ? null
        : h("button", { type: "button", onclick: open }, "Open a ticket"),
    ),
    opening,
    h(
      "form",
      {
        class: "controls",
        role: "search",
        onsubmit: (event) => {
          event.preventDefault();
          begin();
        },
      },
      h("label", { for: "search" }, "Search"),
      search,
      h("button", { type: "submit" }, "Find"),
      me.role === "requester" ? null : [h("label", { for: "view" }, "View"), view],
      h("label", { for: "sort" }, "Order"),
      sort,
    ),
    fault,
    h(
      "details",
      { class: "help" },
      h("summary", {}, "How to search"),
      h(
        "dl",
        {},
        HELP.map(([example, all, some = all]) =>
          h(
            "div",
            {},
            h(
              "dt",
              {},
              h(
                "button",
                {
                  type: "button",
                  class: "quiet",
                  onclick: () => {
                    search.value = `${search.value} ${example}`.trim();
                    search.focus();
                  },
                },
                h("code", {}, example),
              ),
            ),
            h("dd", {}, me.role === "requester" ? some : all),
          ),
        ),
      ),
    ),
    news,
    list,
  );
  view.addEventListener("change", begin);
  sort.addEventListener("change", begin);

  async function open() {
    put(opening, loading("the form"));
    try {
      put(
        opening,
        await commandForm(api, {
          path: "/tickets",
          name: "Open a ticket",
          given: me.role === "requester" ? { requester: me.id } : {},
          done: (answer) => {
            if (main.isConnected) location.hash = `#/tickets/${answer.ticket_id}`;
          },
          cancel: () => put(opening),
        }),
      );
      opening.querySelector("input, textarea, select")?.focus();
    } catch (error) {
      put(opening, trouble(error, open));
    }
  }

  let submitted = {}; // what the list is of, whatever has been typed since
  let asking = new AbortController(); // what is asked for now; whatever was before is not drawn
  ending.signal.addEventListener("abort", () => asking.abort());

  async function ask(more = {}) {
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    const page = await api.get("/tickets", { ...submitted, limit: 50, ...more }, signal);
    signal.throwIfAborted();
    return page;
  }

  async function begin() {
    submitted = { q: search.value.trim(), view: view.value, sort: sort.value };
    const said = Object.entries(submitted).filter(([name, text]) => text && text !== SORTS[0][0]);
    history.replaceState(null, "", said.length ? `#/tickets?${new URLSearchParams(said)}` : "#/tickets");
    fault.textContent = "";
    list.setAttribute("aria-busy", "true");
    try {
      const page = await ask();
      [shown, next, pages] = [page.tickets, page.next, 1];
      draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      shown = [];
      if (error.code === "bad_query") {
        fault.textContent = error.detail;
        put(list);
      } else put(list, trouble(error, begin));
    } finally {
      list.removeAttribute("aria-busy");
    }
  }

  async function more() {
    const page = await ask({ cursor: next });
    const at = shown.length;
    shown = [...shown, ...page.tickets];
    [next, pages] = [page.next, pages + 1];
    draw();
    list.querySelectorAll("a")[at]?.focus();
  }

  function draw(changed = new Set()) {
    put(news);
    if (!shown.length) {
      put(list, empty(submitted.q || submitted.view ? "No ticket matches." : "There are no tickets yet."));
      return;
    }
    put(
      list,
      h(
        "ol",
        { class: "rows" },
        shown.map((each) =>
          h(
            "li",
            { class: changed.has(each.id) ? "row changed" : "row" },
            h(
              "div",
              { class: "what" },
              h("a", { href: `#/tickets/${each.id}` }, each.subject),
              h("p", {}, each.preview),
            ),
            h(
              "div",
              { class: "marks" },
              badge("status", each.status),
              badge("priority", each.priority),
              each.sla_breached?.length ? badge("sla", "breached") : null,
              each.has_note ? badge("has", "note") : null,
            ),
            h(
              "dl",
              { class: "facts" },
              h("div", {}, h("dt", {}, "from"), h("dd", {}, each.requester)),
              h(
                "div",
                {},
                h("dt", {}, "with"),
                h("dd", {}, each.assignee ?? "nobody", each.group ? ` (${each.group})` : ""),
              ),
              h("div", {}, h("dt", {}, "changed"), h("dd", {}, when(each.updated_at))),
            ),
          ),
        ),
      ),
      next
        ? h(
            "button",
            {
              type: "button",
              class: "more",
              onclick: (event) => {
                event.target.disabled = true;
                more().catch((error) => event.target.replaceWith(trouble(error, begin)));
              },
            },
            "More",
          )
        : empty(`${shown.length} tickets.`),
    );
  }

  async function refresh(events) {
    if (document.hidden || list.hasAttribute("aria-busy")) return;
    const { signal } = asking;
    const first = (more) => api.get("/tickets", { ...submitted, limit: 50, ...more }, signal);
    const page = await first({ after: showing(events) })
      .catch((error) => (error.code === "views_behind" ? first() : null))
      .catch(() => null);
    if (page === null || signal.aborted) return;
    const before = new Map(shown.map((each) => [each.id, each.version]));
    const changed = page.tickets.filter((each) => before.get(each.id) !== each.version);
    const isAsItWas = page.tickets.every((each, n) => each.id === shown[n]?.id);
    if (!changed.length && isAsItWas && (pages > 1 || page.tickets.length === shown.length)) return;
    // Nothing is to move under somebody's hands, nor what they have read to be taken away.
    if (pages > 1 || list.contains(document.activeElement)) {
      const show = h("button", { type: "button", class: "quiet", onclick: begin }, "Show it as it is now");
      put(news, "This list has changed. ", show);
      return;
    }
    [shown, next] = [page.tickets, page.next];
    draw(new Set(changed.map((each) => each.id)));
  }

  async function views() {
    const found = await api.get("/views", {}, ending.signal).catch(() => ({ views: [] }));
    for (const each of found.views)
      view.append(
        h("option", { value: each.name }, each.count === null ? each.name : `${each.name} (${each.count})`),
      );
    view.value = asked.get("view") ?? "";
  }

  const stop = session.listen(1000, refresh);
  if (asked.get("sort")) sort.value = asked.get("sort");
  (me.role === "requester" ? Promise.resolve() : views()).then(begin);
  return () => {
    ending.abort();
    stop();
  };
}
