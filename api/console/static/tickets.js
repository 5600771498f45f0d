// The list: saved views, a search, one line for each ticket, and what is done with several at once.

import { showing } from "./api.js";
import { bulk } from "./bulk.js";
import { columns } from "./columns.js";
import { commandForm } from "./forms.js";
import { button, empty, h, inDialog, loading, mayFocus, number, put, redraw, trouble, welcome } from "./dom.js";
import { rows } from "./rows.js";
import { helpOf, searchBox } from "./search.js";
import { views } from "./views.js";

const PAGE = 50;
const COUNTED_MS = 10000; // how old a count of many may be
const SORTS = [
  ["-opened_at", "newest first"],
  ["opened_at", "oldest first"],
  ["-updated_at", "last changed first"],
  ["updated_at", "first changed first"],
  ["-resolved_at", "last resolved first"],
  ["-priority", "most urgent first"],
  ["due_at", "first due first"],
];

export function tickets(main, context) {
  const { api, session, me, query, keys } = context;
  const ending = new AbortController();
  const can = me.scopes.includes("write") && me.role !== "auditor";
  const box = searchBox(context, { value: query.get("q") ?? "", label: "Search", submit: (q) => begin({ q }) });
  const sort = h(
    "select",
    { id: "sort", onchange: () => begin({ sort: sort.value }) },
    SORTS.map(([value, name]) => h("option", { value }, name)),
  );
  const list = h("div", {}, loading("tickets"));
  const news = h("div", { class: "news", role: "status" });
  const note = h("span", { role: "status" }); // where nothing moves for it
  const pager = h("div", { class: "pager" });
  const chooser = h("span");
  const { chosen, choose } = columns(() => has && draw());
  const picked = new Set();
  const lines = rows(list, picked, {
    can,
    sorts: SORTS,
    sortBy: (sort) => begin({ sort }),
    selected: () => can && selection.draw(),
  });
  const selection = bulk(context, picked, { clear, done: changedAll });
  const side = views(context, ending.signal, { asked: () => asked, can, open: showView });
  let asked = { q: query.get("q") ?? "", view: query.get("view") ?? "", sort: SORTS[0][0] };
  if (SORTS.some(([value]) => value === query.get("sort"))) asked.sort = query.get("sort");
  let cursors = [undefined]; // of this page and those before
  let page = { tickets: [], next: null };
  let total; // how many there are; null if they are too many, undefined if it is not known yet
  let countedAt = -Infinity;
  let { after } = session; // what has happened is to be shown
  let has = false; // a page is shown, whatever was asked for since
  let asking = new AbortController(); // what is asked for now; whatever was before is not drawn
  let again; // looks once more for what could not be shown at once
  ending.signal.addEventListener("abort", () => asking.abort());

  put(
    main,
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Tickets"),
      note,
      can ? button("New ticket", () => open(), null, { title: "n" }) : null,
    ),
    h(
      "div",
      { class: "desk-list" },
      side.element,
      h(
        "section",
        { "aria-label": "List" },
        box.element,
        box.fault,
        h(
          "div",
          { class: "above" },
          h("div", { class: "controls" }, h("label", { for: "sort" }, "Order"), sort, chooser, helpOf(box.input)),
          selection.element,
        ),
        news,
        list,
        pager,
      ),
    ),
  );
  sort.value = asked.sort;

  // --- what is asked for --------------------------------------------------------------------------

  // "me" is who looks, and what looks like a ticket's number is one.
  const meant = (q) =>
    /^c-?\d+$/i.test(q)
      ? `number:C-${q.replace(/\D+/, "")}`
      : q.replace(/(?<=^|[\s-])(assignee|requester):me(?=\s|$)/g, `$1:${JSON.stringify(me.id).replaceAll("$", "$$$$")}`);

  const pageOf = (more, signal) =>
    api.get("/tickets", { ...asked, q: meant(asked.q), cursor: cursors.at(-1), limit: PAGE, ...more }, signal);

  // With what has been heard of; rather without than not at all.
  const current = (more, signal) =>
    pageOf({ ...more, after }, signal).catch((error) => {
      if (after === undefined || !["views_behind", "ticket_not_found"].includes(error.code)) throw error;
      after = session.after = undefined; // it may be a ticket that one does not see any more
      return pageOf(more, signal);
    });

  async function ask(more) {
    asking.abort();
    asking = new AbortController();
    list.setAttribute("aria-busy", "true");
    const { signal } = asking;
    try {
      const found = await current(more, signal);
      signal.throwIfAborted();
      session.known.see(found.tickets);
      return found;
    } finally {
      if (!signal.aborted) list.removeAttribute("aria-busy");
    }
  }

  // Asks for a list anew. If that cannot be, the one that is shown stays.
  async function begin(wanted = {}, focus = false) {
    if (ending.signal.aborted) return; // the address is another's
    const before = [asked, cursors];
    asked = { ...asked, ...wanted };
    cursors = [undefined];
    try {
      page = await ask({});
    } catch (error) {
      if (error.name === "AbortError") return;
      [asked, cursors] = before;
      sort.value = asked.sort;
      if (error.code === "bad_query") return refuse(error);
      const way = h("p", {}, h("a", { href: "#/tickets" }, "All tickets"));
      return put(has ? news : list, trouble(error, () => begin(wanted), way));
    }
    total = undefined;
    picked.clear();
    box.say(null);
    has = true;
    const said = Object.entries(asked).filter(([, text]) => text && text !== SORTS[0][0]);
    session.list = said.length ? `#/tickets?${new URLSearchParams(said)}` : "#/tickets";
    context.address(session.list);
    [news, note].forEach((place) => put(place));
    draw();
    if (focus) lines.focus(0);
    count();
    side.draw();
  }

  // Asked by itself: of many it takes longer than their first page does.
  async function count() {
    const { signal } = asking;
    const wanted = { ...asked, q: meant(asked.q), limit: 1, count: true };
    const found = await api.get("/tickets", wanted, signal).catch(() => null);
    if (found === null || signal.aborted) return;
    [total, countedAt] = [found.total, performance.now()];
    drawPager();
  }

  function refuse(error) {
    const way = h("a", { href: "#/tickets" }, "all tickets");
    if (!has) put(list, empty("No list yet: mend the search, or see ", way, "."));
    box.say(error, has);
    side.draw();
  }

  async function turn(step) {
    if (list.hasAttribute("aria-busy")) return; // it is another page's next
    const was = cursors;
    cursors = step > 0 ? [...cursors, page.next] : cursors.slice(0, -1);
    try {
      page = await ask({});
    } catch (error) {
      if (error.name === "AbortError") return; // something else was asked for, from its first page
      cursors = was;
      put(news, trouble(error));
      return;
    }
    picked.clear();
    [news, note].forEach((place) => put(place));
    draw();
    if (mayFocus(list)) lines.focus(0);
    window.scrollTo(0, 0);
  }

  // --- what is shown ------------------------------------------------------------------------------

  function draw(changed = new Set()) {
    sort.value = asked.sort;
    session.ids = page.tickets.map((each) => each.id);
    const isAll = !asked.q && !asked.view && cursors.length === 1;
    const shown = chosen();
    redraw(list, [page.tickets, shown.map(([title]) => title), asked.sort, isAll], () =>
      page.tickets.length
        ? lines.table(page.tickets, shown, asked.sort, changed)
        : isAll
          ? welcome(me)
          : empty("No ticket matches. ", h("a", { href: "#/tickets" }, "All tickets")),
    );
    drawPager();
    lines.mark();
  }

  function drawPager() {
    if (!page.tickets.length) return put(pager);
    const first = (cursors.length - 1) * PAGE;
    const of = total === undefined ? "" : ` of ${total === null ? "more than 100,000" : number(total)}`;
    const to = (name, can_, step) => button(name, () => turn(step), "quiet small", { disabled: !can_ });
    redraw(pager, [first, page.tickets.length, of, Boolean(page.next)], () => [
      h("span", {}, `${number(first + 1)}–${number(first + page.tickets.length)}${of}`),
      to("Previous", first, -1),
      to("Next", page.next, 1),
    ]);
  }

  function showView(name) {
    box.input.value = "";
    begin({ q: "", view: name ?? "" });
  }

  // --- several at once ----------------------------------------------------------------------------

  function clear() {
    picked.clear();
    lines.mark();
    lines.focus(0);
  }

  async function changedAll(tickets_, { done, outcomes }) {
    const bad = outcomes.filter((each) => each.problem);
    picked.clear();
    await begin();
    if (ending.signal.aborted) return;
    // For what is to be done next with the same, or again with what was refused.
    const still = tickets_.filter((id) => page.tickets.some((each) => each.id === id));
    for (const id of bad.length ? bad.map((each) => each.ticket_id) : still) picked.add(id);
    lines.mark();
    const said = h("strong", {}, `${done} of ${tickets_.length} done.`);
    if (bad.length) put(news, h("div", { class: "trouble" }, said, h("ul", {}, bad.map(refusal))));
  }

  function refusal({ ticket_id: id, problem }) {
    const { number: name, subject } = session.known.tickets.get(id) ?? {};
    return h("li", {}, h("a", { href: `#/tickets/${id}` }, name ?? subject ?? id.slice(0, 8)), `: ${problem.detail}`);
  }

  // --- a new ticket -------------------------------------------------------------------------------

  const open = () =>
    inDialog("New ticket", (close) =>
      commandForm(context, {
        path: "/tickets",
        name: "New ticket",
        action: "Open the ticket",
        send: (body, key) => api.command("/tickets", body, { key }),
        done: (answer) => {
          close();
          if (!ending.signal.aborted) location.hash = `#/tickets/${answer.ticket_id}`;
        },
        cancel: close,
      }),
    );

  // --- what changes while one looks ---------------------------------------------------------------

  async function refresh(events) {
    after = showing(events) ?? after;
    if (document.hidden) return;
    clearTimeout(again);
    const later = () => (again = setTimeout(() => ending.signal.aborted || refresh([]), 1000));
    if (!has) return; // all is asked for when it is asked again
    if (list.hasAttribute("aria-busy")) return later();
    const { signal } = asking;
    const found = await current({}, signal).catch(() => null);
    if (signal.aborted) return;
    if (found === null) return later(); // or what has happened would show with the next change only
    session.known.see(found.tickets);
    const isSmall = total !== null && total < 2000;
    if (isSmall || performance.now() - countedAt > COUNTED_MS) count();
    const before = new Map(page.tickets.map((each) => [each.id, each.version]));
    const changed = found.tickets.filter((each) => before.get(each.id) !== each.version);
    const same =
      found.tickets.length === page.tickets.length && found.tickets.every((each, n) => each.id === page.tickets[n].id);
    side.draw();
    if (same && !changed.length && !found.next === !page.next) return;
    // Nothing is to move under somebody's hands, nor what they have chosen to be taken away.
    const isHeld = picked.size || [list, note].some((place) => place.contains(document.activeElement));
    if (same || !isHeld) {
      if (!same) put(note);
      page = found;
      return draw(new Set(changed.map((each) => each.id)));
    }
    const show = button("Show it as it is now", () => begin({}, true), "quiet small");
    if (!note.firstChild) put(note, "This list has changed. ", show);
  }

  // --- the keyboard -------------------------------------------------------------------------------

  keys({
    j: ["next ticket", () => lines.step(1)],
    k: ["ticket before", () => lines.step(-1)],
    Enter: ["open the ticket"], // as the browser does it, where a link has the focus
    ...(can && {
      x: ["select the ticket", lines.toggle],
      r: [
        "reply to the ticket",
        () => {
          const id = lines.current();
          if (id) location.hash = `#/tickets/${id}?reply`;
        },
      ],
      n: ["new ticket", open],
    }),
    "/": ["search", () => box.input.select() ?? box.input.focus()],
    "]": ["next page", () => page.next && turn(1)],
    "[": ["page before", () => cursors.length > 1 && turn(-1)],
  });

  const stop = session.listen(1000, refresh);
  session.known.desk().then(({ fields }) => put(chooser, choose(fields)));
  begin().then(() => can && query.has("new") && !ending.signal.aborted && open());
  return () => {
    ending.abort();
    stop();
  };
}
