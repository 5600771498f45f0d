// The list: saved views, a search, one line for each ticket, and what is done with several at once.

import { showing } from "./api.js";
import { commandForm, commands } from "./forms.js";
import { badge, empty, h, loading, menu, modal, number, put, redraw, trouble, welcome, when } from "./dom.js";
import { savedViews } from "./saved.js";
import { searchBox } from "./search.js";

const PAGE = 50;
const COUNTED_MS = 10000; // how old a count of many may be
const COUNTED = ["Unsolved", "Mine, unsolved", "Unassigned", "SLA breached"];
const CHOSEN = "casebook-columns";
const SORTS = [
  ["-opened_at", "newest first"],
  ["opened_at", "oldest first"],
  ["-updated_at", "last changed first"],
  ["updated_at", "first changed first"],
  ["-resolved_at", "last resolved first"],
  ["-priority", "most urgent first"],
  ["due_at", "first due first"],
];
const HELP = [
  ["printer jam", "both words, wherever they were said: in notes and names of files, too"],
  ["print*", "words that begin so"],
  ["status:open", "also new, pending, on_hold, resolved, closed"],
  ["priority>=high", "low, normal, high, urgent; with : < <= > >="],
  ["group:network", "also assignee, requester; none for nobody"],
  ["tag:vip", "also field.floor:3 for custom fields"],
  ["is:unsolved", "also is:solved, is:breached, is:spam, has:note"],
  ["opened>=2026-03-01", "also updated, resolved, due; days or times"],
  ["-status:closed", "a minus for what must not hold"],
];
// What is done with several tickets most, first.
const FIRST = [
  "assign",
  "change_priority",
  "move_to_group",
  "add_tags",
  "remove_tags",
  "set_field",
  "add_note",
  "reply",
  "update_status",
  "resolve",
  "close",
];

const due = (each) =>
  [each.first_response_due_at, each.next_response_due_at, each.resolution_due_at].filter(Boolean).sort()[0];
// By name: title, class, what is in a cell, and what it is sorted by.
const COLUMNS = {
  status: ["Status", "c-status", (each) => badge("status", each.status)],
  priority: ["Priority", "c-priority extra", (each) => badge("priority", each.priority), "-priority"],
  requester: ["Requester", "c-name extra", (each) => each.requester],
  assignee: ["Assignee", "c-name extra", (each) => each.assignee ?? "–"],
  group: ["Group", "c-name extra", (each) => each.group ?? "–"],
  updated: ["Changed", "c-time extra", (each) => when(each.updated_at), "-updated_at"],
  opened: ["Opened", "c-time extra", (each) => when(each.opened_at), "-opened_at"],
  resolved: ["Resolved", "c-time extra", (each) => when(each.resolved_at), "-resolved_at"],
  due: ["Due", "c-time extra", (each) => when(due(each)), "due_at"],
  tags: ["Tags", "c-name extra", (each) => each.tags.join(", ")],
  last_actor: ["Last by", "c-name extra", (each) => each.last_actor ?? "–"],
};
const USUAL = ["status", "priority", "requester", "assignee", "updated"];
const fieldColumn = (key) => [key, "c-name extra", (each) => String(each.fields[key] ?? "–")];

function chosenColumns() {
  try {
    const kept = JSON.parse(localStorage.getItem(CHOSEN));
    return kept.every((each) => typeof each === "string") ? kept : USUAL;
  } catch {
    return USUAL; // none were chosen, or what was kept is damaged
  }
}

