// The machine: how far the views are and who keeps them so, what is parked, what is being built.

import { duration, empty, h, loading, number, put, say, shown, trouble, when, words } from "./dom.js";
import { MOMENTS, plot } from "./plots.js";

const LOOK_MILLISECONDS = 1000;
const KEPT = 300; // looks that are plotted
const TOLD = 5; // looks over which the rate is told
const CONDITIONS = {
  current: "All that was written is shown.",
  slow: "The views are behind, and get on.",
  stuck: "The views do not get on.",
};

export function machine(main, { api, session, me }) {
  const ending = new AbortController();
  const rates = [];
  let last = null;
  let timer = null;
  const summary = h("div", {}, loading("the projections"));
  const replay = h("section", { class: "replay" });
  const throughput = h("figure", { class: "plot" });
  const parked = h("section");
  const parts = h("section");
  const members = h("section");
  const checkpoint = h("section");
  put(
    main,
    h("div", { class: "title" }, h("h1", {}, "System")),
    summary,
    replay,
    h("div", { class: "plots" }, throughput),
    parked,
    h("div", { class: "columns" }, members, checkpoint),
    parts,
  );

  async function look() {
    try {
      const found = await api.get("/projections", {}, ending.signal);
      const now = performance.now();
      if (last)
        rates.push({
          at: Date.now() / 1000,
          rate: Math.max(0, ((found.applied_events - last.applied) * 1000) / (now - last.at)),
        });
      if (rates.length > KEPT) rates.shift();
      last = { applied: found.applied_events, at: now };
      session.aged(found.age_seconds);
      draw(found);
    } catch (error) {
      if (error.name === "AbortError") return;
      const text = trouble(error).textContent; // said once, not each second
      if (summary.textContent !== text) put(summary, trouble(error));
      last = null;
      if (error.status === 401 || error.status === 403) return;
    }
    timer = setTimeout(look, document.hidden ? 10 * LOOK_MILLISECONDS : LOOK_MILLISECONDS);
  }

  // Only what has changed is drawn anew: nothing is to move under somebody's hands.
  const drawn = new Map();
  function once(place, of, ...children) {
    const written = JSON.stringify(of);
    if (drawn.get(place) === written) return;
    drawn.set(place, written);
    const scrolled = place.querySelector(".scroll")?.scrollTop ?? 0;
    const focusable = () => [...place.querySelectorAll("a, button, summary, [tabindex]")];
    const focused = focusable().indexOf(document.activeElement);
    put(place, ...children);
    if (scrolled) place.querySelector(".scroll").scrollTop = scrolled;
    if (focused >= 0) focusable()[focused]?.focus();
  }

  function draw(found) {
    const tile = (name, value, kind = "") =>
      h("div", { class: `tile ${kind}` }, h("dt", {}, name), h("dd", {}, value));
    const recent = rates.slice(-TOLD);
    const rate = recent.length ? recent.reduce((sum, each) => sum + each.rate, 0) / recent.length : null;
    put(
      summary,
      h(
        "p",
        { class: `condition condition-${found.condition}` },
        h("strong", {}, words(found.condition)),
        ` ${CONDITIONS[found.condition] ?? ""}`,
      ),
      found.failures.map((failure) => h("p", { class: "fault" }, failure)),
      h(
        "dl",
        { class: "tiles" },
        tile(
          "views are behind by",
          found.age_seconds === null ? "unknown" : `${found.age_seconds.toFixed(1)} s`,
          "first",
        ),
        tile("events in the log", number(found.log_events)),
        tile("folded", number(found.applied_events)),
        tile("missing", number(found.missing_events)),
        tile("folded a second", rate === null ? "–" : rate.toFixed(1)),
        tile("parked tickets", number(found.parked_tickets)),
      ),
    );
    put(
      replay,
      found.replay
        ? [
            h("h2", {}, "A replay is at work"),
            h(
              "p",
              {},
              `${words(found.replay.phase)}, begun `,
              when(found.replay.began_at),
              found.replay.total
                ? `: ${number(found.replay.done)} of ${number(found.replay.total)} events`
                : "",
            ),
            h("progress", {
              "aria-label": "Replay",
              max: String(found.replay.total || 1),
              value: found.replay.total ? String(found.replay.done) : undefined,
            }),
          ]
        : null,
    );
    plot(
      throughput,
      "Events folded a second",
      rates,
      [{ name: "folded", colour: "--plot-1", value: (row) => row.rate, told: (n) => n.toFixed(1) }],
      MOMENTS,
    );
    once(
      parked,
      found.parked,
      h("h2", {}, "Parked tickets"),
      found.parked.length
        ? h(
            "div",
            { class: "scroll", tabindex: "0", role: "region", "aria-label": "Parked tickets" },
            h(
              "table",
              {},
              h(
                "thead",
                {},
                h(
                  "tr",
                  {},
                  ["ticket", "at event", "waiting", "error", "tried", ""].map((name) =>
                    h("th", { scope: "col" }, name),
                  ),
                ),
              ),
              h(
                "tbody",
                {},
                found.parked.map((each) =>
                  h(
                    "tr",
                    {},
                    h(
                      "th",
                      { scope: "row" },
                      me.role === "admin"
                        ? each.ticket_id
                        : h("a", { href: `#/tickets/${each.ticket_id}` }, each.ticket_id.slice(0, 8)),
                    ),
                    h("td", {}, shown(each.version)),
                    h("td", {}, number(each.waiting_events)),
                    h("td", { class: "error" }, each.error ?? ""),
                    h("td", {}, when(each.tried_at)),
                    h(
                      "td",
                      {},
                      h(
                        "button",
                        {
                          type: "button",
                          disabled: me.role !== "admin" || each.repair_asked,
                          title: me.role === "admin" ? "Fold it again from its first event" : "for admins",
                          onclick: () => repair(each.ticket_id),
                        },
                        each.repair_asked ? "Asked" : "Repair",
                      ),
                    ),
                  ),
                ),
              ),
            ),
          )
        : empty("None: every ticket can be folded."),
    );
    once(
      members,
      found.projectors,
      h("h2", {}, "Projectors"),
      found.projectors.length
        ? h(
            "table",
            {},
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                ["process", "partitions", "seen", ""].map((name) => h("th", { scope: "col" }, name)),
              ),
            ),
            h(
              "tbody",
              {},
              found.projectors.map((each) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, each.id),
                  h("td", {}, each.partitions),
                  h("td", {}, when(each.seen_at)),
                  h(
                    "td",
                    {},
                    each.alive ? "alive" : "gone",
                    each.failure ? h("p", { class: "fault" }, each.failure) : null,
                  ),
                ),
              ),
            ),
          )
        : empty("No process keeps the views current."),
    );
    const point = found.checkpoint;
    once(
      checkpoint,
      point,
      h("h2", {}, "Last checkpoint of the log"),
      point
        ? h(
            "dl",
            { class: "props" },
            [
              ["number", number(point.number)],
              ["taken", when(point.taken_at)],
              ["tickets", number(point.tickets)],
              ["events", number(point.events)],
              ["root", h("code", { class: "root" }, point.root)],
            ].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
          )
        : empty("None was taken yet."),
    );
    const open = parts.querySelector("details")?.open ?? false;
    const owners = [...new Set(found.partitions.map((each) => each.owner))];
    once(
      parts,
      found.partitions.map((each) => [
        each.condition,
        each.owner,
        each.epoch,
        each.applied_events,
        each.lag?.events,
        duration(each.lag?.seconds),
      ]),
      h("h2", {}, "Partitions"),
      h(
        "div",
        { class: "cells", "aria-hidden": "true" },
        found.partitions.map((each) =>
          h(
            "span",
            {
              class: `cell condition-${each.condition}`,
              title: `${each.partition}: ${each.condition}, ${each.owner ?? "nobody"}`,
            },
            owners.length > 1 ? String(owners.indexOf(each.owner) + 1) : "",
          ),
        ),
      ),
      h(
        "details",
        { open },
        h("summary", {}, "As a table"),
        h(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Partitions" },
          h(
            "table",
            {},
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                ["partition", "condition", "owner", "epoch", "events", "behind by"].map((name) =>
                  h("th", { scope: "col" }, name),
                ),
              ),
            ),
            h(
              "tbody",
              {},
              found.partitions.map((each) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, each.partition),
                  h("td", {}, words(each.condition)),
                  h("td", {}, each.owner ?? "nobody"),
                  h("td", {}, each.epoch),
                  h("td", {}, number(each.applied_events)),
                  h("td", {}, lag(each.lag)),
                ),
              ),
            ),
          ),
        ),
      ),
    );
  }

  const lag = (found) =>
    found === null
      ? "unknown"
      : found.events
        ? `${number(found.events)} events, ${duration(found.seconds)}`
        : "nothing";

  async function repair(ticketId) {
    try {
      await api.ask("POST", "/projections/repairs", { body: { ticket_id: ticketId } });
      say("It is folded again within moments.");
    } catch (error) {
      say(error.detail ?? error.message);
    }
  }

  look();
  return () => {
    ending.abort();
    clearTimeout(timer);
    throughput.forget?.();
  };
}
