// The desk's set-up: groups and their agents, fields, promises, calendars, as forms or as JSON.

import { editorForm } from "./editor.js";
import { h, loading, number, put, shown, trouble, when } from "./dom.js";

export function setUp(main, { api, me }) {
  const ending = new AbortController();

  async function begin(said) {
    put(main, h("h2", {}, "Desk set-up"), loading("the set-up"));
    try {
      const { desk, version, changed_at, changed_by, left } = await api.get("/desk", { count: true }, ending.signal);
      put(
        main,
        h("h2", {}, "Desk set-up"),
        said ? h("p", { class: "condition condition-current", role: "status" }, said) : null,
        h(
          "p",
          { class: "note" },
          version
            ? [`Version ${version}, of `, when(changed_at), ` by ${changed_by.id}. `]
            : "Nothing is set up yet: the desk takes any group and any field. ",
          left ? `${number(left)} tickets are still to be changed. ` : "",
          me.role === "admin" ? "Every process uses a change within some seconds." : "Admins change it.",
        ),
        me.role === "admin" ? await form(desk, version) : h("pre", { tabindex: "0" }, JSON.stringify(desk, null, 2)),
      );
    } catch (error) {
      if (error.name !== "AbortError") put(main, trouble(error, () => begin()));
    }
  }

  const form = (desk, version) =>
    editorForm(api, {
      name: "Save the set-up",
      schema: "Desk",
      start: desk,
      send: (body) => api.ask("PUT", "/desk", { body, headers: { "If-Match": `"${version}"` } }),
      done: (answer) => {
        const isAnew = ["time_zone", "other_time_zones"].some((name) => shown(answer.desk[name]) !== shown(desk[name]));
        const figures = isAnew ? " The figures are built anew for the time zones; see Projections." : "";
        return begin(`Saved as version ${answer.version}.${figures}`);
      },
    });

  begin();
  return () => ending.abort();
}
