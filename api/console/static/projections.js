// How far the views are and who keeps them so, what is built anew and how that ended, what is parked.

import { button, empty, h, loading, number, put, redraw, say, shown, trouble, when, words } from "./dom.js";
import { facts, table, tile } from "./parts.js";
import { MOMENTS, RATES, plot, span } from "./plots.js";

const LOOK_MILLISECONDS = 1000;
const KEPT = 300; // looks that are plotted
const TOLD = 5; // looks over which the rate is told
const PHASES = ["scan", "tail", "prove", "switch", "hand over"];
const DOES = {
  scan: "fold the log into new views",
  tail: "catch up with what was written meanwhile",
  prove: "compare each document and number with the log",
  switch: "show the new views instead of the old",
  "hand over": "let the projectors go on with them",
};
const BUILT = {
  rebuild: "All views were built anew, and are shown.",
  as_of: "Views as of a time were built, and can be asked for.",
  rollback: "The former views are shown again.",
};

export function projections(main, { api, session, me }) {
  const ending = new AbortController();
  const rates = [];
  let last = null;
  let timer = null;
  const summary = h("div", {}, loading("the projections"));
  const replay = h("section", { class: "replay", "aria-label": "Replay" });
  const throughput = h("figure", { class: "plot" });
  const parked = h("section");
  const parts = h("section");
  const members = h("section");
  const checkpoint = h("section");
  put(
    main,
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

  // One sentence on how the views are, and up to when they show all that was recorded.
  function state(found) {
    const to =
      found.age_seconds === null
        ? "it is not known up to when they show all that was recorded"
        : `they show all that was recorded up to ${found.age_seconds.toFixed(1)} s ago`;
    const left = found.missing_events ? `; ${number(found.missing_events)} events are still to be folded` : "";
    const how = { current: "", slow: " They get on.", stuck: " They do not get on." }[found.condition];
    return `The views are ${words(found.condition)}: ${to}${left}.${how ?? ""}`;
  }

  function draw(found) {
    const recent = rates.slice(-TOLD);
    const rate = recent.length ? recent.reduce((sum, each) => sum + each.rate, 0) / recent.length : null;
    put(
      summary,
      h("p", { class: `condition condition-${found.condition}` }, state(found)),
      found.vanished_events
        ? h("p", { class: "fault" }, `${number(found.vanished_events)} events are shown and in the log no more: run “casebook verify”.`)
        : null,
      found.failures.map((failure) => h("p", { class: "fault" }, failure)),
      h(
        "dl",
        { class: "tiles" },
        tile("events in the log", number(found.log_events), [], "first"),
        tile("folded", number(found.applied_events)),
        tile("still to be folded", number(found.missing_events)),
        tile("folded a second", rate === null ? "–" : rate.toFixed(1)),
        tile("parked tickets", number(found.parked_tickets)),
      ),
    );
    drawReplay(found.replay, found.last_replay);
    plot(
      throughput,
      "Events folded a second",
      rates,
      [{ name: "folded", colour: "--plot-1", value: (row) => row.rate }],
      RATES,
      MOMENTS,
    );
    drawParked(found.parked);
    drawMembers(found.projectors);
    drawCheckpoint(found);
    drawPartitions(found.partitions);
  }

  let seen = null; // of the replay that is at work: when its phase was first seen, and how far it was
  function drawReplay(now, ended) {
    if (now && (seen?.began !== now.began_at || seen.phase !== now.phase))
      seen = { began: now.began_at, phase: now.phase, done: now.done, at: Date.now() };
    if (!now) seen = null;
    redraw(replay, [now, ended], () => [
      h("h2", {}, now ? "A replay is at work" : "Last replay"),
      now ? atWork(now) : ended ? result(ended) : empty("None yet. “casebook replay” builds all views anew, while these are shown."),
    ]);
  }

  function atWork(now) {
    const at = PHASES.indexOf(now.phase);
    const rate = ((now.done - seen.done) * 1000) / Math.max(1, Date.now() - seen.at);
    const far = now.total
      ? `: ${number(now.done)} of ${number(now.total)}${rate ? `, ${number(Math.round(rate))} a second, ${span((now.total - now.done) / rate)} left` : ""}`
      : "";
    return [
      h("p", {}, "Begun ", when(now.began_at), "."),
      h(
        "ol",
        { class: "phases" },
        PHASES.map((phase, n) =>
          h(
            "li",
            { class: n < at ? "done" : "", "aria-current": n === at ? "step" : undefined },
            h("strong", {}, words(phase)),
            ` ${DOES[phase]}${n < at ? ", done" : n === at ? far : ""}`,
          ),
        ),
      ),
      h("p", { class: "hidden", role: "status" }, `Replay: ${words(now.phase)}`),
      h("progress", {
        "aria-label": `Replay, ${words(now.phase)}`,
        max: String(now.total || 1),
        value: now.total ? String(now.done) : undefined,
      }),
    ];
  }

  function result(ended) {
    const checked = ended.checked_documents + ended.checked_numbers;
    return [
      h(
        "p",
        { role: "status", class: `condition condition-${ended.failure === null ? "current" : "stuck"}` },
        ended.failure === null ? BUILT[ended.what] : `It failed, and what is shown is what was: ${ended.failure}`,
      ),
      facts([
        ["ended", [when(ended.ended_at), `, after ${span((Date.parse(ended.ended_at) - Date.parse(ended.began_at)) / 1000)}`]],
        ended.events && [
          "folded",
          `${number(ended.events)} events of ${number(ended.tickets)} tickets${ended.parked ? `; ${number(ended.parked)} tickets are parked` : ""}`,
        ],
        [
          "proof",
          checked
            ? `${number(ended.checked_documents)} read documents and ${number(ended.checked_numbers)} numbers were compared with the log, and all were equal`
            : "nothing was compared",
        ],
      ]),
      h(
        "details",
        { class: "numbers" },
        h("summary", {}, "How long each phase took"),
        facts([
          ...PHASES.filter((phase) => phase in ended.seconds).map((phase) => [
            words(phase),
            `${ended.seconds[phase].toFixed(1)} s, to ${DOES[phase]}`,
          ]),
          ["fenced", `${ended.fenced_seconds.toFixed(2)} s, in which no projector wrote to what was shown`],
        ]),
      ),
    ];
  }

  function drawParked(found) {
    const repair = (each) =>
      button(each.repair_asked ? "Asked" : "Repair", () => askRepair(each.ticket_id), null, {
        disabled: me.role !== "admin" || each.repair_asked,
        title: me.role === "admin" ? "Fold it again from its first event" : "for admins",
      });
    redraw(parked, found, () => [
      h("h2", {}, "Parked tickets"),
      found.length
        ? table(
            "Parked tickets",
            ["ticket", "at event", "waiting", "error", "tried", "repair"],
            found.map((each) => [
              me.role === "admin"
                ? each.ticket_id
                : h("a", { href: `#/tickets/${each.ticket_id}` }, each.ticket_id.slice(0, 8)),
              shown(each.version),
              number(each.waiting_events),
              h("span", { class: "error" }, each.error),
              when(each.tried_at),
              repair(each),
            ]),
          )
        : empty("None: every ticket can be folded."),
    ]);
  }

  function drawMembers(found) {
    redraw(members, found, () => [
      h("h2", {}, "Projectors"),
      found.length
        ? table(
            "Projectors",
            ["process", "partitions", "seen", "state"],
            found.map((each) => [
              each.id,
              each.partitions,
              when(each.seen_at),
              [each.alive ? "alive" : "gone", each.failure ? h("p", { class: "fault" }, each.failure) : null],
            ]),
          )
        : empty("No process keeps the views current."),
    ]);
  }

  function drawCheckpoint({ checkpoint: point, missing_checkpoint: missing, log_events: events }) {
    const since = point ? Math.max(0, events - point.events) : 0;
    redraw(checkpoint, [point, missing, since], () => [
      h("h2", {}, "Last checkpoint of the log"),
      missing === null
        ? null
        : h("p", { class: "fault" }, `Checkpoint ${number(missing)} was there, and is gone: run “casebook verify”.`),
      point
        ? facts([
            ["number", number(point.number)],
            ["taken", when(point.taken_at)],
            ["covers", `${number(point.events)} events of ${number(point.tickets)} tickets`],
            ["not covered yet", since ? `${number(since)} events that were recorded since` : "nothing"],
            ["root", h("code", { class: "root" }, point.root)],
          ])
        : empty("None was taken yet."),
    ]);
  }

  function drawPartitions(found) {
    const owners = [...new Set(found.map((each) => each.owner))];
    redraw(parts, found.map((each) => [each.condition, each.owner, each.epoch, each.applied_events, each.lag?.events]), () => [
      h("h2", {}, "Partitions"),
      h(
        "div",
        { class: "cells", "aria-hidden": "true" },
        found.map((each) =>
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
        { class: "numbers" },
        h("summary", {}, "As a table"),
        table(
          "Partitions",
          ["partition", "condition", "owner", "epoch", "folded", "still to be folded"],
          found.map((each) => [
            each.partition,
            words(each.condition),
            each.owner ?? "nobody",
            each.epoch,
            number(each.applied_events),
            each.lag === null ? "unknown" : number(each.lag.events),
          ]),
        ),
      ),
    ]);
  }

  async function askRepair(ticketId) {
    try {
      await api.ask("POST", "/projections/repairs", { body: { ticket_id: ticketId } });
      say("It is folded again within moments.");
    } catch (error) {
      say(error.message);
    }
  }

  look();
  return () => {
    ending.abort();
    clearTimeout(timer);
    throughput.forget?.();
  };
}
