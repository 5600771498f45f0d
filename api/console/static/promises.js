// What was promised for a ticket: what is left of it, and on a click how that comes about.

import { duration, h, put, redraw, shown, trouble, when, words } from "./dom.js";

const WHY = {
  open: "counts",
  closed: "outside business hours",
  holiday: "holiday",
  paused: "paused",
};
const time = (ms) => duration(ms / 1000);
const brief = (ms) => time(ms).split(" ").slice(0, 2).join(" ");
const sentence = (target) => words(target)[0].toUpperCase() + words(target).slice(1);
const STATES = {
  counting: (each) => ["due ", when(each.due_at)],
  paused: (each) => [`${time(each.left_ms)} left, paused`],
  kept: () => [h("span", { class: "good" }, "met")],
  missed: (each) => [h("span", { class: "bad" }, "SLA breached"), ` by ${brief(-each.left_ms)}`],
};

// `element`, and `draw()`, which asks for them; `name` makes a link of a ticket's id.
export function promises({ api, id }, signal, name) {
  const element = h("section", { class: "card", "aria-label": "Promises", hidden: true });

  async function draw() {
    const answer = await api.get(`/tickets/${id}/sla`, {}, signal).catch((error) => error);
    if (answer.name === "AbortError") return;
    const some = answer.promises?.filter((each) => each.state !== "idle") ?? [];
    if (answer.promises ? !some.length : answer.status === 404) return put(element); // 404: not for this caller any more
    if (!answer.promises) return put(element, h("h2", {}, "SLA"), trouble(answer, draw));
    redraw(element, answer, () => [h("h2", {}, "SLA"), some.map((each) => promise(each, answer.intervals))]);
  }

  const promise = (each, intervals) =>
    h(
      "details",
      {},
      h(
        "summary",
        {},
        h("span", { class: "promise" }, h("span", {}, sentence(each.target)), h("span", {}, STATES[each.state](each))),
      ),
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
        h("tbody", {}, intervals.filter((one) => !each.since || one.end > each.since).map((one) => stretch(one, each.target))),
      ),
    );

  const stretch = (one, target) =>
    h(
      "tr",
      {},
      h("td", {}, shown(one.start)),
      h("td", {}, time(Date.parse(one.end) - Date.parse(one.start))),
      h(
        "td",
        {},
        one.counts_for.includes(target) ? "counts" : one.why === "open" ? "done" : WHY[one.why],
        one.reason ? `: ${one.reason}` : "",
      ),
    );

  return { element, draw };
}
