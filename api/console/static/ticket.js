// A ticket: its life as a story, how it was after each event, and what can be done now.

import { verified } from "./chain.js";
import { commandForm, commands } from "./forms.js";
import { badge, h, loading, put, shown, trouble, when, words } from "./dom.js";

const FIRST = [
  "reply",
  "add_note",
  "assign",
  "update_status",
  "resolve",
  "reopen",
  "close",
  "change_priority",
];
const STORY = {
  TicketOpened: () => "opened it",
  StatusUpdated: (d) => `set it to ${words(d.status)}`,
  TicketResolved: () => "resolved it",
  TicketNumbered: (d) => `gave it the number C-${shown(d.number)}`,
  TicketReopened: () => "reopened it",
  TicketClosed: (d) => (d.reason ? `closed it: ${words(d.reason)}` : "closed it"),
  TicketAssigned: (d) => `assigned it to ${shown(d.assignee)}`,
  TicketUnassigned: () => "took it from its assignee",
  TicketMovedToGroup: (d) => `moved it to the group ${shown(d.group)}`,
  PriorityChanged: (d) => `set its priority to ${shown(d.priority)}`,
  SubjectChanged: () => "changed its subject",
  RequesterChanged: (d) => `made it ${shown(d.requester)}’s`,
  AgentReplied: (d) => (d.automatic ? "replied automatically" : "replied"),
  RequesterReplied: (d) => (d.automatic ? "answered automatically" : "answered"),
  ReplyForwarded: () => "answered in the ticket that goes on",
  MessageRedacted: (d) => `redacted what was said in version ${shown(d.redacts)}`,
  NoteAdded: () => "left a note, which requesters do not see",
  TagsAdded: (d) => `tagged it ${shown(d.tags)}`,
  TagsRemoved: (d) => `removed the tags ${shown(d.tags)}`,
  FieldSet: (d) => `set ${shown(d.key)} to ${shown(d.value)}`,
  FollowerAdded: (d) => `added ${shown(d.follower)} as a follower`,
  FollowerRemoved: (d) => `removed the follower ${shown(d.follower)}`,
  FileAttached: (d) => `attached ${shown(d.name)}`,
  TicketLinked: (d) => `linked it: ${words(String(d.relation))}`,
  TicketUnlinked: (d) => `removed a link: ${words(String(d.relation))}`,
  TicketMergedInto: () => "merged it into another",
  TicketMergedFrom: () => "merged another into it",
  TicketUnmerged: () => "undid its merge",
  PromiseTakenOver: (d) => `brought an earlier promise: ${words(String(d.target))}`,
  PromiseGivenBack: (d) => `took its promise back: ${words(String(d.target))}`,
  MergeUndone: () => "undid a merge into it",
  FileDetached: (d) => `took away ${shown(d.name)}`,
  TicketRated: (d) => `rated it ${shown(d.score)} of 5`,
  SlaChanged: () => "changed what is promised for it",
  SlaBreached: (d) => `missed a promise: ${words(String(d.target))}`,
};
const SAID = ["body", "resolution", "comment"];
const CHAIN = {
  whole: "✓ hash verified in this browser",
  broken: "✗ this is not what was written",
  unknown: "– hash not verified here",
};

