// A ticket's history: each event with what it changed, the ticket as it was after any of them, and
// the proof that this is what was written.

import { changes, told } from "./events.js";
import { button, h, put, redraw, when } from "./dom.js";
import { table } from "./parts.js";

const VERDICTS = { whole: "✓ verified", broken: "✗ not what was written", unknown: "– cannot be computed here" };

// `choose(version)` has the page show the ticket as it was; null: as it is.
export function history_(life, { name, choose }) {
  const story = h("ol", { class: "story", "aria-label": "Events" });
  const slider = h("input", { id: "version", type: "range", min: "1", step: "1" });
  const position = h("output", { for: "version" });
  const latest = button("As it is", () => choose(null), "quiet small");
  const summary = h("summary", {}, "Verifying …");
  const proofs = h("div");
  const proof = h("details", { class: "proof card" }, summary, proofs);
  const element = h(
    "div",
    {},
    proof,
    h(
      "div",
      { class: "slider card" },
      h("label", { for: "version" }, "As it was after event"),
      slider,
      position,
      latest,
    ),
    story,
  );
  slider.addEventListener("input", () => pick(Number(slider.value)));
  const pick = (count) => choose(count === life.events.length ? null : count);
  proof.addEventListener("toggle", prove);
  let verdicts = [];
  let times = life.times;

  function draw(at) {
    if (element.hidden) return;
    const count = at ?? life.events.length;
    const event = life.events[count - 1];
    slider.max = String(life.events.length);
    slider.value = String(count);
    const what = `event ${count} of ${life.events.length}: ${event?.actor?.id ?? ""} ${told(event)}`;
    slider.setAttribute("aria-valuetext", what);
    put(position, `${count} of ${life.events.length}`);
    latest.hidden = at === null;
    if (times !== life.times) put(story);
    times = life.times;
    for (let n = story.children.length; n < life.events.length; n++) story.append(eventOf(n));
    for (const [n, each] of [...story.children].entries()) {
      each.className = n + 1 === count ? "event current" : n + 1 > count ? "event later" : "event";
      each.querySelector("button").setAttribute("aria-pressed", String(n + 1 === count));
    }
  }

  // What has happened stays as it is, so each event is drawn once.
  function eventOf(n) {
    const event = life.events[n];
    const late = Math.abs(Date.parse(event.recorded_at) - Date.parse(event.occurred_at)) > 60000;
    const said = event.data?.body ?? event.data?.resolution ?? event.data?.comment;
    return h(
      "li",
      {},
      h(
        "div",
        { class: "who" },
        button(`#${event.version}`, () => pick(n + 1), "quiet small", {
          title: "Show the ticket after this event",
          "aria-label": `Event ${event.version}: show the ticket after it`,
        }),
        h("strong", {}, event.actor?.id ?? "?"),
        h("span", {}, told(event)),
        changes(event, name),
        when(event.occurred_at, true),
        late ? h("span", { class: "hint" }, "recorded ", when(event.recorded_at, true)) : null,
      ),
      said ? h("p", { class: "text" }, String(said)) : null,
    );
  }

  // Computes the hashes; true if all that could be computed fits.
  async function verify() {
    verdicts = await life.verify();
    const count = (verdict) => verdicts.filter((each) => each === verdict).length;
    const isWhole = life.chain === "whole" && !count("broken");
    proof.classList.toggle("broken", !isWhole);
    put(
      summary,
      isWhole
        ? `${count("unknown") ? "" : "✓ "}${count("whole")} of ${verdicts.length} events verified in this browser`
        : `✗ History was changed: ${count("broken") || "some"} of ${verdicts.length} events are not what was written`,
    );
    prove();
    return isWhole;
  }

  function prove() {
    if (!proof.open) return;
    const row = (event, n) => [`#${event.version} ${event.type ?? ""}`, VERDICTS[verdicts[n]], String(event.hash ?? "–")];
    redraw(proofs, [life.version, verdicts], () =>
      table("Proof of each event", ["Event", "Verdict", "Hash"], life.events.map(row)),
    );
  }

  return { element, draw, verify };
}
