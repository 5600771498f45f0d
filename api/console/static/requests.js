// What a requester sees: their own tickets, and one as a conversation. Of what is internal the API
// tells them nothing, not even that there is something.

import { conversation, writing } from "./conversation.js";
import { button, empty, h, loading, number, preview, put, redraw, say, trouble, when } from "./dom.js";
import { field } from "./fields.js";
import { form, newKey } from "./forms.js";
import { Life } from "./life.js";
import { twice } from "./parts.js";

const PAGE = 30;
const MOST = 200; // that can be asked for at once
const STATES = {
  new: ["received", "We have it, and somebody will look at it."],
  open: ["in progress", "Somebody is working on it."],
  pending: ["waiting for you", "We need an answer from you."],
  on_hold: ["on hold", "It waits for somebody else."],
  resolved: ["solved", "If it is not solved, write so below: that opens it again."],
  closed: ["closed", "If it comes up again, write below: that goes on with it in another ticket."],
};
// What a field takes, by what a refusal says of it.
const ASKED = [
  ["a whole number", "integer"],
  ["true or false", "boolean"],
  ["a day", "date"],
  ["a list", "list"],
];
const state = (ticket) =>
  h("span", { class: `badge status-${ticket.status}` }, STATES[ticket.status]?.[0] ?? ticket.status);

export function requests(main, { api, session, me, keys, query }) {
  const ending = new AbortController();
  const search = h("input", { id: "search", type: "search", autocomplete: "off" });
  const fault = h("p", { class: "fault", role: "alert" });
  const list = h("div", {}, loading("your tickets"));
  const opening = h("div");
  const mayWrite = me.scopes.includes("write");
  let limit = PAGE;
  let turns = 0;
  put(
    main,
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Your tickets"),
      mayWrite ? button("New ticket", open) : null,
    ),
    opening,
    h(
      "form",
      {
        class: "controls",
        role: "search",
        onsubmit: (event) => {
          event.preventDefault();
          limit = PAGE;
          begin();
        },
      },
      h("label", { for: "search" }, "Search"),
      search,
      h("button", { type: "submit", class: "quiet" }, "Find"),
    ),
    fault,
    list,
  );
  keys({ n: ["new ticket", () => mayWrite && open()], "/": ["search", () => search.focus()] });

  function open() {
    const fields = {
      subject: field({ type: "text", length: 500 }, { name: "subject", label: "In a few words", required: true }),
      body: field({ type: "long", length: 50000 }, { name: "body", label: "What happened?" }),
    };
    const asking = form({
      name: "New ticket",
      action: "Send",
      fields,
      send: (content, key) => api.command("/tickets", { ...content, requester: me.id }, { key }).catch(ask),
      done: (answer) => {
        if (main.isConnected) location.hash = `#/tickets/${answer.ticket_id}`;
      },
      cancel: () => put(opening),
    });
    // What the desk must be told, too: a requester hears of it when it is missing.
    function ask(error) {
      for (const { pointer, detail } of error.errors ?? []) {
        const [, outer, key] = pointer.split("/");
        if (outer !== "fields" || fields[`fields.${key}`]) continue;
        const type = ASKED.find(([words]) => detail.includes(words))?.[1] ?? "text";
        fields[`fields.${key}`] = field({ type }, { name: key, required: true, hint: "" });
        fields.body.row.after(fields[`fields.${key}`].row);
      }
      throw error;
    }
    put(opening, asking);
    fields.subject.focus();
  }

  async function more() {
    limit = Math.min(MOST, limit + PAGE);
    await begin();
  }

  async function begin() {
    fault.textContent = "";
    try {
      await read();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.code === "bad_query") fault.textContent = error.detail;
      else put(list, trouble(error, begin));
    }
  }

  async function read() {
    const turn = ++turns;
    const asked = { q: search.value.trim(), sort: "-updated_at", limit };
    const { tickets, next } = await api.get("/tickets", asked, ending.signal);
    if (turn !== turns) return; // something else is asked for by now
    const none = search.value ? "None of your tickets has these words." : "You have no tickets yet.";
    const rest = next && limit < MOST ? button("More", more, "quiet") : next ? empty(`These are the last ${number(MOST)}. Search for others.`) : null;
    redraw(list, [tickets, next === null, none], () =>
      tickets.length ? [h("ul", { class: "requests" }, tickets.map(line)), rest] : empty(none),
    );
  }

  const line = (each) =>
    h(
      "li",
      {},
      h("a", { href: `#/tickets/${each.id}` }, each.subject),
      h(
        "p",
        {},
        state(each),
        each.number ? h("span", { class: "number" }, each.number) : null,
        h("span", {}, "last change ", when(each.updated_at)),
      ),
      h("p", { class: "note" }, preview(each)),
    );

  if (mayWrite && query.has("new")) open();
  begin();
  const stop = session.listen(1000, () => document.hidden || read().catch(() => {}));
  return () => {
    ending.abort();
    stop();
  };
}

