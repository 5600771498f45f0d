// The table of tickets: a line for each, boxes to select them by, and headings to sort by.

import { button, h, preview } from "./dom.js";

// In `list`. `picked`: ids of tickets, of which `selected` hears when they change; `can`: they can be
// selected; `sorts`: what lists can be sorted by, which `sortBy` does.
export function rows(list, picked, { can, sorts, sortBy, selected }) {
  // `columns`: what is shown of each, `changed`: ids of those that are not as they were.
  const table = (tickets, columns, sort, changed) =>
    h(
      "table",
      { class: "rows" },
      h("caption", { class: "hidden" }, "Tickets"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          can ? h("th", { class: "c-pick", scope: "col" }, pick("Select all on this page", tickets)) : null,
          h("th", { class: "c-number", scope: "col" }, "Number"),
          h("th", { class: "c-subject", scope: "col" }, "Subject"),
          columns.map((column) => heading(column, sort)),
        ),
      ),
      h("tbody", {}, tickets.map((each) => row(each, columns, changed))),
    );

  function heading([title, kind, , by], sort) {
    const other = by?.startsWith("-") ? by.slice(1) : `-${by}`;
    const isBy = by && [by, other].includes(sort);
    const way = isBy ? (sort.startsWith("-") ? "descending" : "ascending") : null;
    const next = sort === by && sorts.some(([value]) => value === other) ? other : by;
    return h("th", { class: kind, scope: "col", "aria-sort": way }, by ? button(title, () => sortBy(next), "bare") : title);
  }

  const row = (each, columns, changed) =>
    h(
      "tr",
      {
        class: [changed.has(each.id) && "changed", picked.has(each.id) && "picked"].filter(Boolean).join(" "),
        "data-id": each.id,
      },
      can ? h("td", { class: "c-pick" }, pick(`Select ${each.number ?? each.subject}`, [each])) : null,
      h("td", { class: "c-number number" }, each.number ?? "–"),
      h(
        "td",
        { class: "c-subject", title: each.subject },
        each.sla_breached?.length ? h("span", { class: "badge sla-breached", title: "SLA breached" }, "SLA ") : null,
        h("a", { href: `#/tickets/${each.id}` }, each.subject),
        h("span", { class: "preview" }, ` ${preview(each)}`),
      ),
      columns.map(([, kind, cell]) => h("td", { class: kind }, cell(each))),
    );

  // A box that selects some tickets.
  const pick = (label, some) =>
    h("input", {
      type: "checkbox",
      "aria-label": label,
      checked: some.every(({ id }) => picked.has(id)),
      onchange: ({ target }) => {
        for (const { id } of some) target.checked ? picked.add(id) : picked.delete(id);
        mark();
      },
    });

  // Marks what is selected.
  function mark() {
    for (const each of all()) each.classList.toggle("picked", picked.has(each.dataset.id));
    const boxes = [...list.querySelectorAll("td.c-pick input")];
    for (const box of boxes) box.checked = Boolean(box.closest(".picked"));
    const whole = list.querySelector("th.c-pick input");
    if (whole) {
      whole.checked = boxes.every((box) => box.checked);
      whole.indeterminate = !whole.checked && picked.size > 0;
    }
    selected();
  }

  const all = () => [...list.querySelectorAll("tbody tr")];
  const focused = () => all().findIndex((each) => each.contains(document.activeElement));
  const focus = (at) => all()[at]?.querySelector("a").focus();
  return {
    table,
    mark,
    focus,
    step: (by) => focus(Math.max(0, Math.min(all().length - 1, focused() + by))),
    current: () => all()[focused()]?.dataset.id, // the ticket that has the focus
    toggle: () => all()[Math.max(0, focused())]?.querySelector("input")?.click(),
  };
}
