// What is done with several tickets at once.

import { button, h, inDialog, menu, redraw } from "./dom.js";
import { commandForm, commands } from "./forms.js";

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

// A line on how many are `picked`, ids of tickets, with what can be done with them. `clear()` picks none;
// `done(chosen, outcomes)` hears what became of those that were chosen.
export function bulk(context, picked, { clear, done }) {
  const { api, me, say } = context;
  const element = h("div", { class: "bulk", role: "region", "aria-label": "Selection", hidden: true });
  const verbs = commands(api, me.role, "/bulk/").catch(() => []);

  async function draw() {
    const all = await verbs;
    const usual = FIRST.map((verb) => all.find(([each]) => each === verb)).filter(Boolean);
    element.hidden = !picked.size;
    redraw(element, picked.size, () => [
      h("strong", {}, `${picked.size} selected`),
      menuOf("Change", usual),
      menuOf("More", all.filter((each) => !usual.includes(each))),
      button("Clear", clear, "quiet small"),
    ]);
  }

  function menuOf(label, some) {
    const made = menu(label, some.map(([verb, summary]) => [summary, () => change(verb, summary)]));
    made.classList.add("left");
    return made;
  }

  const change = (verb, summary) =>
    inDialog(summary, (close) => {
      const chosen = [...picked];
      const path = `/bulk/${verb}`;
      return commandForm(context, {
        path,
        name: `${summary}: ${chosen.length === 1 ? "1 ticket" : `${chosen.length} tickets`}`,
        action: summary,
        given: verb === "assign" ? { assignee: me.id } : {},
        send: (command, key) => api.command(path, { tickets: chosen, command }, { key }),
        done: (answer) => {
          close();
          say(`${answer.done} of ${chosen.length} done.`);
          return done(chosen, answer);
        },
        cancel: close,
      });
    });

  return { element, draw };
}
