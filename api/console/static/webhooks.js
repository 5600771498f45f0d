// Webhooks: where events are sent, what waits or is parked, and what became of each delivery.

import { edit } from "./editor.js";
import { button, empty, h, loading, number, put, redraw, say, shown, when, words } from "./dom.js";
import { reader, secret, table, twice } from "./parts.js";

const PAGE = 50;
const STATUSES = ["", "pending", "parked", "delivered", "ended"];

export function webhooks(main, { api, me }) {
  const ending = new AbortController();
  const mayChange = me.role === "supervisor";
  const list = h("div", {}, loading("the webhooks"));
  const editing = h("div");
  const news = h("div");
  const deliveries = h("section");
  put(
    main,
    h("h2", {}, "Webhooks"),
    h("p", { class: "note" }, "Events are sent to each address as they happen, signed, and again until they arrive."),
    mayChange ? button("Add a webhook", () => change()) : null,
    news,
    editing,
    list,
    deliveries,
  );

  const read = reader(list, async () => {
    const found = await api.get("/webhooks", {}, ending.signal);
    redraw(list, found, () => [
      found.webhooks.length
        ? table(
            "Webhooks",
            ["address", "events", "waiting", "parked", "state", "what to do"],
            found.webhooks.map((each) => [
              each.url,
              each.types.length ? shown(each.types) : "all",
              number(each.pending),
              number(each.parked),
              state(each),
              h("div", { class: "buttons" }, acts(each)),
            ]),
          )
        : empty("There are none."),
    ]);
  });

  const state = (each) =>
    each.ended_at
      ? ["ended ", when(each.ended_at), ": its address answered that it is gone"]
      : each.rests_until
        ? ["left alone until ", when(each.rests_until), ", as its address asked"]
        : each.backfilling
          ? "events of the past are being found"
          : "sends";

  const acts = (each) => [
    small("Deliveries", () => show(each)),
    ...(mayChange
      ? [
          small("Try again", () => act("POST", `${each.id}/resume`, "They are tried again now.")),
          small("Change", () => change(each)),
          twice("Delete", "Really delete it and its deliveries?", () => act("DELETE", each.id, "It is deleted.")),
        ]
      : []),
  ];
  const small = (name, act_) => button(name, act_, "quiet small");

  async function act(method, path, said, body) {
    try {
      await api.ask(method, `/webhooks/${path}`, { body });
      say(said);
    } catch (error) {
      say(error.message);
    }
    await read();
  }

  const change = ({ id, url, types, filter } = {}) =>
    edit(editing, api, {
      name: id ? "Change the webhook" : "Add a webhook",
      schema: id ? "WebhookChange" : "WebhookOrder",
      start: id ? { url, types, filter } : {},
      send: (body) => (id ? api.ask("PUT", `/webhooks/${id}`, { body }) : api.ask("POST", "/webhooks", { body })),
      done: async (made) => {
        put(news, made.secret ? secret("The secret of its signatures", made.secret) : null);
        await read();
      },
    });

  let look = () => {}; // at the deliveries again
  async function show(hook) {
    const status = h(
      "select",
      { id: "delivery-status", onchange: () => again() },
      STATUSES.map((name) => h("option", { value: name }, name || "all")),
    );
    const place = h("div", {}, loading("the deliveries"));
    const heading = h("h2", { tabindex: "-1" }, `Deliveries to ${hook.url}`);
    put(
      deliveries,
      heading,
      h("div", { class: "controls" }, h("label", { for: "delivery-status" }, "Which"), status),
      place,
    );
    heading.focus();
    let found = [];
    let turns = 0;
    const again = reader(place, () => more());
    look = () => found.length > PAGE || again();
    async function more(cursor) {
      const turn = ++turns;
      const asked = { status: status.value, cursor };
      const page = await api.get(`/webhooks/${hook.id}/deliveries`, asked, ending.signal);
      if (turn !== turns) return; // others are asked for by now
      found = [...(cursor ? found : []), ...page.deliveries];
      redraw(place, [found, page.next], () => [
        found.length
          ? table("Deliveries", ["event", "ticket", "status", "made", "next", "last tries", "send again"], found.map(row))
          : empty("There are none."),
        page.next ? small("More", () => more(page.next)) : null,
      ]);
    }
    const row = (each) => [
      words(each.type),
      h("a", { href: `#/tickets/${each.ticket_id}` }, `${each.ticket_id.slice(0, 8)}@${each.version}`),
      each.status,
      when(each.made_at),
      when(each.next_at),
      each.attempts.length
        ? h("ul", {}, each.attempts.map(({ at, status: code, error }) => h("li", {}, when(at), ` ${code ?? ""} ${error ?? "arrived"}`)))
        : "not tried yet",
      mayChange
        ? small("Send again", async () => {
            await act("POST", `${hook.id}/redeliver`, "It is sent again.", { delivery: each.id });
            await again();
          })
        : "–",
    ];
    await again();
  }

  read();
  const timer = setInterval(() => document.hidden || read().then(() => look()), 5000);
  return () => {
    ending.abort();
    clearInterval(timer);
  };
}