export function tickets(main, context) {
  const { api, session, me, query, keys, say } = context;
  const ending = new AbortController();
  const can = me.scopes.includes("write") && me.role !== "auditor";
  const staff = me.role !== "requester";
  const sorts = SORTS.filter(([value]) => staff || value !== "due_at");
  const box = searchBox(context, { value: query.get("q") ?? "", label: "Search", submit: (q) => begin({ q }) });
  const sort = h(
    "select",
    { id: "sort", onchange: () => begin({ sort: sort.value }) },
    sorts.map(([value, name]) => h("option", { value }, name)),
  );
  const side = h("nav", { class: "views", "aria-label": "Saved views" });
  const list = h("div", {}, loading("tickets"));
  const news = h("div", { class: "news", role: "status" });
  const bulk = h("div", { class: "bulk", role: "region", "aria-label": "Selection", hidden: true });
  const pager = h("div", { class: "pager" });
  const chooser = h("span");
  let columns = chosenColumns();
  const picked = new Set();
  let asked = { q: query.get("q") ?? "", view: query.get("view") ?? "", sort: sorts[0][0] };
  if (sorts.some(([value]) => value === query.get("sort"))) asked.sort = query.get("sort");
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
      can ? h("button", { type: "button", onclick: open, title: "n" }, "New ticket") : null,
    ),
    h(
      "div",
      { class: staff ? "desk-list" : null },
      staff ? side : null,
      h(
        "section",
        { "aria-label": "List" },
        box.element,
        box.fault,
        h(
          "div",
          { class: "controls" },
          h("label", { for: "sort" }, "Order"),
          sort,
          chooser,
          staff ? helpOf(box.input) : null,
        ),
        news,
        bulk,
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
    const said = Object.entries(asked).filter(([, text]) => text && text !== sorts[0][0]);
    session.list = said.length ? `#/tickets?${new URLSearchParams(said)}` : "#/tickets";
    context.address(session.list);
    draw();
    if (focus) focusRow(0);
    count();
    views();
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
    views();
  }

  async function turn(step) {
    const was = cursors;
    cursors = step > 0 ? [...cursors, page.next] : cursors.slice(0, -1);
    try {
      page = await ask({});
    } catch (error) {
      cursors = was;
      if (error.name !== "AbortError") put(news, trouble(error));
      return;
    }
    picked.clear();
    draw();
    focusRow(0);
    window.scrollTo(0, 0);
  }

  // --- what is shown ------------------------------------------------------------------------------

  const column = (name) => (name.startsWith("field.") ? fieldColumn(name.slice(6)) : COLUMNS[name]);

  function draw(changed = new Set()) {
    put(news);
    sort.value = asked.sort;
    session.ids = page.tickets.map((each) => each.id);
    if (!page.tickets.length) {
      const isAll = !asked.q && !asked.view && cursors.length === 1;
      put(list, isAll ? welcome(me) : empty("No ticket matches. ", h("a", { href: "#/tickets" }, "All tickets")));
      redraw(pager, null, () => []);
      return drawBulk();
    }
    const shown = columns.map(column).filter(Boolean);
    const all = h("input", {
      type: "checkbox",
      "aria-label": "Select all on this page",
      onchange: () => {
        for (const each of page.tickets) all.checked ? picked.add(each.id) : picked.delete(each.id);
        draw();
      },
    });
    put(
      list,
      h(
        "table",
        { class: "rows" },
        h("caption", { class: "hidden" }, "Tickets"),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            can ? h("th", { class: "c-pick", scope: "col" }, all) : null,
            h("th", { class: "c-number", scope: "col" }, "Number"),
            h("th", { scope: "col" }, "Subject"),
            shown.map(heading),
          ),
        ),
        h("tbody", {}, page.tickets.map((each) => rowOf(each, shown, changed))),
      ),
    );
    drawPager();
    drawBulk();
  }

  function drawPager() {
    if (!page.tickets.length) return;
    const first = (cursors.length - 1) * PAGE;
    const of = total === undefined ? "" : ` of ${total === null ? "more than 100,000" : number(total)}`;
    const button = (name, can_, step) =>
      h("button", { type: "button", class: "quiet small", disabled: !can_, onclick: () => turn(step) }, name);
    redraw(pager, [first, page.tickets.length, of, Boolean(page.next)], () => [
      h("span", {}, `${number(first + 1)}–${number(first + page.tickets.length)}${of}`),
      button("Previous", first, -1),
      button("Next", page.next, 1),
    ]);
  }

  function heading([title, kind, , by]) {
    const other = by?.startsWith("-") ? by.slice(1) : `-${by}`;
    const can_ = by && sorts.some(([value]) => value === by);
    const isBy = can_ && [by, other].includes(asked.sort);
    const way = isBy ? (asked.sort.startsWith("-") ? "descending" : "ascending") : null;
    const next = asked.sort === by && sorts.some(([value]) => value === other) ? other : by;
    return h(
      "th",
      { class: kind, scope: "col", "aria-sort": way },
      can_
        ? h(
            "button",
            { type: "button", class: "bare", onclick: () => begin({ sort: next }) },
            title,
            way ? h("span", { "aria-hidden": "true" }, way === "descending" ? " ↓" : " ↑") : null,
          )
        : title,
    );
  }

  function rowOf(each, shown, changed) {
    const row = h(
      "tr",
      { class: [changed.has(each.id) && "changed", picked.has(each.id) && "picked"].filter(Boolean).join(" ") },
      can
        ? h(
            "td",
            { class: "c-pick" },
            h("input", {
              type: "checkbox",
              "aria-label": `Select ${each.number ?? each.subject}`,
              checked: picked.has(each.id),
              onchange: ({ target }) => {
                target.checked ? picked.add(each.id) : picked.delete(each.id);
                row.classList.toggle("picked", target.checked);
                drawBulk();
              },
            }),
          )
        : null,
      h("td", { class: "c-number number" }, each.number ?? "–"),
      h(
        "td",
        { title: each.subject },
        each.sla_breached?.length ? h("span", { class: "badge sla-breached", title: "SLA breached" }, "SLA ") : null,
        h("a", { href: `#/tickets/${each.id}` }, each.subject),
        h("span", { class: "preview" }, ` ${each.preview}`),
      ),
      shown.map(([, kind, cell]) => h("td", { class: kind }, cell(each))),
    );
    row.dataset.id = each.id;
    return row;
  }

  async function choose() {
    const { fields } = staff ? await session.known.desk() : { fields: {} };
    const names = [...Object.keys(COLUMNS), ...Object.keys(fields).map((key) => `field.${key}`)];
    const box_ = (name) =>
      h("input", {
        type: "checkbox",
        checked: columns.includes(name),
        onchange: ({ target }) => {
          columns = names.filter((each) => (each === name ? target.checked : columns.includes(each)));
          localStorage.setItem(CHOSEN, JSON.stringify(columns));
          if (has) draw();
        },
      });
    const items = names.map((name) => h("label", { class: "check" }, box_(name), ` ${column(name)[0]}`));
    put(chooser, menu("Columns", items));
  }

  // --- saved views --------------------------------------------------------------------------------

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
  let recount;

  async function views() {
    if (!staff) return;
    const look = ++looks;
    const found = await api.get("/views", {}, ending.signal).catch(() => null);
    if (found === null) return;
    // One that is not there is asked for all the same: it is for the answer to say so.
    const isThere = !asked.view || found.views.some((each) => each.name === asked.view);
    const own_ = own.map(([name, wanted]) => ({ name, wanted, count: COUNTED.includes(name) ? null : undefined }));
    const saved = found.views.map(({ name, count }) => ({ name, wanted: { view: name }, count }));
    if (!isThere) saved.push({ name: asked.view, wanted: { view: asked.view } });
    // What one is about to delete stays where it is.
    const draw_ = () => look === looks && (side.querySelector(".sure:enabled") || drawViews(own_, saved, found.views));
    const uncounted = [...own_, ...saved].filter((each) => each.count === null);
    for (const each of uncounted) each.count = counts.get(each.name)?.[1] ?? null;
    draw_();
    for (const each of uncounted) {
      if (performance.now() - (counts.get(each.name)?.[0] ?? -Infinity) <= COUNTED_MS) {
        clearTimeout(recount);
        recount = setTimeout(views, COUNTED_MS); // or what has just happened would count with the next change only
        continue;
      }
      const { q, view } = each.wanted;
      const some = { q, view, limit: 1, count: true };
      const answer = await api.get("/tickets", some, ending.signal).catch(() => ({ total: null }));
      each.count = answer.total;
      counts.set(each.name, [performance.now(), answer.total]);
    }
    if (uncounted.length) draw_();
  }

  function drawViews(own_, saved, all) {
    const link = ({ name, wanted, count }) => {
      const parameters = new URLSearchParams(wanted);
      const is = asked.view ? wanted.view === asked.view : !wanted.view && (wanted.q ?? "") === asked.q;
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
    const current = all.find((each) => each.name === asked.view);
    const mayChange = can && me.role === "supervisor";
    const drawn = [own_, saved, all, asked.view, asked.q];
    const focused = side.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    redraw(side, drawn, () => [
      h("ul", {}, own_.map(link)),
      saved.length || mayChange ? h("h2", {}, "Saved views") : null,
      h("ul", {}, saved.map(link)),
      mayChange ? savedViews(context, { views: all, q: asked.q, current, open: showView }) : null,
    ]);
    if (focused) [...side.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
  }

  function showView(name) {
    box.input.value = "";
    counts.clear();
    begin({ q: "", view: name ?? "" });
  }

  // --- several at once ----------------------------------------------------------------------------

  const verbs = can ? commands(api, me.role, "/bulk/").catch(() => []) : Promise.resolve([]);

  async function drawBulk() {
    const head = list.querySelector("thead .c-pick input");
    const isPicked = (each) => picked.has(each.id);
    if (head) {
      head.checked = page.tickets.every(isPicked);
      head.indeterminate = !head.checked && page.tickets.some(isPicked);
    }
    bulk.hidden = !picked.size;
    if (bulk.hidden) return put(bulk);
    const all = await verbs;
    const menuOf = (label, some) => {
      const made = menu(label, some.map(([verb, summary]) => [summary, () => changeAll(verb, summary)]));
      made.classList.add("left");
      return made;
    };
    const usual = FIRST.map((verb) => all.find(([each]) => each === verb)).filter(Boolean);
    const change = menuOf("Change", usual);
    const more = menuOf("More", all.filter((each) => !usual.includes(each)));
    const clear = h(
      "button",
      {
        type: "button",
        class: "quiet small",
        onclick: () => {
          picked.clear();
          draw();
        },
      },
      "Clear",
    );
    put(bulk, h("strong", {}, `${picked.size} selected`), change, more, clear);
  }

  async function changeAll(verb, summary) {
    const chosen = [...picked];
    const of = chosen.length === 1 ? "1 ticket" : `${chosen.length} tickets`;
    const path = `/bulk/${verb}`;
    const dialog = modal(summary, loading("the form"));
    try {
      const content = await commandForm(context, {
        path,
        name: `${summary}: ${of}`,
        action: summary,
        given: verb === "assign" ? { assignee: me.id } : {},
        send: (command, key) => api.command(path, { tickets: chosen, command }, { key }),
        done: async (answer) => {
          dialog.close();
          const bad = answer.outcomes.filter((each) => each.problem);
          const done = `${answer.done} of ${chosen.length} done.`;
          say(done);
          picked.clear();
          await begin();
          if (ending.signal.aborted) return;
          // For what is to be done next with the same, or again with what was refused.
          const still = chosen.filter((id) => page.tickets.some((each) => each.id === id));
          for (const id of bad.length ? bad.map((each) => each.ticket_id) : still) picked.add(id);
          draw();
          const told = h("div", { class: "trouble" }, h("strong", {}, done), h("ul", {}, bad.map(refusal)));
          if (bad.length) put(news, told);
        },
        cancel: () => dialog.close(),
      });
      put(dialog, content);
      const begun = content.querySelector("input, select, textarea, button");
      begun?.focus();
      begun?.select?.(); // what is typed takes its place
    } catch (error) {
      put(dialog, trouble(error));
    }
  }

  function refusal({ ticket_id: id, problem }) {
    const { number: name, subject } = session.known.tickets.get(id) ?? {};
    return h("li", {}, h("a", { href: `#/tickets/${id}` }, name ?? subject ?? id.slice(0, 8)), `: ${problem.detail}`);
  }

  // --- a new ticket -------------------------------------------------------------------------------

  async function open() {
    const dialog = modal("New ticket", loading("the form"));
    try {
      const content = await commandForm(context, {
        path: "/tickets",
        name: "New ticket",
        action: "Open the ticket",
        given: staff ? {} : { requester: me.id },
        send: (body, key) => api.command("/tickets", body, { key }),
        done: (answer) => {
          dialog.close();
          if (!ending.signal.aborted) location.hash = `#/tickets/${answer.ticket_id}`;
        },
        cancel: () => dialog.close(),
      });
      put(dialog, content);
      const begun = content.querySelector("input, textarea, select");
      begun?.focus();
      begun?.select?.(); // what is typed takes its place
    } catch (error) {
      put(dialog, trouble(error));
    }
  }

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
    views();
    if (same && !changed.length && !found.next === !page.next) return;
    // Nothing is to move under somebody's hands, nor what they have chosen to be taken away.
    const isHeld = picked.size || [list, news].some((place) => place.contains(document.activeElement));
    if (same || !isHeld) {
      const at = focusedRow();
      const inCell = document.activeElement?.closest?.(".c-pick") ? "input" : "a";
      page = found;
      draw(new Set(changed.map((each) => each.id)));
      if (at >= 0) focusRow(at, inCell);
      return;
    }
    const anew = { type: "button", class: "quiet small", onclick: () => begin({}, true) };
    const show = h("button", anew, "Show it as it is now");
    if (!news.firstChild) put(news, "This list has changed. ", show);
  }

  // --- the keyboard -------------------------------------------------------------------------------

  const rows = () => [...list.querySelectorAll("tbody tr")];
  const focusedRow = () => rows().findIndex((row) => row.contains(document.activeElement));
  const focusRow = (at, what = "a") => rows()[at]?.querySelector(what)?.focus();
  const step = (by) => focusRow(Math.max(0, Math.min(rows().length - 1, focusedRow() + by)));
  keys({
    j: ["next ticket", () => step(1)],
    k: ["ticket before", () => step(-1)],
    Enter: ["open the ticket"], // as the browser does it, where a link has the focus
    ...(can && {
      x: ["select the ticket", () => rows()[Math.max(0, focusedRow())]?.querySelector("input")?.click()],
      r: [
        "reply to the ticket",
        () => {
          const { id } = rows()[focusedRow()]?.dataset ?? {};
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
  choose();
  begin().then(() => can && query.has("new") && open());
  return () => {
    ending.abort();
    stop();
  };
}

function helpOf(input) {
  const line = ([example, what]) =>
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
            class: "quiet small",
            onclick: () => {
              input.value = `${input.value} ${example}`.trim();
              input.focus();
            },
          },
          h("code", {}, example),
        ),
      ),
      h("dd", {}, what),
    );
  return h("details", { class: "help" }, h("summary", {}, "How to search"), h("dl", {}, HELP.map(line)));
}
