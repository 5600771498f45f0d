// What can be suggested: the desk's set-up, and what was seen in lists. It is the session's.

const NO_DESK = { groups: {}, fields: {} };
const KEPT_MS = 30000;

export class Known {
  constructor(api) {
    this.api = api;
    this.tags = new Set();
    this.people = new Set();
    this.agents = new Set();
    this.tickets = new Map(); // by id: { id, number, subject }
  }

  // The desk's set-up; an empty one for a key that may not see it. It is asked for anew behind what is
  // known: forms are there at once, and what is typed next goes into them.
  async desk() {
    if (!this.me.scopes.includes("desk") || this.me.role === "requester") return NO_DESK;
    if (!this.asked || performance.now() > this.until) {
      this.until = performance.now() + KEPT_MS;
      const before = this.asked ?? NO_DESK;
      const answer = this.api.get("/desk").then(({ desk }) => desk, () => before);
      this.asked ??= answer;
      answer.then(() => (this.asked = answer));
    }
    return this.asked;
  }

  see(tickets) {
    for (const each of tickets) {
      this.tickets.set(each.id, each);
      for (const tag of each.tags) this.tags.add(tag);
      this.people.add(each.requester);
      if (each.assignee) this.agents.add(each.assignee);
    }
  }

  // What to suggest for a field of a command, by its name; `group`: whose agents.
  async suggestions(name, group) {
    const { groups } = await this.desk();
    const members = group ? (groups[group] ?? []) : Object.values(groups).flat();
    const agents = members.length ? members : this.agents;
    const found = {
      assignee: agents,
      group: Object.keys(groups),
      tag: this.tags,
      tags: this.tags,
      requester: this.people,
      follower: [...this.people, ...agents],
    };
    return [...new Set(found[name] ?? [])].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  }

  // A ticket's number and subject, for links.
  async ticket(id) {
    if (!this.tickets.has(id)) this.see([await this.api.get(`/tickets/${id}`)]);
    return this.tickets.get(id);
  }

  // The id of a ticket that is called by its number. Throws an error that says what to mend.
  async find(text) {
    const [, digits] = /^(?:c-?)?(\d+)$/i.exec(text.trim()) ?? [];
    if (/^[0-9a-f-]{36}$/i.test(text.trim())) return text.trim();
    if (!digits) throw new Error("a ticket’s number is like C-1042");
    const number = `C-${digits}`;
    const { tickets } = await this.api.get("/tickets", { number, limit: 1 });
    if (!tickets.length) throw new Error(`you see no ticket ${number}`);
    this.see(tickets);
    return tickets[0].id;
  }
}
