// Keys: who has which, a new one, and an end to one.

import { edit } from "./editor.js";
import { document_ } from "./forms.js";
import { button, empty, h, loading, put, redraw, say, shown, when } from "./dom.js";
import { reader, secret, table, twice } from "./parts.js";

export function keys(main, { api }) {
  const ending = new AbortController();
  const list = h("div", {}, loading("the keys"));
  const making = h("div");
  const news = h("div");
  put(
    main,
    h("h2", {}, "Keys"),
    h("p", { class: "note" }, "A key signs somebody in, or lets a program ask the API. Who has it may do what it is good for."),
    button("Make a key", () => make()),
    news,
    making,
    list,
  );

  const read = reader(list, async () => {
    const { KeyOrder } = (await document_(api)).components.schemas;
    const scopes = KeyOrder.properties.scopes.default;
    const found = await api.get("/keys", {}, ending.signal);
    redraw(list, found, () => [
      found.keys.length
        ? table(
            "Keys",
            ["whose", "role", "good for", "made", "ends", "revoke"],
            found.keys.map((each) => [
              each.principal,
              each.role,
              each.scopes.length === scopes.length ? "all of its role" : shown(each.scopes),
              [when(each.created_at), ` by ${each.created_by}`],
              each.revoked_at ? ["revoked ", when(each.revoked_at)] : each.expires_at ? when(each.expires_at) : "never",
              isOver(each) ? "–" : twice("Revoke", `Really revoke the key of ${each.principal}?`, () => revoke(each)),
            ]),
          )
        : empty("There are no keys."),
    ]);
  });
  const isOver = (each) => each.revoked_at || (each.expires_at && Date.parse(each.expires_at) < Date.now());

  async function revoke(key) {
    try {
      await api.ask("DELETE", `/keys/${key.id}`);
      say("It is refused everywhere within five seconds.");
    } catch (error) {
      say(error.message);
    }
    await read();
  }

  const make = () =>
    edit(making, api, {
      name: "Make a key",
      schema: "KeyOrder",
      start: {},
      send: (order) => api.ask("POST", "/keys", { body: order }),
      done: async (made) => {
        put(news, secret(`The key of ${made.principal}, ${made.role}`, made.key));
        await read();
      },
    });

  read();
  return () => ending.abort();
}
