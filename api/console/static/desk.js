// The desk: how it stands and how it went, now or at the end of a past day.

import { showing } from "./api.js";
import { duration, empty, h, loading, number, put, trouble, words } from "./dom.js";
import { plot } from "./plots.js";

const STATUSES = ["new", "open", "pending", "on_hold", "resolved", "closed"];
const PRIORITIES = ["urgent", "high", "normal", "low"];
const MOST_NAMED = 12;

export function desk(main, { api, session, me }) {
  const today = () => new Date().toISOString().slice(0, 10);
  let asking = new AbortController(); // what is asked for now; whatever was before is not drawn
  const day = h("input", { id: "day", type: "date", max: today() });
  const group = h("select", { id: "group" }, h("option", { value: "*" }, "all groups"));
  const span = h(
    "select",
    { id: "span" },
    [
      [30, "30 days"],
      [90, "90 days"],
      [365, "a year"],
    ].map(([value, name]) => h("option", { value: String(value) }, name)),
  );
  const now = h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: () => {
        day.value = "";
        all();
      },
    },
    "Now",
  );
  const figures = h("div", { class: "figures" }, loading("the desk"));
  const plots = ["Backlog", "Created and resolved", "First response", "Resolution"].map(() =>
    h("figure", { class: "plot" }),
  );
  const shares = h("div", { class: "shares" });
  put(
    main,
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Desk"),
      h(
        "form",
        { class: "controls", onsubmit: (event) => event.preventDefault() },
        h("label", { for: "day" }, "As of the end of"),
        day,
        now,
        h("label", { for: "group" }, "Group"),
        group,
        h("label", { for: "span" }, "Plots over"),
        span,
      ),
    ),
    figures,
    h("div", { class: "plots" }, plots),
    shares,
  );
  for (const control of [day, group, span]) control.addEventListener("change", all);

  let after; // what has happened is to be shown
  const query = (more) => {
    const found = new URLSearchParams(more);
    if (group.value !== "*") found.set("group", group.value);
    if (after && !day.value) found.set("after", after);
    return found;
  };

  async function stand() {
    const { signal } = asking;
    const found = await api.get(`/dashboard?${query(day.value ? { date: day.value } : {})}`, {}, signal);
    if (signal.aborted) return;
    drawFigures(found);
    drawShares(found);
  }

  async function went() {
    const { signal } = asking;
    const last = day.value || today();
    const first = new Date(Date.parse(`${last}T00:00:00Z`) - (Number(span.value) - 1) * 86400000)
      .toISOString()
      .slice(0, 10);
    const series = (metric) =>
      api.get(`/dashboard/series?${query({ metric, from: first, to: last })}`, {}, signal);
    const [backlog, created, resolved, response, resolution] = await Promise.all(
      ["backlog", "created", "resolved", "first_response", "resolution"].map(series),
    );
    if (signal.aborted) return;
    const both = created.days.map((each, n) => ({
      date: each.date,
      created: each.value,
      resolved: resolved.days[n]?.value ?? 0,
    }));
    plot(plots[0], "Backlog", backlog.days, [
      { name: "unsolved", colour: "--plot-1", value: (d) => d.value, told: number },
    ]);
    plot(plots[1], "Created and resolved, a day", both, [
      { name: "created", colour: "--plot-1", value: (d) => d.created, told: number },
      { name: "resolved", colour: "--plot-2", value: (d) => d.resolved, told: number },
    ]);
    const quantiles = [
      {
        name: "median",
        colour: "--plot-1",
        value: (d) => d.value.p50_seconds,
        told: duration,
        isGappy: true,
      },
      {
        name: "p90",
        colour: "--plot-2",
        value: (d) => d.value.p90_seconds,
        told: duration,
        isGappy: true,
      },
    ];
    plot(plots[2], "First response", response.days, quantiles);
    plot(plots[3], "Resolution", resolution.days, quantiles);
  }

  function drawFigures(found) {
    const total = Object.values(found.tickets).reduce((sum, n) => sum + n, 0);
    if (!total) {
      put(
        figures,
        empty(
          group.value !== "*"
            ? "There is nothing in this group."
            : day.value
              ? "No ticket had been opened by then."
              : "There are no tickets yet. Open one under Tickets, or load some with “make demo”.",
        ),
      );
      return;
    }
    const on = found.on_date;
    const tile = (name, value, more, kind = "") =>
      h(
        "div",
        { class: `tile ${kind}` },
        h("dt", {}, name),
        h("dd", {}, value, more ? h("small", {}, more) : null),
      );
    put(
      figures,
      h(
        "dl",
        { class: "tiles" },
        tile("Unsolved", number(found.backlog.total), `of ${number(total)}`, "first"),
        STATUSES.map((status) => tile(words(status), number(found.tickets[status] ?? 0))),
      ),
      h("h2", {}, day.value ? `On ${found.date}` : "Today"),
      h(
        "dl",
        { class: "tiles" },
        tile("created", number(on.created)),
        tile("resolved", number(on.resolved)),
        tile("reopened", number(on.reopened)),
        tile("closed", number(on.closed)),
        tile(
          "SLAs breached",
          number(on.breached_first_response + on.breached_next_response + on.breached_resolution),
        ),
        tile("first response", duration(on.first_response.p50_seconds), "median"),
        tile("resolution", duration(on.resolution.p50_seconds), "median"),
        tile(
          "rating",
          found.ratings.mean === null ? "–" : found.ratings.mean.toFixed(1),
          `${number(found.ratings.count)} in all`,
        ),
      ),
    );
  }

  function drawShares(found) {
    const known = new Set([...group.options].map((option) => option.value));
    for (const name of Object.keys(found.backlog.group))
      if (me.role !== "agent" && !known.has(name)) group.append(h("option", { value: name }, name || "none"));
    const share = (title, numbers, order, none = "none") => {
      const rows = order
        ? order.filter((name) => numbers[name]).map((name) => [name, numbers[name]])
        : Object.entries(numbers).sort((a, b) => b[1] - a[1]);
      const most = Math.max(1, ...rows.map(([, n]) => n));
      return h(
        "section",
        { class: "share" },
        h("h3", {}, title),
        rows.length
          ? h(
              "table",
              {},
              h(
                "tbody",
                {},
                rows.slice(0, MOST_NAMED).map(([name, n]) => {
                  const bar = h("span", { class: "bar", "aria-hidden": "true" });
                  bar.style.width = `${(100 * n) / most}%`;
                  return h(
                    "tr",
                    {},
                    h("th", { scope: "row" }, words(name) || none),
                    h("td", { class: "n" }, number(n)),
                    h("td", { class: "of" }, bar),
                  );
                }),
              ),
            )
          : empty("Nothing is unsolved."),
        rows.length > MOST_NAMED ? h("p", { class: "more" }, `and ${rows.length - MOST_NAMED} more`) : null,
      );
    };
    put(
      shares,
      h("h2", {}, "Unsolved by"),
      h(
        "div",
        { class: "columns" },
        share("priority", found.backlog.priority, PRIORITIES),
        share("age", found.backlog.age, Object.keys(found.backlog.age)),
        share("group", found.backlog.group),
        share("assignee", found.backlog.assignee, undefined, "nobody"),
        share("promise", found.backlog.sla, ["breached", "running", "paused", "none"]),
      ),
    );
  }

  async function all() {
    asking.abort();
    asking = new AbortController();
    day.max = today();
    now.hidden = !day.value;
    try {
      await Promise.all([stand(), went()]);
    } catch (error) {
      if (error.name !== "AbortError") put(figures, trouble(error, all));
    }
  }

  // Agents of groups are shown those, one at a time; others may choose, and see all.
  async function begin() {
    const found = await api.get("/desk", {}, asking.signal).catch((error) => {
      if (error.status !== 403) throw error;
      return { desk: { groups: {} } }; // not for this key: its groups cannot be told
    });
    const groups = Object.entries(found.desk.groups);
    const isOfGroups = me.role === "agent" && groups.length > 0;
    const own = groups.filter(([, members]) => !isOfGroups || members.includes(me.id));
    if (isOfGroups) put(group);
    for (const [name] of own) group.append(h("option", { value: name }, name));
    if (isOfGroups && !own.length) return put(figures, empty("You belong to no group of this desk yet."));
    await all();
  }

  const quietly =
    (work) =>
    async (events = []) => {
      if (day.value || document.hidden) return;
      after = showing(events) ?? after;
      await work().catch((error) => {
        if (error.code !== "views_behind") return;
        after = undefined; // rather what there is
        return work().catch(() => {});
      });
    };
  const stops = [session.listen(1000, quietly(stand)), session.listen(5000, quietly(went))];
  const ages = setInterval(() => quietly(stand)(), 30000);
  const beginAgain = () =>
    begin().catch((error) => error.name !== "AbortError" && put(figures, trouble(error, beginAgain)));
  beginAgain();
  return () => {
    asking.abort();
    clearInterval(ages);
    stops.forEach((stop) => stop());
    plots.forEach((place) => place.forget?.());
  };
}
