// A ticket's properties at the side, each of which is edited where it stands.

import { button, focusOn, h, mayFocus, put, redraw, shown, when, words } from "./dom.js";
import { valueOf } from "./events.js";
import { field } from "./fields.js";
import { customField, described, form, kindFor } from "./forms.js";

// By which command a property is changed, what it is called there, and what clears it.
const EDITED = {
  assignee: ["assign", "assignee", "unassign"],
  group: ["move_to_group", "group"],
  priority: ["change_priority", "priority"],
  requester: ["change_requester", "requester"],
  subject: ["change_subject", "subject"],
};
const LISTED = { tags: ["add_tags", "remove_tags", "tags"], followers: ["follow", "unfollow", "follower"] };

// `act` and `once` do something; `name` makes a link of a ticket's id. `draw(at, possible)` shows them as
// they were at a version, or, if it is null, as they are, with what can be done.
export function properties(life, { act, once, name }) {
  const { api, session, me } = life;
  const element = h("aside", { class: "card", "aria-label": "Properties" });
  const rename = h("div");
  const cells = new Map(); // by label: { row, place }
  let at = null;
  let possible = {};
  const can = (verb) => at === null && verb in possible;

  async function draw(at_ = at, possible_ = possible) {
    [at, possible] = [at_, possible_];
    const desk = await session.known.desk();
    const count = at ?? life.events.length;
    const event = life.events[count - 1];
    const marked = new Set(at === null ? [] : (event?.changes ?? []).map((change) => change.field));
    const rows = rowsOf(life.fields(count), desk);
    for (const [label, value, draw_, of = label] of rows) {
      const cell = cells.get(label) ?? { place: h("dd") };
      cell.row ??= h("div", {}, h("dt", {}, words(label)), cell.place);
      cells.set(label, cell);
      cell.row.className = marked.has(of) ? "changed" : "";
      if (!cell.place.querySelector("form")) redraw(cell.place, [value, at, possible], draw_); // or what is typed would go
    }
    const labels = rows.map(([label]) => label);
    redraw(element, [labels, at], () => [
      h("h2", {}, at === null ? "Properties" : ["As it was, ", when(event?.occurred_at, true)]),
      h("dl", { class: "props state" }, labels.map((label) => cells.get(label).row)),
    ]);
  }

  // [label, value, how it is shown, the field that it is of]
  function rowsOf(now, desk) {
    const edited = (label, text = shown(now[label])) => [
      label,
      now[label] ?? null,
      () => (can(EDITED[label][0]) ? inPlace(label, text, () => propertyForm(label)) : text),
    ];
    const plain = (label, value = now[label]) => [label, value ?? null, () => shown(value)];
    const keys = [...new Set([...Object.keys(desk.fields), ...Object.keys(now.fields ?? {})])];
    const chips = (label) => [label, now[label] ?? [], () => chipsOf(label, now[label] ?? [])];
    return [
      ["status", now.status ?? null, () => statusOf(now.status)],
      ["assignee", now.assignee ?? null, () => [edited("assignee", now.assignee ?? "nobody")[2](), taking(now)]],
      edited("group"),
      edited("priority"),
      edited("requester"),
      chips("tags"),
      chips("followers"),
      ...keys.map((key) => [key, now.fields?.[key] ?? null, () => customOf(key, now.fields?.[key], desk.fields), "fields"]),
      ...(now.links?.length ? [["links", now.links, () => linksOf(now.links)]] : []),
      ...(now.attachments?.length ? [["files", now.attachments, () => filesOf(now.attachments), "attachments"]] : []),
      ...["waiting_reason", "close_reason"].filter((label) => now[label]).map((label) => plain(label)),
      ...(now.resume_at ? [["resume_at", now.resume_at, () => when(now.resume_at)]] : []),
      ...(now.rating ? [["rating", now.rating, () => valueOf(now.rating)]] : []),
      ["opened", life.events[0]?.occurred_at, () => when(life.events[0]?.occurred_at), "opened_at"],
    ];
  }

  const filesOf = (files) => shown(files.map((file) => file.name));

  const statusOf = (status) =>
    can("update_status")
      ? changing("status", words(status), () => act("update_status", "Change status"))
      : words(status ?? "–");

  const gives = ({ changes = [] }) => changes.some((each) => each.field === "assignee");
  const taking = (now) =>
    can("assign") && now.assignee !== me.id
      ? button("Take it", () => once("assign", { assignee: me.id }, gives), "quiet small")
      : null;

  function customOf(key, value, kinds) {
    const text = shown(value);
    if (!can("set_field")) return text;
    // One that the desk does not define can only be taken away, once it defines any.
    const isFree = !Object.keys(kinds).length || Object.hasOwn(kinds, key);
    if (isFree) return inPlace(key, text, () => fieldForm(key, kinds[key]));
    return h("span", { class: "chip" }, text, remover(key, () => once("set_field", { key, value: null })));
  }

  const changing = (label, text, act_) =>
    button(text, act_, "bare", { title: "Change", "aria-label": `${words(label)}: ${text}. Change` });

  // A value that becomes its own editor; the focus comes back to it.
  function inPlace(label, text, make) {
    const value = changing(label, text, async () => {
      const { place } = cells.get(label);
      const content = await make();
      if (!place.isConnected || place.querySelector("form")) return;
      ending(content, () => {
        const isHere = mayFocus(place);
        put(place, value);
        if (isHere) value.focus();
        draw();
      });
      put(place, content);
      focusOn(content.querySelector("input, select, textarea"));
    });
    return value;
  }

  // An editor ends when it is done or cancelled, also by Escape.
  function ending(content, close) {
    content.addEventListener("done", close);
    content.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      close();
    });
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
    return editor(key, edit, (value, id, since) => {
      const minds = (event) =>
        (event.changes ?? []).some(
          ({ field: of, before, after }) => of === "fields" && shown(before?.[key]) !== shown(after?.[key]),
        );
      const isNone = Array.isArray(value) && !value.length;
      return life.submit("set_field", { key, value: isNone ? null : value }, id, { since, minds });
    });
  }

  async function editSubject() {
    if (rename.firstChild) return;
    const content = await propertyForm("subject");
    ending(content, () => put(rename));
    put(rename, content);
    focusOn(content.querySelector("input"));
  }

  // Names of which each can be taken away, and a field for one more.
  function chipsOf(label, names) {
    const [add, remove, parameter] = LISTED[label];
    const isTags = parameter === "tags";
    const given = (each) => ({ [parameter]: isTags ? [each] : each });
    const several = (text) => (isTags ? { tags: text.split(",").map((each) => each.trim()) } : given(text));
    const adding = async () => {
      const all = await session.known.suggestions(parameter);
      const kind = { type: "text", suggestions: all.filter((each) => !names.includes(each)) };
      const edit = field(kind, { name: label, label: `Add to ${label}`, hint: isTags ? "Several with commas." : "" });
      return editor(label, edit, (value, key, since) =>
        life.submit(add, several(value ?? ""), key, { since, minds: () => false }),
      );
    };
    const plus = can(add) ? inPlace(label, "+", adding) : null;
    plus?.setAttribute("aria-label", `Add to ${label} +`);
    const chip = (each) => {
      const taken = () => once(remove, given(each));
      return h("span", { class: "chip" }, each, can(remove) ? remover(each, taken) : null);
    };
    return h("span", { class: "chips" }, names.map(chip), names.length || plus ? null : "–", plus);
  }

  const remover = (name_, act_) =>
    button("×", act_, null, { "aria-label": `Remove ${name_}` });

  function linksOf(links) {
    const own = (link) => !/merged|follow/.test(link.relation);
    const ring = h("p", { class: "fault" });
    const tell = ({ rings }) =>
      rings && put(ring, `Lead back to this ticket: ${rings.map(words).join(", ")}. Take one of them away.`);
    api.get(`/tickets/${life.id}`, {}, life.signal).then(tell, () => {});
    const unlink = (link) =>
      button(" ×", () => act("unlink", "Unlink", {}, link), "bare", { "aria-label": "Remove the link" });
    const line = (link) => h("div", {}, valueOf(link, name), can("unlink") && own(link) ? unlink(link) : null);
    return [...links.map(line), ring];
  }

  const press = (label) => cells.get(label)?.place.querySelector("[title=Change]")?.click();

  return { element, rename, draw, editSubject, press };
}
