// The columns of the list: which there are, and which are chosen.

import { badge, h, menu, when } from "./dom.js";

const CHOSEN = "casebook-columns";
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

function kept() {
  try {
    const names = JSON.parse(localStorage.getItem(CHOSEN));
    return names.every((each) => typeof each === "string") ? names : USUAL;
  } catch {
    return USUAL; // none were chosen, or what was kept is damaged
  }
}

const column = (name) => (name.startsWith("field.") ? fieldColumn(name.slice(6)) : COLUMNS[name]);

// `chosen()`: those that are shown; `choose(fields)`: a menu to choose them from, with the desk's custom
// fields; `changed` hears of a choice.
export function columns(changed) {
  let names = kept();

  function choose(fields) {
    const all = [...Object.keys(COLUMNS), ...Object.keys(fields).map((key) => `field.${key}`)];
    const box = (name) =>
      h("input", {
        type: "checkbox",
        checked: names.includes(name),
        onchange: ({ target }) => {
          names = all.filter((each) => (each === name ? target.checked : names.includes(each)));
          localStorage.setItem(CHOSEN, JSON.stringify(names));
          changed();
        },
      });
    return menu("Columns", all.map((name) => h("label", { class: "check" }, box(name), ` ${column(name)[0]}`)));
  }

  return { chosen: () => names.map(column).filter(Boolean), choose };
}
