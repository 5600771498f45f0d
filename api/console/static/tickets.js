// The list: a search, a saved view, and what changes while one looks.

import { showing } from "./api.js";
import { commandForm } from "./forms.js";
import { badge, empty, h, loading, put, trouble, when } from "./dom.js";

const SORTS = [
  ["-opened_at", "last opened first"],
  ["opened_at", "first opened first"],
  ["-updated_at", "last changed first"],
  ["updated_at", "first changed first"],
  ["-priority", "most urgent first"],
  ["due_at", "first due first"],
];
// An example, what it means, and what of it is for requesters, where that is not all.
const HELP = [
  [
    "printer jam",
    "both words, wherever they were said: notes and names of files, too; whatever case and accents",
    "both words, wherever they were said: names of files, too; whatever case and accents",
  ],
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

const PAGE = 50;
const MOST = 200; // that can be asked for at once

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
  const sorts = SORTS.filter(([value]) => me.role !== "requester" || value !== "due_at");
  const sort = h(
    "select",
    { id: "sort" },
    sorts.map(([value, name]) => h("option", { value }, name)),
  );
  const list = h("div", {}, loading("tickets"));
  const opening = h("div");
  const news = h("p", { class: "news", role: "status" });
  let shown = [];
  let next = null;
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

  let after; // what has happened is to be shown
  let submitted = {}; // what the list is of, whatever has been typed since
  let asking = new AbortController(); // what is asked for now; whatever was before is not drawn
  ending.signal.addEventListener("abort", () => asking.abort());

  async function ask(more) {
    asking.abort();
    asking = new AbortController();
    list.setAttribute("aria-busy", "true");
    const { signal } = asking;
    try {
      const page = more ? await pageOf(more, signal) : await current({}, signal);
      signal.throwIfAborted();
      return page;
    } finally {
      if (!signal.aborted) list.removeAttribute("aria-busy");
    }
  }

  const pageOf = (more, signal) => api.get("/tickets", { ...submitted, limit: PAGE, ...more }, signal);

  // The beginning of the list, with what has been heard of; rather without than not at all.
  const current = (more, signal) =>
    pageOf({ ...more, after }, signal).catch((error) => {
      if (error.code !== "views_behind") throw error;
      return pageOf(more, signal);
    });

  async function begin() {
    submitted = { q: search.value.trim(), view: view.value, sort: sort.value };
    const said = Object.entries(submitted).filter(([name, text]) => text && text !== SORTS[0][0]);
    history.replaceState(null, "", said.length ? `#/tickets?${new URLSearchParams(said)}` : "#/tickets");
    fault.textContent = "";
    put(news);
    try {
      const page = await ask();
      [shown, next] = [page.tickets, page.next];
      draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      shown = [];
      if (error.code === "bad_query") {
        fault.textContent = error.detail;
        put(list);
      } else put(list, trouble(error, begin));
    }
  }

  async function more() {
    const page = await ask({ cursor: next });
    const at = shown.length;
    shown = [...shown, ...page.tickets];
    next = page.next;
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
              each.number ? h("span", { class: "number" }, each.number, " ") : null,
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
                more().catch((error) => {
                  if (error.name !== "AbortError") event.target.replaceWith(trouble(error, begin));
                });
              },
            },
            "More",
          )
        : empty(`${shown.length} tickets.`),
    );
  }

  async function refresh(events) {
    after = showing(events) ?? after;
    if (document.hidden || !submitted.sort || list.hasAttribute("aria-busy")) return;
    const { signal } = asking;
    const limit = Math.min(MOST, Math.max(PAGE, shown.length));
    const page = await current({ limit }, signal).catch(() => null);
    if (page === null || signal.aborted) return;
    const before = new Map(shown.map((each) => [each.id, each.version]));
    const changed = page.tickets.filter((each) => before.get(each.id) !== each.version);
    const isAsItWas =
      !changed.length &&
      page.tickets.length === Math.min(shown.length, limit) &&
      page.tickets.every((each, n) => each.id === shown[n].id) &&
      (shown.length > limit || (page.next === null) === (next === null));
    if (isAsItWas) return put(news);
    // Nothing is to move under somebody's hands, nor what they have read to be taken away.
    const isHeld = [list, news].some((place) => place.contains(document.activeElement));
    if (shown.length > PAGE || isHeld) {
      const show = h("button", { type: "button", class: "quiet", onclick: showNews }, "Show it as it is now");
      if (!news.firstChild) put(news, "This list has changed. ", show);
      return;
    }
    [shown, next] = [page.tickets, page.next];
    draw(new Set(changed.map((each) => each.id)));
  }

  async function showNews() {
    await begin();
    list.querySelector("a")?.focus();
  }

  async function views() {
    const found = await api.get("/views", {}, ending.signal).catch(() => ({ views: [] }));
    for (const each of found.views)
      view.append(
        h("option", { value: each.name }, each.count === null ? each.name : `${each.name} (${each.count})`),
      );
    // One that is not there is asked for all the same: it is for the answer to say so.
    const wanted = asked.get("view") ?? "";
    if (wanted && !found.views.some((each) => each.name === wanted))
      view.append(h("option", { value: wanted }, wanted));
    view.value = wanted;
  }

  const stop = session.listen(1000, refresh);
  if (sorts.some(([value]) => value === asked.get("sort"))) sort.value = asked.get("sort");
  (me.role === "requester" ? Promise.resolve() : views()).then(begin);
  return () => {
    ending.abort();
    stop();
  };
}
