// The public API, asked with the key that the user has entered.

const LONGEST_MS = 60_000; // that an answer to a command is waited for: then it is not known

export class Problem extends Error {
  // `isOnce`: what was sent is done once, however often it is sent.
  constructor(document, status, isOnce = true) {
    super(document.detail ?? document.title ?? `answer ${status}`);
    Object.assign(this, {
      status,
      isOnce,
      title: document.title,
      detail: document.detail,
      code: document.code,
      errors: document.errors ?? [],
    });
  }
}

// What views are to show at least once some events have happened: the log is quicker than they.
export function showing(events) {
  const last = events.findLast((event) => Number.isInteger(event.version));
  return last && `${last.ticket_id}@${last.version}`;
}

export class Api {
  constructor(key, onAge) {
    this.key = key;
    this.onAge = onAge;
  }

  async ask(method, path, { query = {}, body, headers = {}, signal } = {}) {
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) {
      for (const each of Array.isArray(value) ? value : [value]) {
        if (each !== undefined && each !== null && each !== "") parameters.append(name, each);
      }
    }
    const asked = parameters.size ? `${path}?${parameters}` : path;
    const isOnce = method !== "POST" || "Idempotency-Key" in headers;
    let answer;
    try {
      answer = await fetch(asked, {
        method,
        signal,
        headers: {
          Authorization: `Bearer ${this.key}`,
          ...(body === undefined ? {} : { "Content-Type": "application/json" }),
          ...headers,
        },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      this.onSilence?.();
      throw new Problem({ title: "No answer", detail: "the server cannot be reached; is it running?" }, 0, isOnce);
    }
    const age = answer.headers.get("Casebook-Views-Age");
    if (age !== null) this.onAge(age === "unknown" ? null : Number(age));
    if (answer.status === 204) return {};
    const content = await answer.json().catch((error) => {
      if (error.name === "AbortError") throw error;
      if (answer.ok) throw new Problem({ title: "No answer", detail: "the answer was cut off" }, 0, isOnce);
      return {};
    });
    if (answer.status === 401) this.onRefused?.(new Problem(content, 401));
    if (!answer.ok) throw new Problem(content, answer.status, isOnce);
    this.onAnswer?.();
    if (answer.headers.has("Link")) content.more = true; // there is a next page
    return content;
  }

  get(path, query, signal) {
    return this.ask("GET", path, { query, signal });
  }

  // A command: once, whatever happens on the way, and on what was seen; the answer comes when lists
  // show it, or after `wait` seconds.
  command(path, body, { key, version, wait = 5 } = {}) {
    const headers = { "Idempotency-Key": key };
    if (wait) headers.Prefer = `wait=${wait}`;
    if (version !== undefined) headers["If-Match"] = `"${version}"`;
    return this.ask("POST", path, { body, headers, signal: AbortSignal.timeout(LONGEST_MS) });
  }

  // Events as they happen, until aborted; goes on where it was cut off.
  async follow(told, state, signal) {
    let last;
    for (let tries = 0; !signal.aborted; tries++) {
      try {
        const headers = { Authorization: `Bearer ${this.key}`, Accept: "text/event-stream" };
        if (last) headers["Last-Event-ID"] = last;
        const answer = await fetch("/events/stream", { headers, signal });
        if (answer.status === 401 || answer.status === 403) return state("refused");
        if (answer.status === 422) last = undefined; // it is of another log
        if (!answer.ok) throw new Error(`answer ${answer.status}`);
        state("live");
        tries = 0;
        for await (const block of blocks(answer.body)) {
          if (block.id) last = block.id;
          if (block.data) told(JSON.parse(block.data));
        }
      } catch {
        if (signal.aborted) return;
      }
      state("lost");
      await new Promise((go) => setTimeout(go, Math.min(10000, 500 * 2 ** tries)));
    }
  }
}

async function* blocks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const block = {};
        for (const line of part.split("\n")) {
          const [, name, text] = /^([a-z]+): ?([^\n]*)$/.exec(line) ?? [];
          if (name) block[name] = name === "data" && block.data ? `${block.data}\n${text}` : text;
        }
        yield block;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