export function request(main, context) {
  const { session, me, keys } = context;
  const ending = new AbortController();
  const life = new Life(context, ending.signal, changed);
  let possible = null; // what can be done; null until that is known
  let turns = 0;
  const head = h("div");
  const act = h("div", { class: "others" });
  const talk = conversation(life, { name: (id) => h("a", { href: `#/tickets/${id}` }, "another ticket"), act() {} });
  const box = writing(life, context);
  const back = h("p", { class: "back" }, h("a", { href: "#/tickets" }, "Your tickets"));
  put(main, back, loading("the ticket"));
  keys({ r: ["reply", () => box.write("reply")] });

  async function begin() {
    try {
      await life.read();
      put(main, back, head, h("div", { class: "plain" }, talk.element, box.element), act);
    } catch (error) {
      if (error.name !== "AbortError") put(main, back, trouble(error, begin));
    }
  }

  // First what was said, then what can be done with it.
  async function changed() {
    draw();
    const turn = ++turns;
    const can = await life.possible().catch(() => possible);
    if (turn !== turns) return;
    possible = can;
    draw();
  }

  function draw() {
    const ticket = life.fields();
    const can = possible ?? {};
    const means = STATES[ticket.status]?.[1];
    if (main.isConnected) document.title = `${ticket.number ?? "Ticket"} – Casebook`;
    put(
      head,
      h(
        "div",
        { class: "title" },
        h("h1", {}, ticket.number ? h("span", { class: "number" }, ticket.number, " ") : null, ticket.subject),
        state(ticket),
      ),
      h("p", { class: "banner" }, means, ticket.status === "pending" && ticket.waiting_reason ? ` ${ticket.waiting_reason}` : null),
    );
    talk.draw({});
    box.draw(can);
    const name = ticket.status === "resolved" ? "It is solved: close it" : "I need no more help: close it";
    redraw(act, [can, ticket.rating, name], () => [
      "rate" in can ? rating(ticket.rating) : null,
      "close" in can
        ? twice(name, "Really close it?", () => life.submit("close", {}, newKey()).catch((error) => say(error.message)))
        : null,
    ]);
  }

  const rating = (given) =>
    form({
      name: "How well was it solved?",
      action: given ? "Change the rating" : "Rate",
      fields: {
        score: field(
          { type: "choice", choices: ["5", "4", "3", "2", "1"] },
          { name: "score", label: "From 5, good, to 1, bad", value: given?.score, required: true },
        ),
        comment: field({ type: "long" }, { name: "comment", label: "Anything to add?", value: given?.comment }),
      },
      send: ({ score, ...content }, key) => life.submit("rate", { score: Number(score), ...content }, key),
      done: () => say("Thank you."),
    });

  begin();
  const stop = session.listen(1000, async () => {
    if (document.hidden) return;
    await life.read().catch(() => {});
    if (possible === null && life.version) await changed();
  });
  return () => {
    ending.abort();
    stop();
  };
}
