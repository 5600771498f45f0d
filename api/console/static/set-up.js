// The desk's set-up: groups and their agents, fields, promises, calendars, as forms or as JSON.

import { editorForm } from "./editor.js";
import { isUnknown } from "./forms.js";
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

  const form = (desk, version) => {
    let unsure; // what was sent, if it is not known whether it was done
    async function send(body) {
      const now = JSON.stringify(body);
      try {
        return await api.ask("PUT", "/desk", { body, headers: { "If-Match": `"${version}"` } });
      } catch (error) {
        const found = error.status === 412 && now === unsure && (await api.get("/desk"));
        if (found && found.version === version + 1 && found.changed_by.id === me.id) return found; // it was
        unsure = isUnknown(error) ? now : undefined;
        throw error;
      }
    }
    return editorForm(api, {
      name: "Save the set-up",
      schema: "Desk",
      start: desk,
      send,
      done: (answer) => {
        const isAnew = ["time_zone", "other_time_zones"].some((name) => shown(answer.desk[name]) !== shown(desk[name]));
        const figures = isAnew ? " The figures are built anew for the time zones; see Projections." : "";
        return begin(`Saved as version ${answer.version}.${figures}`);
      },
    });
  };

  begin();
  return () => ending.abort();
}
