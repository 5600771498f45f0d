// A ticket: what was said and the box to answer in, its properties, its history, and what can be
// done with it now.

import { conversation, writing } from "./conversation.js";
import { valueOf } from "./events.js";
import { field } from "./fields.js";
import { commandForm, commands, customField, described, form, kindFor, newKey } from "./forms.js";
import { history_ } from "./history.js";
import { Life } from "./life.js";
import { badge, duration, h, loading, menu, modal, put, redraw, shown, tabs, trouble, when, words } from "./dom.js";

// What stands as a button of its own, and what has a place on the page; all else is under "More".
const PRIMARY = ["resolve", "reopen", "unmerge"];
const NAMES = { unmerge: "Undo the merge", resolve: "Resolve", reopen: "Reopen" };
const PLACED = [
  ...PRIMARY,
  ...["reply", "add_note", "assign", "unassign", "move_to_group", "change_priority", "change_subject"],
  ...["change_requester", "update_status", "add_tags", "remove_tags", "follow", "unfollow"],
];
// A property that is edited in place: by which command, what it is called there, and what clears it.
const EDITED = {
  assignee: ["assign", "assignee", "unassign"],
  group: ["move_to_group", "group"],
  priority: ["change_priority", "priority"],
  requester: ["change_requester", "requester"],
  subject: ["change_subject", "subject"],
};
const LISTED = { tags: ["add_tags", "remove_tags", "tags"], followers: ["follow", "unfollow", "follower"] };
const REDACTED = {
  destroyed: "destroyed",
  hidden: "hidden; they have no key of their own that could be destroyed",
  pending: "hidden, and about to be destroyed",
};
const WHY = {
  open: "counts",
  closed: "outside business hours",
  holiday: "holiday",
  paused: "paused",
};

