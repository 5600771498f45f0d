// The frame: who is signed in, which view, what is live, the keyboard. Views are
// `show(place, context) -> leave`.

import { Api } from "./api.js";
import { desk } from "./desk.js";
import { button, empty, h, isTyped, loading, modal, put, redraw, say, tellTime, trouble } from "./dom.js";
import { Known } from "./known.js";
import { request, requests } from "./requests.js";
import { partsOf, system } from "./system.js";
import { ticket } from "./ticket.js";
import { tickets } from "./tickets.js";

const KEPT = "casebook-key";
const LIST = "casebook-list";
const NO_SHORTCUTS = "casebook-no-shortcuts";
const STALE_SECONDS = 5;
const main = document.getElementById("main");
const READERS = ["agent", "supervisor", "auditor"];
const VIEWS = [
  { name: "Desk", hash: "#/desk", scope: "read", roles: READERS, show: desk },
  { name: "Tickets", hash: "#/tickets", scope: "read", roles: READERS, show: tickets, one: ticket },
  { name: "Tickets", hash: "#/tickets", scope: "read", roles: ["requester"], show: requests, one: request },
  { name: "System", hash: "#/system", isFor: (me) => partsOf(me).length, show: system },
];
const MOVED = { machine: "#/system" };
const viewsOf = (me) =>
  VIEWS.filter(({ isFor, roles, scope }) => isFor?.(me) ?? (roles.includes(me.role) && me.scopes.includes(scope)));
let session = null;
let leave = () => {};
let keys = {}; // of the view that is shown: what each does

class Session {
  constructor(key) {
    this.api = new Api(key, (age) => this.aged(age));
    this.api.onRefused = (problem) => session === this && signOut(problem);
    this.api.onSilence = () => this.live === "polled" && this.#became("silent");
    this.api.onAnswer = () => this.live === "silent" && this.#became("polled");
    this.known = new Known(this.api);
    this.listeners = new Set();
    this.ending = new AbortController();
    this.live = "waiting";
  }

  // The address of the list that was seen last: it outlives a reload.
  get list() {
    return sessionStorage.getItem(LIST);
  }

  set list(address) {
    sessionStorage.setItem(LIST, address);
  }

  async begin() {
    this.known.me = this.me = await this.api.get("/me");
    if (["supervisor", "auditor"].includes(this.me.role) && this.me.scopes.includes("feed")) {
      this.api.follow(
        (event) => this.#tell(event),
        (state) => this.#became(state),
        this.ending.signal,
      );
    } else {
      this.#became("polled");
      const timer = setInterval(() => document.hidden || this.#tell(null), 5000);
      this.ending.signal.addEventListener("abort", () => clearInterval(timer));
    }
    // What has happened while nobody looked is shown once somebody does.
    const seen = () => document.hidden || this.#tell(null);
    document.addEventListener("visibilitychange", seen, { signal: this.ending.signal });
  }

  // Calls back for what happens, at most every `milliseconds`, with the events meanwhile.
  listen(milliseconds, told) {
    let waiting = null;
    let running = false;
    const due = async () => {
      if (running || waiting === null) return;
      running = true;
      const events = waiting;
      waiting = null;
      try {
        await told(events);
      } finally {
        setTimeout(() => {
          running = false;
          due();
        }, milliseconds);
      }
    };
    const listener = (event) => {
      waiting ??= [];
      if (event) waiting.push(event);
      due();
    };
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  end() {
    clearTimeout(this.again);
    this.ending.abort();
  }

  #tell(event) {
    for (const listener of this.listeners) listener(event);
  }

  #became(state) {
    this.live = state;
    drawSession();
    if (state !== "live") return;
    this.liveSince = performance.now();
    this.#tell(null); // of what happened before, nothing came
  }

