// A ticket's life, read from its log: its events, what it was after each, and what is done with it.

import { Problem } from "./api.js";
import { verified } from "./chain.js";
import { told } from "./events.js";

const PAGE = 1000;
const TRIES = 5;

export class Life {
  #reading = Promise.resolve();
  #sending = Promise.resolve();

  // `changed` hears of events, `lost` that the ticket is not for this caller any more.
  constructor({ api, session, me, id }, signal, changed, lost = () => {}) {
    Object.assign(this, { api, session, me, id, signal, changed, lost });
    this.events = [];
    this.verdicts = [];
    this.acknowledged = 0; // the version of one's own last command
    this.times = 1; // that all of it was read
    this.chain = "whole"; // as the server says
  }

  get version() {
    return this.events.at(-1)?.version ?? 0;
  }

  // The version up to which one knows the ticket: it was read, or one's own command came to it.
  get known() {
    return Math.max(this.version, this.acknowledged);
  }

  // One after the other: each goes on where the one before has come to.
  read() {
    this.#reading = this.#reading.catch(() => {}).then(() => this.#readOn());
    this.#reading.catch((error) => error.status === 404 && this.events.length && this.lost());
    return this.#reading;
  }

  async #readOn() {
    const before = this.version;
    await this.#readBehind();
    const isHidden = this.events.some(({ version, type }) => version > before && type === "MessageRedacted");
    if (before && isHidden) {
      // What was read before is read otherwise now.
      Object.assign(this, { events: [], verdicts: [], times: this.times + 1 });
      await this.#readBehind();
    }
    if (this.version > before) this.changed();
  }

  async #readBehind() {
    for (let more = true; more; ) {
      const page = await this.api.get(
        `/tickets/${this.id}/timeline`,
        { after: this.version, limit: PAGE },
        this.signal,
      );
      if (page.chain !== "whole") this.chain = page.chain;
      this.events.push(...page.events);
      more = page.more;
    }
  }

  // What the ticket's fields were after a number of events: each says what it changed.
  fields(count = this.events.length) {
    const found = {};
    for (const event of this.events.slice(0, count))
      for (const change of event.changes ?? []) found[change.field] = change.after;
    return found;
  }

  // Which commands the ticket takes now, by verb, with what must be filled in first.
  async possible() {
    if (!this.me.scopes.includes("write")) return {};
    return (await this.api.get(`/tickets/${this.id}/commands`, {}, this.signal)).commands;
  }

  // Each event's hash, computed in this browser: "whole", "broken" or "unknown".
  async verify() {
    for (let n = this.verdicts.length; n < this.events.length; n++) {
      const before = this.events[n - 1]?.hash ?? null;
      this.verdicts[n] =
        this.me.role === "requester" ? "unknown" : await verified(this.id, this.events[n], before);
    }
    return this.verdicts;
  }

  // Sends a command once, on what was seen: `since.version`; one after the other, so that none is
  // another's first. If others were, it is sent again by itself, unless one of their events is one that
  // `minds`: then the error says what happened. One's own are known to oneself.
  submit(verb, body, key, { since = { version: this.known }, minds = () => true } = {}) {
    const sent = this.#sending.then(() => this.#send(verb, body, key, since, minds));
    this.#sending = sent.catch(() => {});
    return sent;
  }

  async #send(verb, body, key, since, minds) {
    const others = () => this.events.filter(({ version, actor }) => version > since.version && actor?.id !== this.me.id);
    for (let tries = 1; ; tries++) {
      const meanwhile = others();
      since.version = Math.max(since.version, this.known);
      if (meanwhile.some(minds)) {
        const detail = "the ticket has changed since you began";
        throw Object.assign(new Problem({ detail }, 412), { meanwhile: meanwhile.map(line) });
      }
      try {
        const path = `/tickets/${this.id}/${verb}`;
        const answer = await this.api.command(path, body, { key, version: since.version, wait: 0 });
        since.version = this.acknowledged = answer.version;
        this.session.after = `${this.id}@${answer.version}`; // for the lists that are seen next
        this.read().catch(() => {}); // it is done, whether it is shown or not
        return answer;
      } catch (error) {
        if (error.status !== 409 && error.status !== 412) throw error;
        await this.read().catch(() => {});
        if (error.status === 412 && this.version > since.version && tries < TRIES) continue;
        error.meanwhile = others().map(line);
        throw error;
      }
    }
  }
}

function line(event) {
  const said = (event.changes ?? [])
    .filter(({ field, after }) => ["string", "number"].includes(typeof after) && field !== "body")
    .map(({ field, after }) => `${field.replaceAll("_", " ")} is ${after}`);
  const words = event.data?.body ? [`“${String(event.data.body).slice(0, 200)}”`] : said;
  return [`${event.actor?.id ?? "?"} ${told(event)}`, ...words].join(", ");
}
