// The search box: what the search language knows is offered while one types. The words are the
// API's own (`x-completions`), the names and tags those of the desk and of what was seen.

import { document_ } from "./forms.js";
import { button, h, mayFocus, put } from "./dom.js";

const WORDS = {
  status: "",
  priority: "also with < <= > >=",
  group: "none for no group",
  assignee: "none for nobody, me for oneself",
  requester: "who has the problem",
  number: "like C-1042",
  tag: "",
  is: "solved, unsolved, breached, spam",
  has: "note",
  due: "before a day or a time",
  opened: "a day or a time, also compared",
  updated: "a day or a time, also compared",
  resolved: "a day or a time, also compared",
};
const HELP = [
  ["printer jam", "both words, wherever they were said: in notes and names of files, too"],
  ["print*", "words that begin so"],
  ["status:open", "also new, pending, on_hold, resolved, closed"],
  ["priority>=high", "low, normal, high, urgent; with : < <= > >="],
  ["group:network", "also assignee, requester; none for nobody"],
  ["tag:vip", "also field.floor:3 for custom fields"],
  ["is:unsolved", "also is:solved, is:breached, is:spam, has:note"],
  ["opened>=2026-03-01", "also updated, resolved, due; days or times"],
  ["-status:closed", "a minus for what must not hold"],
];
const MOST = 12;
const quoted = (text) => (/[\s"]/.test(text) ? `"${text.replace(/["\\]/g, "\\$&")}"` : text);

// The words and operators of the language, from the API's document.
async function language(api) {
  const { paths } = await document_(api);
  const { schema } = paths["/tickets"].get.parameters.find(({ name }) => name === "q");
  return schema["x-completions"] ?? {};
}

export function searchBox({ api, session }, { value, label, submit }) {
  const about = { id: "completions", role: "listbox", "aria-label": "Completions", hidden: true };
  const options = h("ul", { class: "completions", ...about });
  const fault = h("p", { id: "search-fault", class: "fault", role: "alert" });
  const input = h("input", {
    id: "search",
    type: "text",
    role: "combobox",
    value,
    placeholder: "status:open priority>=high printer",
    spellcheck: "false",
    autocomplete: "off",
    "aria-autocomplete": "list",
    "aria-expanded": "false",
    "aria-controls": options.id,
    "aria-describedby": fault.id,
    oninput: offer,
    onblur: () => close(),
    onkeydown: keydown,
  });
  const element = h(
    "form",
    {
      class: "controls",
      role: "search",
      onsubmit: (event) => {
        event.preventDefault();
        close();
        submit(input.value.trim());
      },
    },
    h("label", { for: input.id }, label),
    h("div", { class: "searching" }, input, options),
    h("button", { type: "submit" }, "Find"),
  );
  let found = [];
  let active = -1;
  let turns = 0;

  // The term that is being typed: behind the last space that is in no quotes.
  const typed = () => {
    const before = input.value.slice(0, input.selectionStart);
    return before.match(/(?:[^\s"]|"(?:[^"\\]|\\.)*(?:"|$))+|\s+/g)?.at(-1).trim() ?? "";
  };

  // All words are offered only where they are asked for, by an arrow.
  async function offer(event) {
    const turn = ++turns;
    const term = typed();
    const keys = await language(api).catch(() => ({}));
    const bare = term.replace(/^-/, "");
    const [, key, operator, begun] = /^([a-z_.]+)(>=|<=|[:<>])"?(.*)$/i.exec(bare) ?? [];
    if (key) {
      const values = [...(keys[key]?.values ?? []), ...(await valuesOf(key))];
      found = values
        .filter((each) => each.toLowerCase().startsWith(begun.toLowerCase()))
        .map((each) => [`${key}${operator}${quoted(each)} `, ""]);
    } else if (bare || !event) {
      const { fields } = await session.known.desk();
      const all = [
        ...Object.keys(keys).filter((each) => !each.includes("<")).map((each) => [each, WORDS[each] ?? ""]),
        ...Object.keys(fields).map((each) => [`field.${each}`, "a custom field"]),
      ];
      found = all
        .filter(([each]) => each.startsWith(bare))
        .map(([each, what]) => [each + (keys[each]?.operators.at(0) ?? ":"), what]);
    } else found = [];
    if (turn !== turns || document.activeElement !== input) return;
    found = found.slice(0, MOST);
    active = -1;
    draw();
  }

  async function valuesOf(key) {
    if (!key.startsWith("field.")) return session.known.suggestions(key);
    const kind = (await session.known.desk()).fields[key.slice("field.".length)];
    return kind?.type === "boolean" ? ["true", "false"] : (kind?.choices ?? []);
  }

  function draw() {
    options.hidden = !found.length;
    input.setAttribute("aria-expanded", String(!options.hidden));
    put(
      options,
      found.map(([text, what], n) =>
        h(
          "li",
          {
            id: `completion-${n}`,
            role: "option",
            "aria-selected": String(n === active),
            onmousedown: (event) => {
              event.preventDefault(); // the focus stays
              take(n);
            },
          },
          h("code", {}, text),
          what ? h("span", {}, what) : null,
        ),
      ),
    );
    if (active < 0) input.removeAttribute("aria-activedescendant");
    else input.setAttribute("aria-activedescendant", `completion-${active}`);
  }

  function take(n) {
    const end = input.selectionStart;
    const start = end - typed().replace(/^-/, "").length;
    input.setRangeText(found[n][0], start, end, "end");
    offer(true);
  }

  function close() {
    turns++; // nothing is offered any more for what was typed before
    found = [];
    active = -1;
    draw();
  }

  function keydown(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (!found.length) return offer();
      active = active < 0 && step < 0 ? found.length - 1 : (active + step + found.length) % found.length;
      draw();
    } else if (event.key === "Escape" && found.length) {
      event.preventDefault(); // or what was typed would go as well
      close();
    } else if ((event.key === "Enter" || event.key === "Tab") && active >= 0) {
      event.preventDefault();
      take(active);
    }
  }

  // Says what to mend, and marks where.
  function say(problem, has) {
    const still = has ? ". The list is still that of the search before." : "";
    fault.textContent = problem ? problem.detail.replace(/^at (?=\d+:)/, "at character ") + still : "";
    const at = Number(/^at (\d+):/.exec(problem?.detail ?? "")?.[1]);
    if (problem) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    if (!at || !mayFocus(element)) return;
    input.focus();
    input.setSelectionRange(at - 1, input.value.length);
  }

  return { element, input, fault, say };
}

// What can be searched for, by examples that go into the box.
export function helpOf(input) {
  const add = (example) => {
    input.value = `${input.value} ${example}`.trim();
    input.focus();
  };
  const line = ([example, what]) =>
    h(
      "div",
      {},
      h(
        "dt",
        {},
        button(h("code", {}, example), () => add(example), "quiet small"),
      ),
      h("dd", {}, what),
    );
  return h("details", { class: "help" }, h("summary", {}, "How to search"), h("dl", {}, HELP.map(line)));
}
