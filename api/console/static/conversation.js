// What was said on a ticket, and the box to answer in.

import { changes, told } from "./events.js";
import { isUnknown, newKey, refused } from "./forms.js";
import { field } from "./fields.js";
import { button, h, mayFocus, put, redraw, when } from "./dom.js";

const SHOWN = 200; // messages at first
const STEPS = new Set([
  ...["StatusUpdated", "TicketReopened", "TicketClosed", "ReplyForwarded", "SlaBreached"],
  ...["TicketMergedInto", "TicketMergedFrom", "TicketUnmerged", "MergeUndone"],
]);
const MODES = {
  reply: {
    name: "Public reply",
    send: "Send the reply",
    hint: (now) => `${now.requester ?? "The requester"} and all who follow the ticket read it.`,
  },
  add_note: {
    name: "Internal note",
    send: "Add the note",
    hint: () => "Only staff read it; the requester never sees it.",
  },
};

// Messages in order, and short lines for what became of the ticket; `act` is the page's.
export function conversation(life, { name, act }) {
  const element = h("ol", { class: "talk", "aria-label": "Conversation" });
  let from = null;

  const draw = (possible) => redraw(element, [life.version, from, "redact" in possible], () => all(possible));

  function all(possible) {
    const shown = life.events.filter(isShown);
    from ??= Math.max(0, shown.length - SHOWN);
    const all_ = () => {
      from = 0;
      draw(possible);
    };
    const more = from ? h("li", {}, button(`Show ${from} earlier messages`, all_, "quiet small")) : null;
    return [more, shown.slice(from).map((event) => (messageOf(event) ?? stepOf(event))(possible))];
  }

  const isShown = (event) => STEPS.has(event.type) || Boolean(messageOf(event));

  const isStaff = life.me.role !== "requester";
  const opener = (by, { requester }) => (by === requester ? by : `${by} for ${requester}`);

  function messageOf(event) {
    const { data = {}, type } = event;
    const by = event.actor?.id ?? "?";
    const kinds = {
      TicketOpened: () => [opener(by, data), "opened the ticket", "body", "by-requester"],
      RequesterReplied: () => [by, told(event), "body", "by-requester"],
      AgentReplied: () => [by, told(event) + (isStaff ? " to the requester" : ""), "body", "by-agent"],
      NoteAdded: () => [by, "Internal note", "body", "internal"],
      TicketResolved: () => [by, "resolved it", "resolution", "by-agent"],
      TicketRated: () => [by, `rated it ${data.score} of 5`, "comment", "by-requester"],
      FileAttached: () => [by, "attached", "name", data.is_internal ? "internal" : ""],
    };
    if (!kinds[type]) return null;
    const [who, what, field_, kind] = kinds[type]();
    const text = data[field_];
    return (possible) =>
      h(
        "li",
        { class: `message ${kind}` },
        h(
          "div",
          { class: "who" },
          h("strong", {}, who),
          h("span", { class: kind === "internal" ? "tell" : "hint" }, kind === "internal" ? "Internal note" : what),
          when(event.occurred_at, true),
          "redact" in possible && text
            ? button("Redact", () => act("redact", "Redact", { version: event.version, fields: [field_] }), "bare", {
                "aria-label": `Redact what ${who} said`,
              })
            : null,
        ),
        text ? h("p", { class: "text" }, String(text)) : null,
      );
  }

  const stepOf = (event) => () =>
    h(
      "li",
      { class: "step" },
      h("strong", {}, event.actor?.id ?? "?"),
      ` ${told(event)} `,
      when(event.occurred_at, true),
      " ",
      isStaff || event.type === "StatusUpdated" ? changes(event, name) : null,
    );

  return { element, draw };
}