export function ticket(main, { api, session, me, id, say }) {
  const ending = new AbortController();
  let events = [];
  let chain = [];
  let serverChain = "whole";
  let at = null; // the version that is shown; null: the last one
  const head = h("div", { class: "title" }, h("h1", {}, "Ticket"));
  const story = h("ol", { class: "story" });
  const state = h("section", { class: "state", "aria-label": "The ticket at this version" });
  const act = h("section", { class: "act" });
  const slider = h("input", { id: "version", type: "range", min: "1", step: "1" });
  const at_ = h("output", { for: "version" });
  const latest = h("button", { type: "button", class: "quiet", onclick: () => choose(null) }, "As it is");
  const time = h(
    "div",
    { class: "slider" },
    h("label", { for: "version" }, "As it was after event"),
    slider,
    at_,
    latest,
  );
  put(main, loading("the ticket"));
  slider.addEventListener("input", () =>
    choose(Number(slider.value) === events.length ? null : Number(slider.value)),
  );

  async function begin() {
    try {
      await read();
      put(
        main,
        h("p", { class: "back" }, h("a", { href: "#/tickets" }, "All tickets")),
        head,
        time,
        h(
          "div",
          { class: "life" },
          h("section", { "aria-label": "Its story" }, h("h2", {}, "What happened"), story),
          h("div", {}, state, act),
        ),
      );
      draw();
    } catch (error) {
      if (error.name !== "AbortError") put(main, trouble(error, begin));
      return;
    }
    await drawCommands().catch((error) => put(act, trouble(error)));
  }

  // One after the other: each goes on where the one before has come to.
  let reading = Promise.resolve();
  function read() {
    reading = reading.catch(() => {}).then(readOn);
    return reading;
  }

  async function readOn() {
    for (;;) {
      const after = events.at(-1)?.version ?? 0;
      const page = await api.get(`/tickets/${id}/timeline`, { after, limit: 1000 }, ending.signal);
      const verdicts = [];
      for (const [n, event] of page.events.entries()) {
        const before = page.events[n - 1] ?? events.at(-1);
        verdicts.push(me.role === "requester" ? "unknown" : await verified(id, event, before?.hash ?? null));
      }
      if (page.chain !== "whole") serverChain = page.chain;
      events.push(...page.events);
      chain.push(...verdicts);
      // Of requesters some are kept back, so only an empty page is the last one.
      if (!page.events.length || (page.events.length < 1000 && me.role !== "requester")) return;
    }
  }

  // What the ticket's fields were after a number of events: each tells what it changed.
  function fields(count) {
    const found = {};
    for (const event of events.slice(0, count))
      for (const change of event.changes ?? []) found[change.field] = change.after;
    return found;
  }

  function choose(version) {
    at = version;
    draw();
  }

  function draw() {
    const count = at ?? events.length;
    const now = fields(count);
    const event = events[count - 1];
    const changed = new Set((event?.changes ?? []).map((change) => change.field));
    slider.max = String(events.length);
    slider.value = String(count);
    slider.setAttribute(
      "aria-valuetext",
      `event ${count} of ${events.length}: ${event?.actor?.id ?? ""} ${told(event)}`,
    );
    put(at_, `${count} of ${events.length}`);
    latest.hidden = at === null;
    if (main.isConnected) document.title = `${[now.number, now.subject ?? "Ticket"].filter(Boolean).join(" ")} – Casebook`;
    put(
      head,
      h("h1", {}, now.number ? h("span", { class: "number" }, now.number, " ") : null, now.subject ?? "Ticket"),
      h(
        "div",
        { class: "marks" },
        now.status ? badge("status", now.status) : null,
        now.priority ? badge("priority", now.priority) : null,
        at === null ? null : badge("then", "as it was"),
        serverChain === "whole" && !chain.includes("broken") ? null : badge("chain", "history_was_changed"),
      ),
    );
    put(
      state,
      h("h2", {}, at === null ? "As it is" : ["As it was, ", when(event.occurred_at)]),
      h(
        "dl",
        { class: "fields" },
        Object.entries(now)
          .filter(([name, value]) => !["subject", "number"].includes(name) && (changed.has(name) || shown(value) !== "–"))
          .map(([name, value]) =>
            h(
              "div",
              { class: changed.has(name) ? "changed" : undefined },
              h(
                "dt",
                {},
                words(name),
                changed.has(name) ? h("span", { class: "hint" }, " changed by this event") : null,
              ),
              h("dd", {}, ticketOf(name, value)),
            ),
          ),
      ),
    );
    for (let n = story.children.length; n < events.length; n++) story.append(eventOf(n));
    for (const [n, each] of [...story.children].entries()) {
      each.className = n + 1 === count ? "event current" : n + 1 > count ? "event later" : "event";
      each.querySelector("button").setAttribute("aria-pressed", String(n + 1 === count));
    }
  }

  // What has happened stays as it is, so each event is drawn once.
  function eventOf(n) {
    const each = events[n];
    return h(
      "li",
      {},
      h(
        "div",
        { class: "who" },
        h(
          "button",
          {
            type: "button",
            class: "quiet",
            title: "Show the ticket after this event",
            onclick: () => choose(n + 1 === events.length ? null : n + 1),
          },
          `#${each.version}`,
        ),
        h("span", {}, h("strong", {}, each.actor?.id ?? "?"), ` ${told(each)}`),
        when(each.occurred_at),
        Math.abs(Date.parse(each.recorded_at) - Date.parse(each.occurred_at)) > 60000
          ? h("span", { class: "hint" }, "recorded ", when(each.recorded_at))
          : null,
      ),
      SAID.filter((name) => each.data?.[name]).map((name) => h("blockquote", {}, String(each.data[name]))),
      changes(each),
      h(
        "p",
        { class: `hash hash-${chain[n]}`, title: each.hash ?? "" },
        CHAIN[chain[n]],
        each.hash ? h("code", {}, String(each.hash).slice(0, 12)) : null,
      ),
    );
  }

  const told = (event) =>
    STORY[event?.type] ? STORY[event.type](event.data ?? {}) : words(String(event?.type ?? "damaged"));

  function changes(event) {
    const rows = (event.changes ?? [])
      .filter((change) => event.type !== "TicketOpened" && !SAID.includes(change.field))
      .flatMap(parts);
    if (event.changes === null)
      return h("p", { class: "fault" }, "What this changed cannot be told: an event cannot be read.");
    if (!rows.length) return null;
    return h(
      "table",
      { class: "changes" },
      h("caption", { class: "hidden" }, "What it changed"),
      h(
        "thead",
        { class: "hidden" },
        h(
          "tr",
          {},
          ["field", "before", "after"].map((name) => h("th", { scope: "col" }, name)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((change) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, words(change.field)),
            h("td", {}, h("del", {}, shown(change.before))),
            h("td", {}, h("ins", {}, shown(change.after))),
          ),
        ),
      ),
    );
  }

  // Of a change of fields by name, those that are others now.
  function parts({ field, before, after }) {
    const isNamed = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
    if (!isNamed(before ?? {}) || !isNamed(after ?? {})) return [{ field, before, after }];
    return [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])]
      .filter((name) => shown(before?.[name]) !== shown(after?.[name]))
      .map((name) => ({ field: `${field}: ${name}`, before: before?.[name], after: after?.[name] }));
  }

  function ticketOf(name, value) {
    if (name !== "links" || !Array.isArray(value)) return shown(value);
    return value.map((link) =>
      h(
        "span",
        {},
        `${words(link.relation)} `,
        h("a", { href: `#/tickets/${link.ticket}` }, link.ticket.slice(0, 8)),
        " ",
      ),
    );
  }

  async function drawCommands() {
    const all = me.scopes.includes("write") ? await commands(api, me.role) : [];
    if (!all.length) return;
    all.sort((a, b) => (FIRST.indexOf(a.verb) + 1 || 99) - (FIRST.indexOf(b.verb) + 1 || 99));
    const choice = h(
      "select",
      { id: "command" },
      h("option", { value: "" }, "choose …"),
      all.map((each) => h("option", { value: each.verb }, each.summary)),
    );
    const place = h("div");
    choice.addEventListener("change", async () => {
      const chosen = all.find((each) => each.verb === choice.value);
      if (!chosen) return put(place);
      const now = fields(events.length);
      const kinds = chosen.verb === "set_field" ? (await api.get("/desk")).desk.fields : {};
      if (Object.keys(kinds).length) // a field that is gone can still be taken away
        for (const key of Object.keys(now.fields ?? {})) kinds[key] ??= null;
      const form = await commandForm(api, {
        path: chosen.path,
        name: chosen.summary,
        target: id,
        // What was seen when it is sent; requesters do not see every event.
        version: () => (me.role === "requester" ? undefined : events.at(-1)?.version),
        conflict: update,
        kinds,
        given: {
          priority: now.priority,
          subject: chosen.verb === "change_subject" ? now.subject : undefined,
          assignee: chosen.verb === "assign" ? (now.assignee ?? me.id) : undefined,
        },
        done: async (answer) => {
          choice.value = "";
          put(place);
          say(
            answer.events.length
              ? `Done: ${answer.events.map((event) => event.type).join(", ")}`
              : "Nothing had to change.",
          );
          if (answer.follow_up) location.hash = `#/tickets/${answer.follow_up}`;
          await update();
          choice.focus();
        },
        cancel: () => {
          choice.value = "";
          put(place);
          choice.focus();
        },
      });
      put(place, form); // the focus stays: with the keyboard one passes others on the way
    });
    put(
      act,
      h("h2", {}, "Do something"),
      h("div", { class: "field" }, h("label", { for: "command" }, "Command"), choice),
      place,
    );
  }

  async function update() {
    const before = events.length;
    await read().catch(() => {});
    if (events.length > before) choose(at);
  }

  const stop = session.listen(300, async (happened) => {
    if (events.length && (!happened.length || happened.some((event) => event.ticket_id === id)))
      await update();
  });
  begin();
  return () => {
    ending.abort();
    stop();
  };
}
