// The desk: how it stands, how it went and whether that is more than before, now or at the end of a
// past day.

import { showing } from "./api.js";
import { button, empty, h, loading, number, put, trouble, welcome, words } from "./dom.js";
import { tile } from "./parts.js";
import { COUNTS, TIMES, plot, span } from "./plots.js";

const STATUSES = ["new", "open", "pending", "on_hold", "resolved", "closed"];
const PRIORITIES = ["urgent", "high", "normal", "low"];
const MOST_NAMED = 12;
const USUAL_DAYS = "30";
const MONTH = "month";
const FIRST_DAY = "2000-01-01"; // while a year is typed, it is one long ago
const DAY_MS = 86400000;
const iso = (time) => new Date(time).toISOString().slice(0, 10);

export function desk(main, { api, session, me, query: chosen, address }) {
  let answered = null; // the day that the last answer took for today
  const today = () => answered ?? new Date().toISOString().slice(0, 10);
  let asking = new AbortController(); // what is asked for now; whatever was before is not drawn
  const day = h("input", { id: "day", type: "date", min: FIRST_DAY, max: today(), value: chosen.get("day") ?? "" });
  const group = h("select", { id: "group" }, h("option", { value: "*" }, "all groups"));
  const period = h(
    "select",
    { id: "period" },
    [
      [7, "7 days"],
      [30, "30 days"],
      [90, "90 days"],
      [365, "365 days"],
      [MONTH, "last month"],
    ].map(([value, name]) => h("option", { value: String(value) }, name)),
  );
  const toNow = () => {
    day.value = "";
    dayChosen();
  };
  const now = button("Now", toNow, "quiet");
  const zone = h("select", { id: "zone" });
  const zones = h("span", { class: "controls", hidden: true }, h("label", { for: "zone" }, "Days of"), zone);
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
        h("span", {}, h("label", { for: "day" }, "As of the end of "), day),
        now,
        h("span", {}, h("label", { for: "group" }, "Group "), group),
        h("span", {}, h("label", { for: "period" }, "Period "), period),
        zones,
      ),
    ),
    figures,
    h("div", { class: "plots" }, plots),
    shares,
  );
  const take = (control, value) => [...control.options].some((each) => each.value === value) && (control.value = value);
  if (!take(period, chosen.get("period"))) period.value = USUAL_DAYS;
  period.addEventListener("change", () => {
    if (period.value === MONTH) day.value = iso(new Date(`${today().slice(0, 8)}01`) - DAY_MS);
    all();
  });
  for (const control of [group, zone]) control.addEventListener("change", all);
  day.addEventListener("change", dayChosen);

  // A day that is half typed is none yet.
  function dayChosen() {
    if (day.validity.badInput || day.validity.rangeUnderflow) return;
    if (period.value === MONTH) period.value = USUAL_DAYS;
    all();
  }

  // A month is that of the day, up to it.
  const days = () => (period.value === MONTH ? Number(day.value.slice(8)) : Number(period.value));

  let after; // what has happened is to be shown
  const query = (more) => {
    const found = new URLSearchParams(more);
    if (group.value !== "*") found.set("group", group.value);
    if (zone.value) found.set("tz", zone.value);
    if (after && !day.value) found.set("after", after);
    return found;
  };

  async function stand() {
    const { signal } = asking;
    const asked = { days: days(), ...(day.value ? { date: day.value } : {}) };
    const found = await api.get(`/dashboard?${query(asked)}`, {}, signal);
    if (signal.aborted) return;
    if (!day.value) answered = found.date;
    drawFigures(found);
    drawShares(found);
  }

  async function went() {
    const { signal } = asking;
    const last = day.value || today();
    const first = iso(new Date(last) - (days() - 1) * DAY_MS);
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
    plot(
      plots[0],
      "Backlog",
      backlog.days,
      [{ name: "unsolved", colour: "--plot-1", value: (d) => d.value }],
      COUNTS,
    );
    plot(
      plots[1],
      "Created and resolved, a day",
      both,
      [
        { name: "created", colour: "--plot-1", value: (d) => d.created },
        { name: "resolved", colour: "--plot-2", value: (d) => d.resolved },
      ],
      COUNTS,
    );
    const quantiles = [
      { name: "median", colour: "--plot-1", value: (d) => d.value.p50_seconds, isGappy: true },
      { name: "p90", colour: "--plot-2", value: (d) => d.value.p90_seconds, isGappy: true },
    ];
    plot(plots[2], "Time to first response", response.days, quantiles, TIMES);
    plot(plots[3], "Time to resolution", resolution.days, quantiles, TIMES);
  }

  // How a number compares with that of the period before.
  function trend(now, before, told = number) {
    if (now === null || before === null) return before === null ? null : `before: ${told(before)}`;
    if (now === before) return `as before`;
    const way = now > before ? "up" : "down";
    const percent = before ? Math.round((100 * Math.abs(now - before)) / before) : null;
    const isAlmostAll = percent === 100 && now > 0 && now < before;
    const much = percent === null ? "" : isAlmostAll ? " more than 99 %" : ` ${number(percent)} %`;
    return `${way}${much} from ${told(before)}`;
  }

  function drawFigures(found) {
    const total = Object.values(found.tickets).reduce((sum, n) => sum + n, 0);
    if (!total) {
      const none = group.value === "*" ? "No ticket had been opened by then." : "There is nothing in this group.";
      put(figures, group.value === "*" && !day.value ? welcome(me) : empty(none));
      return;
    }
    const on = found.on_date;
    const { happened, before, backlog_before } = found.period;
    const breaches = (each) =>
      each.breached_first_response + each.breached_next_response + each.breached_resolution;
    const count = (name, of) =>
      tile(name, number(of(happened)), [
        trend(of(happened), of(before)),
        `${number(of(on))} ${day.value ? "on that day" : "today"}`,
      ]);
    const time = (name, of) => {
      const [now, then] = [happened[of], before[of]];
      return tile(name, span(now.p50_seconds), [
        `median, ${trend(now.p50_seconds, then.p50_seconds, span) ?? "none before"}`,
        h(
          "span",
          { title: "nine of ten took at most this" },
          `p90 ${span(now.p90_seconds)}, ${trend(now.p90_seconds, then.p90_seconds, span) ?? "none before"}`,
        ),
      ]);
    };
    const { count: rated, mean } = found.ratings;
    put(
      figures,
      h(
        "dl",
        { class: "tiles" },
        tile(
          "Unsolved",
          number(found.backlog.total),
          [trend(found.backlog.total, backlog_before), `of ${number(total)} in all`],
          "first",
        ),
        STATUSES.map((status) => tile(words(status), number(found.tickets[status] ?? 0))),
      ),
      h("h2", {}, day.value ? `The ${days()} days to ${found.date}` : `Last ${days()} days`),
      h("p", { class: "note" }, asOf(found)),
      h(
        "dl",
        { class: "tiles" },
        ["created", "resolved", "reopened", "closed"].map((name) => count(name, (each) => each[name])),
        count("SLA breached", breaches),
        time("first response", "first_response"),
        time("resolution", "resolution"),
        tile("rating", mean === null ? "–" : mean.toFixed(1), rated ? [`mean of all ${number(rated)}`] : []),
      ),
    );
  }

  // What the answer covers, and what it is compared with.
  function asOf(found) {
    const { time_zone } = found.covers;
    const recorded = new Date(Date.now() - 1000 * (session.age ?? 0)).toLocaleTimeString("en-GB", { timeZone: time_zone });
    const until = day.value
      ? `As of the end of ${found.date}, in days of ${time_zone}.`
      : `As of ${recorded}, in days of ${time_zone}.`;
    return `${until} Compared with the ${days()} days before, which ended before ${found.period.from}.`;
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
        share("SLA", found.backlog.sla, ["breached", "running", "paused", "none"]),
      ),
    );
  }

  // What is chosen stands in the address, for who comes back or is sent it.
  function keep() {
    const kept = new URLSearchParams();
    if (day.value) kept.set("day", day.value);
    if (group.selectedIndex > 0) kept.set("group", group.value);
    if (period.value !== USUAL_DAYS) kept.set("period", period.value);
    if (zone.selectedIndex > 0) kept.set("zone", zone.value);
    address(kept.size ? `#/desk?${kept}` : "#/desk");
  }

  async function all() {
    asking.abort();
    asking = new AbortController();
    if (day.max !== today()) day.max = today(); // to set it clears what is half typed
    now.hidden = !day.value;
    keep();
    try {
      const from = today();
      await Promise.all([stand(), went()]);
      if (!day.value && today() !== from) await went(); // it is another day there
    } catch (error) {
      if (error.name !== "AbortError") put(figures, trouble(error, all));
    }
  }

  // Agents of groups are shown those, one at a time; others may choose, and see all.
  async function begin() {
    const found = await api.get("/desk", {}, asking.signal).catch((error) => {
      if (error.status !== 403) throw error;
      return { desk: { groups: {}, other_time_zones: [] } }; // not for this key: its groups cannot be told
    });
    const { time_zone, other_time_zones } = found.desk;
    zones.hidden = !other_time_zones.length;
    if (other_time_zones.length)
      put(zone, [time_zone, ...other_time_zones].map((name) => h("option", { value: name }, name)));
    const groups = Object.entries(found.desk.groups);
    const isOfGroups = me.role === "agent" && groups.length > 0;
    const own = groups.filter(([, members]) => !isOfGroups || members.includes(me.id));
    if (isOfGroups) put(group);
    const names = new Set(own.map(([name]) => name));
    if (!isOfGroups) for (const name of chosen.getAll("group")) names.add(name);
    for (const name of names) group.append(h("option", { value: name }, name));
    take(group, chosen.get("group"));
    take(zone, chosen.get("zone"));
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