// The box to write in: a public reply or an internal note, told apart by words and colour. What is
// begun is kept in this tab, for this person and ticket, until it is sent or they sign out.
export function writing(life, { me, say }) {
  const place = `casebook-draft:${me.id}:${life.id}`;
  const kept = JSON.parse(sessionStorage.getItem(place) ?? "{}");
  const text = field({ type: "long", hint: "" }, { name: "message", label: "Message", value: kept.text });
  const general = h("div", { role: "alert" });
  const hint = h("p", { class: "hint" });
  const send = h("button", { type: "submit" });
  const modes = h("fieldset", {}, h("legend", { class: "hidden" }, "What to write"));
  const element = h(
    "form",
    { class: "write", "aria-label": "Write", novalidate: true, hidden: true, onsubmit: submit },
    modes,
    hint,
    text.row,
    general,
    h("div", { class: "buttons" }, send, h("span", { class: "hint" }, h("kbd", {}, "Ctrl"), " ", h("kbd", {}, "Enter"))),
  );
  const buttons = new Map();
  let mode = kept.mode ?? "reply";
  let key = newKey();
  let since = { version: life.known };
  text.element.addEventListener("input", keep);
  // One line until it is wanted, and again by Escape: it stays in sight below what was said. It does
  // not fold by itself: what is clicked on would move away.
  const unfold = (is) => element.classList.toggle("unfolded", is || Boolean(text.element.value));
  unfold(false);
  text.element.addEventListener("focus", () => unfold(true));
  text.element.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element.requestSubmit();
    if (event.key !== "Escape") return;
    text.element.blur();
    unfold(false);
  });
  for (const [verb, { name }] of Object.entries(MODES)) {
    const input = h("input", { type: "radio", name: "mode", value: verb, onchange: () => write(verb) });
    buttons.set(verb, [input, h("label", { class: "check" }, input, ` ${name}`)]);
  }

  function keep() {
    if (!text.element.value) sessionStorage.removeItem(place);
    else sessionStorage.setItem(place, JSON.stringify({ mode, text: text.element.value }));
  }

  function choose(verb) {
    mode = verb;
    buttons.get(verb)[0].checked = true;
    element.classList.toggle("internal", verb === "add_note");
    hint.textContent = MODES[verb].hint(life.fields());
    send.textContent = MODES[verb].send;
    keep();
  }

  function draw(possible) {
    const can = Object.keys(MODES).filter((verb) => verb in possible);
    element.hidden = !can.length;
    text.element.placeholder = can.length > 1 ? "Write a reply or a note" : "Write a reply";
    // What was read before one writes.
    if (!text.element.value || !since.version) since = { version: life.known };
    if (!can.length || modes.dataset.can === String(can)) return;
    modes.dataset.can = String(can);
    put(modes, modes.firstChild, can.map((verb) => buttons.get(verb)[1]));
    choose(can.includes(mode) ? mode : can[0]);
  }

  async function submit(event) {
    event.preventDefault();
    if (send.disabled) return; // it is on its way
    put(general);
    text.fault("");
    send.disabled = true;
    const [verb, body] = [mode, text.element.value];
    try {
      // Others' words and what became of the ticket may be answered otherwise.
      const minds = ({ type }) =>
        verb === "reply" && (STEPS.has(type) || /Replied|Resolved|Note/.test(type));
      const answer = await life.submit(verb, { body }, key, { since, minds });
      // What was typed meanwhile stays.
      const { value } = text.element;
      text.write(value.startsWith(body) ? value.slice(body.length).trimStart() : value);
      keep();
      key = newKey();
      say(verb === "reply" ? "The reply was sent." : "The note was added.");
      if (answer.follow_up && element.isConnected) location.hash = `#/tickets/${answer.follow_up}`;
      if (!text.element.value) text.element.blur(); // so that single keys are keys again
    } catch (error) {
      refused(error, { body: text }, general);
      if (!isUnknown(error)) key = newKey();
      if (mayFocus(element)) text.focus();
    }
    send.disabled = false;
  }

  function write(verb) {
    if (element.hidden) return;
    if (buttons.get(verb)[1].isConnected) choose(verb);
    text.focus();
    element.scrollIntoView({ block: "nearest" });
  }

  return { element, draw, write };
}
