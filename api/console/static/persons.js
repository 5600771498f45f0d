// Erasures: whom somebody has asked to be erased, and how far that has come.

import { edit } from "./editor.js";
import { empty, h, loading, put, redraw, trouble, when } from "./dom.js";
import { facts, reader, table, twice } from "./parts.js";

const STEPS = {
  PersonErased: "asked for, and for good",
  KeyDestroyed: "key destroyed: the log’s words of them cannot be read",
  ErasureCompleted: "complete: no view has any of their words",
};

const POLLED_MS = 10000;

export function persons(main, { api }) {
  const ending = new AbortController();
  const list = h("div", {}, loading("the erasures"));
  const name = h("input", { id: "person", type: "text", required: true, autocomplete: "off" });
  const place = h("div");
  put(
    main,
    h("h2", {}, "Erase a person"),
    h("p", { class: "note" }, "What they wrote, and their name, become unreadable wherever Casebook keeps them. What was done to tickets, and when, stays."),
    h(
      "form",
      { class: "controls", onsubmit: find },
      h("label", { for: "person" }, "Name, as it stands on tickets"),
      name,
      h("button", { type: "submit" }, "Find"),
    ),
    place,
    h("h2", {}, "Erasures"),
    list,
  );

  let isUnfinished = false;
  let turns = 0;
  const read = reader(list, async () => {
    const { erasures } = await api.get("/persons", {}, ending.signal);
    isUnfinished = erasures.some(({ steps }) => !steps.ErasureCompleted);
    redraw(list, erasures, () => [
      erasures.length
        ? table(
            "Erasures",
            ["person", "asked for", "key destroyed", "complete"],
            erasures.map(({ id, steps }) => [id, ...Object.keys(STEPS).map((step) => when(steps[step]))]),
          )
        : empty("Nobody has been erased."),
    ]);
  });

  async function find(event) {
    event.preventDefault();
    const turn = ++turns;
    put(place, loading("the person"));
    try {
      const found = await api.ask("POST", "/persons/find", { body: { name: name.value } });
      if (turn === turns) draw(found); // or whom one no longer means would be erased
    } catch (error) {
      if (turn === turns) put(place, trouble(error));
    }
  }

  function draw(person) {
    const isErased = person.erasure.length > 0;
    put(
      place,
      facts([
        ["name", person.name ?? "erased"],
        ["id", person.id],
        ["known since", when(person.known_since)],
        person.alike?.length && ["may be the same", person.alike.map((each) => each.name).join(", ")],
        ...person.erasure.map(({ step, at }) => [when(at), STEPS[step] ?? step]),
      ]),
    );
    if (isErased) return;
    const form = h("div");
    const erase = () =>
      edit(form, api, {
        name: `Erase ${person.name} for good`,
        note: "This cannot be undone. The reason is kept for ever: name nobody in it.",
        schema: "ErasePerson",
        start: {},
        send: (body) => api.ask("POST", `/persons/${person.id}/erase`, { body }),
        done: async (erased) => {
          draw(erased);
          await read();
        },
      });
    place.append(twice("Erase …", "Really? It cannot be undone", erase), form);
  }

  read();
  const timer = setInterval(() => isUnfinished && !document.hidden && read(), POLLED_MS);
  return () => {
    ending.abort();
    clearInterval(timer);
  };
}