export function ticket(main, context) {
  const { api, session, me, id, query, keys, say } = context;
  const ending = new AbortController();
  const life = new Life(context, ending.signal, () => changed(), lost);
  let possible = {};
  let at = null; // the version that is shown; null: the last one
  let isWhole = true;
  let begun = false;
  let turns = 0;
  const back = h("p", { class: "back" }, h("a", { href: session.list ?? "#/tickets" }, "‹ Tickets"));
  const head = h("div", { class: "title" });
  const rename = h("div");
  const banner = h("div", { class: "banner", hidden: true });
  const side = h("aside", { class: "card", "aria-label": "Properties" });
  const promises = h("section", { class: "card", "aria-label": "Promises", hidden: true });
  const talk = conversation(life, { name, act });
  const box = writing(life, { me, say });
  const past = history_(life, { name, choose });
  const spoken = h("div", {}, talk.element, box.element);
  const parts = tabs(
    "Parts of the ticket",
    [
      ["Conversation", spoken],
      ["History", past.element],
    ],
    (n) => (n ? past.draw(at) : at !== null && choose(null)),
  );
  put(main, back, loading("the ticket"));

  async function begin() {
    try {
      await life.read();
    } catch (error) {
      if (error.name === "AbortError") return;
      const way = h("p", {}, h("a", { href: session.list ?? "#/tickets" }, "Back to the tickets"));
      const isGone = error.status === 404;
      const title = h("h1", {}, isGone ? "No such ticket" : "Ticket");
      return put(main, title, trouble(error, isGone ? null : begin, way));
    }
    neighbours();
    const said = h("div", {}, parts, spoken, past.element);
    put(main, back, head, rename, banner, h("div", { class: "split" }, said, h("div", {}, side, promises)));
    begun = true;
    await changed();
    if (query.has("reply")) box.write("reply");
    session.known.desk().then(drawSide);
  }

  // The tickets before and behind it in the list from which one came.
  function neighbours() {
    const ids = session.ids ?? [];
    const n = ids.indexOf(id);
    if (n < 0) return;
    const link = (to, text) => (ids[to] ? h("a", { href: `#/tickets/${ids[to]}` }, text) : null);
    const links = [link(n - 1, "Previous"), " ", link(n + 1, "Next")].filter(Boolean);
    back.append(` · ${n + 1} of ${ids.length} · `, ...links);
    keys({
      j: ["next ticket", () => ids[n + 1] && (location.hash = `#/tickets/${ids[n + 1]}`)],
      k: ["ticket before", () => n > 0 && (location.hash = `#/tickets/${ids[n - 1]}`)],
    });
  }

  // Events have come: at first those of the past.
  async function changed() {
    if (!begun) return;
    drawAll();
    const turn = ++turns;
    const [can] = await Promise.all([
      life.possible().catch(() => possible),
      drawPromises(),
      past.verify().then((is) => (isWhole = is)),
    ]);
    if (turn !== turns) return; // more has happened since
    possible = can;
    drawAll();
  }

  // For example it was moved to a group of which one sees no tickets.
  function lost() {
    possible = {};
    drawAll();
    put(banner, "You do not see this ticket any more. ", h("a", { href: session.list ?? "#/tickets" }, "Tickets"));
    banner.hidden = false;
  }

  function drawAll() {
    const now = life.fields(at ?? life.events.length);
    promises.hidden = !promises.firstChild || at !== null; // they are those of now
    parts.buttons[1].textContent = `History (${life.events.length})`;
    // No words about people: the browser's history keeps titles.
    if (main.isConnected) document.title = `${now.number ?? "Ticket"} – Casebook`;
    drawHead(now);
    talk.draw(possible);
    box.draw(possible);
    past.draw(at);
    drawSide();
  }

  function choose(version) {
    at = version;
    drawAll();
  }

  // A ticket by its number, for links.
  function name(other) {
    const link = h("a", { href: `#/tickets/${other}` }, "ticket");
    session.known.ticket(other).then(
      (found) => put(link, [found.number, found.subject].filter(Boolean).join(" ")),
      () => put(link, String(other).slice(0, 8)),
    );
    return link;
  }

  function drawHead(now) {
    const into = now.links?.find((link) => link.relation === "merged_into");
    const button = (verb) => h("button", { type: "button", onclick: () => act(verb, NAMES[verb]) }, NAMES[verb]);
    const primary = PRIMARY.filter((verb) => verb in possible && at === null);
    more.hidden = at !== null;
    const sound = isWhole && life.chain === "whole";
    redraw(head, [now.number, now.subject, now.status, now.priority, now.sla_breached, at, primary, sound], () => [
      h("h1", {}, now.number ? h("span", { class: "number" }, now.number, " ") : null, now.subject ?? "Ticket"),
      h(
        "div",
        { class: "marks" },
        now.status ? badge("status", now.status) : null,
        now.priority ? badge("priority", now.priority) : null,
        now.sla_breached?.length ? h("span", { class: "badge sla-breached" }, "SLA breached") : null,
        at === null ? null : badge("then", "as it was"),
        sound ? null : badge("chain", "history_was_changed"),
      ),
      h("div", { class: "buttons" }, primary.map(button), more),
    ]);
    banner.hidden = !into || at !== null;
    if (into && banner.dataset.of !== into.ticket) {
      banner.dataset.of = into.ticket;
      put(banner, "This ticket was merged: it goes on as ", name(into.ticket), ".");
    }
    drawMore();
  }

  const more = h("span");
  async function drawMore() {
    const all = await commands(api, me.role, "/tickets/{ticket_id}/").catch(() => []);
    const placed = (await hasFields()) ? [...PLACED, "set_field"] : PLACED;
    const others = all.filter(([verb]) => verb in possible && !placed.includes(verb));
    if ("change_subject" in possible) others.unshift(["change_subject", "Change subject"]);
    const open = (verb, summary) => (verb === "change_subject" ? editSubject() : act(verb, summary));
    const items = others.map(([verb, summary]) => [summary, () => open(verb, summary)]);
    redraw(more, others, () => (items.length ? menu("More", items) : []));
  }

  const hasFields = async () => Object.keys((await session.known.desk()).fields).length > 0;

  // --- what is done with it -----------------------------------------------------------------------

  // A command's form, over the page; with it what must be filled in before.
  async function act(verb, title, fixed = {}, given = {}) {
    const dialog = modal(title || words(verb), loading("the form"));
    const since = { version: life.known };
    const now = life.fields();
    const sent = new Map();
    try {
      const first = {};
      for (const each of possible[verb] ?? []) first[each] = await needed(each, now);
      const content = await commandForm(context, {
        path: `/tickets/{ticket_id}/${verb}`,
        name: title || undefined,
        more: first,
        isWhole: Object.keys(first).length > 0, // or a part of it would be done before the rest is refused
        fixed,
        given,
        group: now.group,
        status: now.status,
        sure: verb === "redact" ? "Really redact it? It cannot be undone" : undefined,
        send: (body, key) => sendAll(verb, Object.keys(first), body, key, since, sent),
        done: (answer) => {
          dialog.close();
          const done = answer.redaction ? `The words are ${REDACTED[answer.redaction]}.` : "Done.";
          say(answer.events.length ? done : "Nothing had to change.");
          if (answer.follow_up && !ending.signal.aborted) location.hash = `#/tickets/${answer.follow_up}`;
        },
        cancel: () => dialog.close(),
      });
      put(dialog, content);
      begin_(content.querySelector("input, select, textarea, button"));
    } catch (error) {
      put(dialog, trouble(error));
    }
  }

  async function needed(path, now) {
    const hint = "The desk wants it first.";
    const key = path.slice("fields.".length);
    const { fields } = await session.known.desk();
    const more = { label: words(key), required: true, hint, value: now.fields?.[key] };
    if (path !== "assignee") return customField(key, fields[key], more);
    const suggestions = await session.known.suggestions("assignee", now.group);
    return field({ type: "text", suggestions }, { name: "assignee", value: me.id, required: true, hint });
  }

  // What is needed first, each by its own command, and then the command. The log keeps keys in plain
  // text for ever, so they say nothing of a value: `sent` has, by path, the value and its key.
  async function sendAll(verb, first, body, key, since, sent) {
    const { assignee, fields = {}, ...rest } = body;
    for (const path of first) {
      const custom = path.startsWith("fields.") ? path.slice("fields.".length) : null;
      const value = custom ? fields[custom] : assignee;
      const said = custom ? ["set_field", { key: custom, value }] : ["assign", { assignee }];
      const what = JSON.stringify([key, value]);
      if (sent.get(path)?.what !== what) sent.set(path, { what, key: newKey() });
      await life.submit(...said, sent.get(path).key, { since });
    }
    try {
      return await life.submit(verb, first.length ? rest : body, key, { since });
    } catch (error) {
      const done = first.map((path) => `${words(path.replace("fields.", ""))} was set`);
      throw Object.assign(error, { meanwhile: [...done, ...(error.meanwhile ?? [])] });
    }
  }

  // --- properties ---------------------------------------------------------------------------------

  const cells = new Map(); // by name: { row, place }

  async function drawSide() {
    const now = life.fields(at ?? life.events.length);
    const desk = await session.known.desk();
    const event = life.events[(at ?? life.events.length) - 1];
    const marked = new Set(at === null ? [] : (event?.changes ?? []).map((change) => change.field));
    const rows = rowsOf(now, desk);
    const names = rows.map(([label]) => label).join();
    for (const [label, value, draw, of = label] of rows) {
      const cell = cells.get(label) ?? { place: h("dd") };
      cell.row ??= h("div", {}, h("dt", {}, words(label)), cell.place);
      cells.set(label, cell);
      cell.row.className = marked.has(of) ? "changed" : "";
      if (cell.place.querySelector("form")) continue; // nobody's typing is undone
      redraw(cell.place, [value, at === null, possible, cell.times], draw);
    }
    if (side.dataset.names === names && side.dataset.at === String(at)) return;
    Object.assign(side.dataset, { names, at: String(at) });
    const held = document.activeElement;
    put(
      side,
      h("h2", {}, at === null ? "Properties" : ["As it was, ", when(event?.occurred_at, true)]),
      h("dl", { class: "props state" }, rows.map(([label]) => cells.get(label).row)),
    );
    if (side.contains(held)) held.focus();
  }

  // [label, value, how it is shown, the field that it is of]
  function rowsOf(now, desk) {
    const can = (verb) => at === null && verb in possible;
    const edited = (label, text = shown(now[label])) => [
      label,
      now[label] ?? null,
      () => (can(EDITED[label][0]) ? inPlace(label, text, () => propertyForm(label)) : text),
    ];
    const plain = (label, value = now[label]) => [label, value ?? null, () => shown(value)];
    const keys_ = [...new Set([...Object.keys(desk.fields), ...Object.keys(now.fields ?? {})])];
    const chips = (label) => [label, now[label] ?? [], () => chipsOf(label, now[label] ?? [], can)];
    return [
      ["status", now.status ?? null, () => statusOf(now.status, can)],
      ["assignee", now.assignee ?? null, () => [edited("assignee", now.assignee ?? "nobody")[2](), taking(now, can)]],
      edited("group"),
      edited("priority"),
      edited("requester"),
      chips("tags"),
      chips("followers"),
      ...keys_.map((key) => [
        key,
        now.fields?.[key] ?? null,
        () => {
          const text = shown(now.fields?.[key]);
          if (!can("set_field")) return text;
          // One that the desk does not define can only be taken away, once it defines any.
          const isFree = !Object.keys(desk.fields).length || Object.hasOwn(desk.fields, key);
          if (isFree) return inPlace(key, text, () => fieldForm(key, desk.fields[key]));
          return h("span", { class: "chip" }, text, remover(key, () => once("set_field", { key, value: null })));
        },
        "fields",
      ]),
      ...(now.links?.length ? [["links", now.links, () => linksOf(now.links, can)]] : []),
      ...(now.attachments?.length ? [["files", now.attachments, () => filesOf(now.attachments), "attachments"]] : []),
      ...["waiting_reason", "close_reason"].filter((label) => now[label]).map((label) => plain(label)),
      ...(now.resume_at ? [["resume_at", now.resume_at, () => when(now.resume_at)]] : []),
      ...(now.rating ? [["rating", now.rating, () => valueOf(now.rating)]] : []),
      ["opened", life.events[0]?.occurred_at, () => when(life.events[0]?.occurred_at), "opened_at"],
    ];
  }

  const filesOf = (files) => shown(files.map((file) => file.name));

  const statusOf = (status, can) =>
    can("update_status")
      ? changing("status", words(status), () => act("update_status", "Change status"))
      : words(status ?? "–");

  const taking = (now, can) =>
    can("assign") && now.assignee !== me.id
      ? h(
          "button",
          { type: "button", class: "quiet small", onclick: () => once("assign", { assignee: me.id }) },
          "Take it",
        )
      : null;

  // A command of one click.
  async function once(verb, body) {
    try {
      await life.submit(verb, body, newKey(), { minds: () => false });
    } catch (error) {
      say(error.message);
    }
  }

  const changing = (label, text, act_) =>
    h(
      "button",
      {
        type: "button",
        class: "bare",
        title: "Change",
        "aria-label": `${words(label)}: ${text}. Change`,
        onclick: act_,
      },
      text,
    );

  // A value that becomes its own editor; the focus comes back to it.
  function inPlace(label, text, make) {
    const button = changing(label, text, async () => {
      const place = button.parentNode;
      const close = () => {
        const cell = cells.get(label);
        cell.times = (cell.times ?? 0) + 1; // it is drawn anew, whatever it was
        put(place, button);
        button.focus();
        drawSide();
      };
      const content = await make(close);
      if (!button.isConnected) return;
      content.addEventListener("keydown", (event) => {
        if (event.key !== "Escape") return;
        event.preventDefault();
        close();
      });
      put(place, content);
      content.addEventListener("done", close);
      begin_(content.querySelector("input, select, textarea"));
    });
    return button;
  }

  function editor(label, edit, send) {
    const since = { version: life.known };
    const element = form({
      name: `Change ${words(label)}`,
      action: "Save",
      inline: true,
      fields: { value: edit },
      send: ({ value = null }, key) => send(value, key, since),
      done: () => element.dispatchEvent(new Event("done")),
      cancel: () => element.dispatchEvent(new Event("done")),
    });
    return element;
  }

  async function propertyForm(label) {
    const [verb, parameter, clear] = EDITED[label];
    const now = life.fields();
    const about = await described(api, `/tickets/{ticket_id}/${verb}`);
    const kind = await kindFor(session, about, parameter, now.group);
    const edit = field(kind, { name: label, value: now[label], hint: "" });
    edit.required = !clear; // it is sent if it is empty, too, for the API to say what it wants
    return editor(label, edit, (value, key, since) => {
      const minds = (event) => (event.changes ?? []).some((change) => change.field === label);
      const clears = clear && value === null;
      const body = clears ? {} : { [parameter]: value };
      return life.submit(clears ? clear : verb, body, key, { since, minds });
    });
  }

  async function fieldForm(key, kind) {
    const edit = customField(key, kind, { value: life.fields().fields?.[key] });
    return editor(key, edit, (value, id_, since) => {
      const minds = (event) =>
        (event.changes ?? []).some(
          ({ field: name_, before, after }) => name_ === "fields" && shown(before?.[key]) !== shown(after?.[key]),
        );
      const isNone = Array.isArray(value) && !value.length;
      return life.submit("set_field", { key, value: isNone ? null : value }, id_, { since, minds });
    });
  }

  async function editSubject() {
    if (rename.firstChild) return;
    const content = await propertyForm("subject");
    const close = () => put(rename);
    content.addEventListener("done", close);
    content.addEventListener("keydown", (event) => event.key === "Escape" && close());
    put(rename, content);
    begin_(content.querySelector("input"));
  }

  // Names of which each can be taken away, and a field for one more.
  function chipsOf(label, names, can) {
    const [add, remove, parameter] = LISTED[label];
    const given = (each) => ({ [parameter]: parameter === "tags" ? [each] : each });
    const several = (text) => (parameter === "tags" ? { tags: text.split(",").map((each) => each.trim()) } : given(text));
    const adding = async () => {
      const all = await session.known.suggestions(parameter);
      const kind = { type: "text", suggestions: all.filter((each) => !names.includes(each)) };
      const edit = field(kind, { name: label, label: `Add to ${label}`, hint: parameter === "tags" ? "Several with commas." : "" });
      return editor(label, edit, (value, key, since) =>
        life.submit(add, several(value ?? ""), key, { since, minds: () => false }),
      );
    };
    const plus = can(add) ? inPlace(label, "+", adding) : null;
    plus?.setAttribute("aria-label", `Add to ${label} +`);
    return h(
      "span",
      { class: "chips" },
      names.map((each) =>
        h(
          "span",
          { class: "chip" },
          each,
          can(remove) ? remover(each, () => once(remove, given(each))) : null,
        ),
      ),
      names.length || plus ? null : "–",
      plus,
    );
  }

  const remover = (name_, act_) =>
    h("button", { type: "button", "aria-label": `Remove ${name_}`, onclick: act_ }, "×");

  function linksOf(links, can) {
    const own = (link) => !/merged|follow/.test(link.relation);
    const ring = h("p", { class: "fault" });
    const tell = ({ rings }) =>
      rings && put(ring, `Lead back to this ticket: ${rings.map(words).join(", ")}. Take one of them away.`);
    api.get(`/tickets/${id}`, {}, ending.signal).then(tell, () => {});
    const lines = links.map((link) =>
      h(
        "div",
        {},
        valueOf(link, name),
        can("unlink") && own(link)
          ? h(
              "button",
              {
                type: "button",
                class: "bare",
                "aria-label": "Remove the link",
                onclick: () => act("unlink", "Unlink", {}, link),
              },
              " ×",
            )
          : null,
      ),
    );
    return [...lines, ring];
  }

  // --- promises -----------------------------------------------------------------------------------

  async function drawPromises() {
    const answer = await api.get(`/tickets/${id}/sla`, {}, ending.signal).catch((error) => error);
    if (!answer.promises) {
      if (answer.status === 404) return put(promises); // the ticket is not for this caller any more
      return put(promises, h("h2", {}, "SLA"), trouble(answer, changed));
    }
    const some = answer.promises.filter((each) => each.state !== "idle");
    if (!some.length) return put(promises);
    const open = new Set([...promises.querySelectorAll("details[open]")].map((each) => each.dataset.of));
    put(promises, h("h2", {}, "SLA"), some.map((each) => promiseOf(each, answer, open.has(each.target))));
  }

  function promiseOf(each, { intervals }, open) {
    const time = (ms) => duration(ms / 1000);
    const brief = (ms) => time(ms).split(" ").slice(0, 2).join(" ");
    const state = {
      counting: () => ["due ", when(each.due_at)],
      paused: () => [`${time(each.left_ms)} left, paused`],
      kept: () => [h("span", { class: "good" }, "met")],
      missed: () => [h("span", { class: "bad" }, "SLA breached"), ` by ${brief(-each.left_ms)}`],
    }[each.state]();
    const parts_ = intervals.filter((one) => !each.since || one.end > each.since);
    return h(
      "details",
      { "data-of": each.target, open },
      h("summary", {}, h("span", { class: "promise" }, h("span", {}, sentence(each.target)), h("span", {}, state))),
      h(
        "p",
        { class: "hint" },
        `Promised ${time(each.promised_ms)}, used ${time(each.used_ms)}, `,
        each.left_ms < 0 ? `${time(-each.left_ms)} over.` : `${time(each.left_ms)} ${each.state === "kept" ? "to spare" : "left"}.`,
        each.merged_from ? [" From a ticket that was merged: ", name(each.merged_from), "."] : null,
      ),
      h(
        "table",
        {},
        h("caption", { class: "hidden" }, "Each stretch of time, and whether it counts"),
        h("thead", {}, h("tr", {}, ["From", "For", "Counted"].map((title) => h("th", { scope: "col" }, title)))),
        h(
          "tbody",
          {},
          parts_.map((one) =>
            h(
              "tr",
              {},
              h("td", {}, shown(one.start)),
              h("td", {}, time(Date.parse(one.end) - Date.parse(one.start))),
              h(
                "td",
                {},
                one.counts_for.includes(each.target) ? "counts" : one.why === "open" ? "done" : WHY[one.why],
                one.reason ? `: ${one.reason}` : "",
              ),
            ),
          ),
        ),
      ),
    );
  }

  // --- the keyboard -------------------------------------------------------------------------------

  const press = (label) => () => cells.get(label)?.place.querySelector("[title=Change]")?.click();
  const doing = (verb, title) => () => verb in possible && act(verb, title);
  keys({
    r: ["reply", () => parts.choose(0) ?? box.write("reply")],
    n: ["internal note", () => parts.choose(0) ?? box.write("add_note")],
    a: ["assignee", press("assignee")],
    p: ["priority", press("priority")],
    s: ["status", press("status")],
    t: ["add a tag", press("tags")],
    e: ["resolve", doing("resolve", NAMES.resolve)],
    m: ["more", () => more.querySelector("summary")?.focus() ?? more.querySelector("summary")?.click()],
    h: ["history", () => parts.choose(1)],
    c: ["conversation", () => parts.choose(0)],
    u: ["back to the list", () => (location.hash = session.list ?? "#/tickets")],
  });

  const stop = session.listen(300, async (happened) => {
    const isOfIt = !happened.length || happened.some((event) => event.ticket_id === id);
    if (begun && isOfIt) await life.read().catch(() => {});
  });
  begin();
  return () => {
    ending.abort();
    stop();
  };
}

// What one types takes the place of what is there.
function begin_(edit) {
  edit?.focus();
  edit?.select?.();
}

const sentence = (target) => words(target)[0].toUpperCase() + words(target).slice(1);
