// What is done with a ticket: each command by its form, over the page, which asks for what is needed
// first; and those of one click.

import { inDialog, words } from "./dom.js";
import { field } from "./fields.js";
import { commandForm, customField, newKey } from "./forms.js";

const REDACTED = {
  destroyed: "destroyed",
  hidden: "hidden; they have no key of their own that could be destroyed",
  pending: "hidden, and about to be destroyed",
};

// `possible()`: by verb, what must be filled in first. Returns { act, once }.
export function actions(life, context, possible) {
  const { session, me, say } = context;

  // A command's form; with it what must be filled in before.
  const act = (verb, title, fixed = {}, given = {}) =>
    inDialog(title || words(verb), async (close) => {
      const since = { version: life.known };
      const now = life.fields();
      const sent = new Map();
      const first = {};
      for (const each of possible()[verb] ?? []) first[each] = await needed(each, now);
      return commandForm(context, {
        path: `/tickets/{ticket_id}/${verb}`,
        name: title || undefined,
        more: first,
        isWhole: Object.keys(first).length > 0, // or a part of it would be done before the rest is refused
        fixed,
        given,
        group: now.group,
        status: now.status,
        sure: verb === "redact" ? "Really redact it? It cannot be undone" : undefined,
        send: (body, key) => sendAll(verb, Object.keys(first), body, key, since, sent),
        done: (answer) => {
          close();
          const done = answer.redaction ? `The words are ${REDACTED[answer.redaction]}.` : "Done.";
          say(answer.events.length ? done : "Nothing had to change.");
          if (answer.follow_up && !life.signal.aborted) location.hash = `#/tickets/${answer.follow_up}`;
        },
        cancel: close,
      });
    });

  async function needed(path, now) {
    const hint = "The desk wants it first.";
    const key = path.slice("fields.".length);
    const { fields } = await session.known.desk();
    const more = { label: words(key), required: true, hint, value: now.fields?.[key] };
    if (path !== "assignee") return customField(key, fields[key], more);
    const suggestions = await session.known.suggestions("assignee", now.group);
    return field({ type: "text", suggestions }, { name: "assignee", value: me.id, required: true, hint });
  }

  // What is needed first, each by its own command, and then the command. The log keeps keys in plain
  // text for ever, so they say nothing of a value: `sent` has, by path, the value and its key.
  async function sendAll(verb, first, body, key, since, sent) {
    const { assignee, fields = {}, ...rest } = body;
    for (const path of first) {
      const custom = path.startsWith("fields.") ? path.slice("fields.".length) : null;
      const value = custom ? fields[custom] : assignee;
      const said = custom ? ["set_field", { key: custom, value }] : ["assign", { assignee }];
      const what = JSON.stringify([key, value]);
      if (sent.get(path)?.what !== what) sent.set(path, { what, key: newKey() });
      await life.submit(...said, sent.get(path).key, { since });
    }
    try {
      return await life.submit(verb, first.length ? rest : body, key, { since });
    } catch (error) {
      const done = first.map((path) => `${words(path.replace("fields.", ""))} was set`);
      throw Object.assign(error, { meanwhile: [...done, ...(error.meanwhile ?? [])] });
    }
  }

  async function once(verb, body, minds = () => false) {
    try {
      await life.submit(verb, body, newKey(), { minds });
    } catch (error) {
      say([error.message, ...(error.meanwhile ?? [])].join(": "));
    }
  }

  return { act, once };
}