  aged(age) {
    this.age = age;
    if (this.live === "live" && age * 1000 > performance.now() - this.liveSince) {
      // What happened before changes came in may not be in these views yet.
      clearTimeout(this.again);
      this.again = setTimeout(() => this.#tell(null), 1000);
    }
    const note = document.getElementById("freshness");
    const isStale = age === null || age > STALE_SECONDS;
    note.hidden = !isStale;
    if (isStale)
      note.textContent =
        age === null
          ? "How old views are is not known"
          : `Views are ${Math.round(age)} s behind the log`;
  }
}

const LIVE = {
  live: ["live", "Changes are shown as they happen"],
  lost: ["connection lost, trying again", "Changes will be shown again once the server answers"],
  waiting: ["connecting", "Changes are about to be followed"],
  polled: ["every 5 s", "Changes are looked for every five seconds"],
  refused: ["not live", "This key may not follow changes"],
  silent: ["the server does not answer", "It is asked again every five seconds"],
};

function drawSession() {
  const place = document.getElementById("session");
  if (!session?.me) return put(place);
  const [told, title] = LIVE[session.live];
  redraw(place, [session.me, told], () => [
    h("span", { class: `live live-${session.live}`, title }, told),
    button("Shortcuts", help, "quiet small", { title: "Keyboard (?)" }),
    h("span", { class: "who" }, `${session.me.id}, ${session.me.role}`),
    button("Sign out", () => signOut(), "quiet small"),
  ]);
}

function drawNav() {
  const nav = document.getElementById("nav");
  nav.hidden = !session?.me;
  if (nav.hidden) return;
  put(
    nav,
    viewsOf(session.me).map((view) =>
      h(
        "a",
        { href: view.hash, "aria-current": location.hash.startsWith(view.hash) ? "page" : undefined },
        view.name,
      ),
    ),
  );
}

function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
}

function signOut(problem) {
  sessionStorage.clear(); // the key, and what was begun to be written
  history.replaceState(null, "", "/"); // and what was searched for
  session?.end();
  session = null;
  keys = {};
  closeDialogs();
  drawSession();
  drawNav();
  signIn(problem);
}

function signIn(problem) {
  leave();
  leave = () => {};
  document.title = "Sign in – Casebook";
  document.getElementById("freshness").hidden = true;
  const key = h("input", {
    id: "key",
    type: "password",
    required: true,
    autocomplete: "off",
    spellcheck: "false",
  });
  put(
    main,
    h(
      "section",
      { class: "sign-in" },
      h("h1", {}, "Sign in"),
      h(
        "p",
        {},
        "Enter a key of this server. It is kept by this tab until it is closed, and sent to this server only.",
      ),
      problem ? trouble(problem) : null,
      h(
        "form",
        {
          onsubmit: async (event) => {
            event.preventDefault();
            await begin(key.value.trim());
          },
        },
        h("label", { for: "key" }, "Key"),
        key,
        h("button", { type: "submit" }, "Enter"),
      ),
      h(
        "details",
        {},
        h("summary", {}, "Where do I get one?"),
        h("p", {}, "Where the server runs, this prints a link that signs in a supervisor called sam:"),
        h("pre", { tabindex: "0" }, ".venv/bin/casebook keys link sam supervisor"),
        h("p", {}, "And this prints a key, which is good until it is revoked:"),
        h("pre", { tabindex: "0" }, ".venv/bin/casebook keys make sam supervisor"),
        h(
          "p",
          {},
          "An auditor sees everything and changes nothing; an agent works on tickets; a requester ",
          "sees their own. With ",
          h("code", {}, "make demo"),
          " there is something to look at.",
        ),
      ),
    ),
  );
  key.focus();
}

async function begin(key) {
  const beginning = new Session(key);
  put(main, loading("the desk"));
  try {
    await beginning.begin();
  } catch (error) {
    beginning.end();
    if ([0, 429, 503].includes(error.status))
      return put(
        main,
        trouble(error, () => begin(key)),
      );
    sessionStorage.removeItem(KEPT);
    return signIn(error);
  }
  session?.end();
  session = beginning;
  sessionStorage.setItem(KEPT, key);
  drawSession();
  show();
}

