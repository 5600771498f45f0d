// What an event says, in words: what was done, and what that changed, each said once.

import { h, shown, words } from "./dom.js";

// What was done; what it changed comes behind it.
const TOLD = {
  TicketOpened: "opened the ticket",
  TicketNumbered: "gave it a number",
  StatusUpdated: "changed the status",
  TicketResolved: "resolved it",
  TicketReopened: "reopened it",
  TicketClosed: "closed it",
  TicketAssigned: "set the assignee",
  TicketUnassigned: "took it from its assignee",
  TicketMovedToGroup: "moved it to another group",
  PriorityChanged: "changed the priority",
  SubjectChanged: "changed the subject",
  RequesterChanged: "changed the requester",
  AgentReplied: "replied",
  RequesterReplied: "replied",
  ReplyForwarded: "replied in the ticket that goes on",
  MessageRedacted: "redacted a message",
  NoteAdded: "added an internal note",
  TagsAdded: "added tags",
  TagsRemoved: "removed tags",
  FieldSet: "set a field",
  FollowerAdded: "added a follower",
  FollowerRemoved: "removed a follower",
  FileAttached: "attached a file",
  FileDetached: "took a file away",
  TicketLinked: "linked another ticket",
  TicketUnlinked: "removed a link",
  TicketMergedInto: "merged it into another ticket",
  TicketMergedFrom: "merged another ticket into it",
  TicketUnmerged: "undid its merge",
  MergeUndone: "undid a merge into it",
  PromiseTakenOver: "took over an earlier promise",
  PromiseGivenBack: "gave a promise back",
  TicketRated: "rated it",
  SlaChanged: "changed what is promised",
  SlaBreached: "SLA breached",
};
// Fields that hold what was said, which is shown as such.
const SAID = ["body", "resolution"];
const OF_AN_OPENING = ["requester", "priority", "group", "tags", "fields"];

export const told = (event) => {
  const what = TOLD[event?.type] ?? words(String(event?.type ?? "damaged"));
  return event?.data?.automatic === true ? `${what} automatically` : what;
};

// A value of a ticket's field, as text or elements; `name` makes a link of a ticket's id.
export function valueOf(value, name) {
  if (value?.relation) return h("span", {}, `${words(value.relation)} `, name(value.ticket));
  if (value?.sha256) return value.name;
  if (value?.score) return `${value.score} of 5${value.comment ? `: ${value.comment}` : ""}`;
  return shown(value);
}

const isNamed = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && !value.score;

// Those of a change of fields by name that are others now.
function parts({ field, before, after }) {
  if (field !== "fields" || !isNamed(before ?? {}) || !isNamed(after ?? {})) return [{ field, before, after }];
  return [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])]
    .filter((key) => shown(before?.[key]) !== shown(after?.[key]))
    .map((key) => ({ field: key, before: before?.[key], after: after?.[key] }));
}

// What an event changed: of lists what was added and removed, of the rest before and after.
export function changes(event, name) {
  if (event.changes === null)
    return h("span", { class: "bad" }, "What this changed is not known: an event cannot be read.");
  const seen = (event.changes ?? [])
    .filter(({ field }) => !SAID.includes(field))
    .filter(({ field }) => event.type !== "TicketOpened" || OF_AN_OPENING.includes(field))
    .flatMap(parts)
    .filter(({ before, after }) => shown(before) !== shown(after))
    .filter(({ field, after }) => after !== null || !field.endsWith("_due_at")); // it was kept, or waits
  if (!seen.length) return null;
  // A field that the words before name already is not named again.
  const isNamedBy = (field) => told(event).toLowerCase().includes(words(field).replace(/s$/, ""));
  seen.sort((a, b) => isNamedBy(b.field) - isNamedBy(a.field));
  return h(
    "span",
    { class: "changes" },
    seen.map((change) => changed(change, isNamedBy(change.field) ? "" : `${words(change.field)} `, name)),
  );
}

function changed({ field, before, after }, label, name) {
  if (Array.isArray(before ?? []) && Array.isArray(after ?? [])) {
    const is = (list) => new Set((list ?? []).map((each) => JSON.stringify(each)));
    const [was, now] = [is(before), is(after)];
    const added = (after ?? []).filter((each) => !was.has(JSON.stringify(each)));
    const removed = (before ?? []).filter((each) => !now.has(JSON.stringify(each)));
    return h(
      "span",
      {},
      label,
      added.map((each) => h("ins", {}, field === "sla_breached" ? "" : "+ ", valueOf(each, name), " ")),
      removed.map((each) => h("del", {}, "− ", valueOf(each, name), " ")),
    );
  }
  const none = before === null || before === undefined || before === "";
  return h(
    "span",
    {},
    label,
    none ? null : [h("del", {}, valueOf(before, name)), " → "],
    h("ins", {}, valueOf(after, name)),
  );
}
