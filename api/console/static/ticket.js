// A ticket: what was said and the box to answer in, its properties, its history, and what can be
// done with it now.

import { actions } from "./actions.js";
import { conversation, writing } from "./conversation.js";
import { commands } from "./forms.js";
import { history_ } from "./history.js";
import { Life } from "./life.js";
import { badge, button, h, loading, menu, put, redraw, tabs, trouble } from "./dom.js";
import { promises } from "./promises.js";
import { properties } from "./properties.js";

// What stands as a button of its own, and what has a place on the page; all else is under "More".
const PRIMARY = ["resolve", "reopen", "unmerge"];
const NAMES = { unmerge: "Undo the merge", resolve: "Resolve", reopen: "Reopen" };
const PLACED = [
  ...PRIMARY,
  ...["reply", "add_note", "assign", "unassign", "move_to_group", "change_priority", "change_subject"],
  ...["change_requester", "update_status", "add_tags", "remove_tags", "follow", "unfollow"],
];

const AGAIN_MS = 2000;

export function ticket(main, context) {
  const { api, session, me, id, query, keys, say } = context;
  const ending = new AbortController();
  const life = new Life(context, ending.signal, () => changed(), lost);
  let possible = {};
  let at = null; // the version that is shown; null: the last one
  let isWhole = true;
  let begun = false;
  let turns = 0;
  let known;
  const whenKnown = new Promise((done) => (known = done)); // what can be done
  let isAwaited = query.has("reply"); // something is to be done then
  const back = h("p", { class: "back" }, h("a", { href: session.list ?? "#/tickets" }, "‹ Tickets"));
  const head = h("div", { class: "title" });
  const banner = h("div", { class: "banner", hidden: true });
  const { act, once } = actions(life, context, () => possible);
  const side = properties(life, { act, once, name });
  const sla = promises(life, ending.signal, name);
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
  neighbours();

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
    const said = h("div", {}, parts, spoken, past.element);
    const beside = h("div", {}, side.element, sla.element);
    put(main, back, head, side.rename, banner, h("div", { class: "split" }, said, beside));
    begun = true;
    changed();
    await whenKnown;
    isAwaited = false;
    if (query.has("reply")) box.write("reply");
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
      life.possible().catch(() => {
        setTimeout(() => ending.signal.aborted || changed(), AGAIN_MS);
        return possible;
      }),
      sla.draw(),
      past.verify().then((is) => (isWhole = is)),
    ]);
    if (turn !== turns) return; // more has happened since
    possible = can;
    drawAll();
    await drawMore(); // with what forms are made of
    known();
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
    sla.element.hidden = !sla.element.firstChild || at !== null; // they are those of now
    parts.buttons[1].textContent = `History (${life.events.length})`;
    // No words about people: the browser's history keeps titles.
    if (main.isConnected) document.title = `${now.number ?? "Ticket"} – Casebook`;
    drawHead(now);
    talk.draw(possible);
    box.draw(possible);
    past.draw(at);
    side.draw(at, possible);
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
      h("div", { class: "buttons" }, primary.map((verb) => button(NAMES[verb], () => act(verb, NAMES[verb]))), more),
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
    const open = (verb, summary) => (verb === "change_subject" ? side.editSubject() : act(verb, summary));
    const items = others.map(([verb, summary]) => [summary, () => open(verb, summary)]);
    redraw(more, others, () => (items.length ? menu("More", items) : []));
  }

  const hasFields = async () => Object.keys((await session.known.desk()).fields).length > 0;

  // --- the keyboard -------------------------------------------------------------------------------

  // A key that is pressed before it is known what can be done is done then: one, for what is typed behind
  // it is meant for what it opens.
  const soon = (act_) => async () => {
    if (isAwaited) return;
    isAwaited = true;
    await whenKnown;
    isAwaited = false;
    if (!ending.signal.aborted) act_();
  };
  const write = (verb) => () => parts.choose(0) ?? box.write(verb);
  const press = (label) => () => side.press(label);
  keys({
    r: ["reply", soon(write("reply"))],
    n: ["internal note", soon(write("add_note"))],
    a: ["assignee", soon(press("assignee"))],
    p: ["priority", soon(press("priority"))],
    s: ["status", soon(press("status"))],
    t: ["add a tag", soon(press("tags"))],
    e: ["resolve", soon(() => "resolve" in possible && act("resolve", NAMES.resolve))],
    m: ["more", soon(() => more.querySelector("summary")?.focus() ?? more.querySelector("summary")?.click())],
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