function show() {
  if (!session) return;
  closeDialogs(); // they act on what one has left
  leave();
  leave = () => {};
  keys = {};
  const [path, query] = location.hash.split("?");
  const [, name, id] = path.split("/");
  if (MOVED[name]) return location.replace(MOVED[name]);
  drawNav();
  const mine = viewsOf(session.me);
  if (!mine.length) {
    document.title = "Casebook";
    const good = `No view is for this key. It is good for: ${session.me.scopes.join(", ")}.`;
    put(main, h("h1", {}, "Nothing to see"), empty(good));
    return main.focus({ preventScroll: true });
  }
  const view = mine.find((each) => each.hash === `#/${name}`);
  if (!view) return location.replace(mine[0].hash);
  document.getElementById("freshness").hidden = true; // until an answer says so
  document.title = `${view.name} – Casebook`;
  // Each has a place of its own: what comes after it was left is drawn where nobody looks.
  const place = h("div");
  put(main, place);
  const shown = (more) => place.isConnected && Object.assign(keys, more);
  let at = location.hash;
  leave = (id ? (view.one ?? view.show) : view.show)(place, {
    api: session.api,
    session,
    me: session.me,
    id,
    query: new URLSearchParams(query),
    keys: shown,
    // Says in the address what is shown, unless one is about to leave.
    address(hash) {
      if (location.hash !== at) return;
      history.replaceState(null, "", hash);
      at = location.hash;
    },
    say,
  });
  if (show.moved && !place.contains(document.activeElement)) main.focus({ preventScroll: true });
  show.moved = true;
  window.scrollTo(0, 0);
}

// --- the keyboard: one key each, while nothing is typed, unless they are turned off ---------------

const EVERYWHERE = [
  ["?", "these keys"],
  ["Esc", "close what is open"],
  ["Tab", "go on to the next button, field or link"],
];

function help() {
  const turned = h("input", {
    type: "checkbox",
    checked: !localStorage.getItem(NO_SHORTCUTS),
    onchange: () =>
      turned.checked ? localStorage.removeItem(NO_SHORTCUTS) : localStorage.setItem(NO_SHORTCUTS, "1"),
  });
  const row = ([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what));
  const here = Object.entries(keys).map(([key, [what]]) => [key, what]);
  const dialog = modal(
    "Keyboard",
    h("h2", {}, "Keyboard"),
    here.length ? [h("h3", {}, "In this view"), h("dl", { class: "keys" }, here.map(row))] : null,
    h("h3", {}, "Everywhere"),
    h("dl", { class: "keys" }, EVERYWHERE.map(row)),
    h("label", { class: "check" }, turned, " Use single keys"),
    h("p", {}, button("Close", () => dialog.close())),
  );
}

addEventListener("keydown", (event) => {
  if (!session || isTyped(event.target) || event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
  if (localStorage.getItem(NO_SHORTCUTS)) return;
  const act = event.key === "?" ? help : keys[event.key]?.[1];
  if (!act) return;
  event.preventDefault();
  act();
});

// --- signing in by a link -------------------------------------------------------------------------

const isLink = () => location.hash.startsWith("#sign-in_");

// Its code is used once, and stays neither in the address nor in the history.
async function signInByLink() {
  const code = location.hash.slice(1);
  history.replaceState(null, "", "/");
  put(main, loading("the desk"));
  try {
    const made = await new Api(code, () => {}).ask("POST", "/sign_in");
    await begin(made.key);
  } catch (problem) {
    const kept = sessionStorage.getItem(KEPT);
    if (!kept) return signIn(problem);
    say(problem.message); // or one would take whom this tab knows for whom the link was to sign in
    await begin(kept);
  }
}

addEventListener("hashchange", () => (isLink() ? signInByLink() : show()));
setInterval(tellTime, 15000);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // it is no view
  main.focus();
});
const kept = sessionStorage.getItem(KEPT);
if (isLink()) signInByLink();
else if (kept) begin(kept);
else signIn();
