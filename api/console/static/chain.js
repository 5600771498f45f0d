// An event's hash, computed here: what docs/explanation/hash-chain.md says, and no word of the server's.

const milliseconds = (time) => Date.parse(time);

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.keys(value)
      .sort()
      .map((key) => [key, sorted(value[key])]),
  );
}

function without(document, path) {
  const steps = path.split("/").slice(1);
  const last = steps.pop();
  steps.reduce((inside, step) => inside[step], document)[last] = null;
}

function isExact(value) {
  if (typeof value === "number") return Number.isSafeInteger(value);
  return value === null || typeof value !== "object" || Object.values(value).every(isExact);
}

// "whole", "broken", or "unknown" where it cannot be computed here: numbers that are too large, and
// what was redacted and is stored unsealed.
export async function verified(ticketId, event, previous) {
  if (!crypto.subtle) return "unknown";
  if (!event.command || !event.hash || !event.data || !Array.isArray(event.sealed)) return "broken";
  if (!isExact(event.data) || event.hidden?.length) return "unknown";
  const stored = structuredClone({
    actor: event.actor,
    causation_id: event.causation_id,
    command: event.command,
    correlation_id: event.correlation_id,
    data: event.data,
    id: event.id,
    occurred_at: milliseconds(event.occurred_at),
    previous: event.previous,
    recorded_at: milliseconds(event.recorded_at),
    schema: event.schema,
    ticket_id: ticketId,
    type: event.type,
    version: event.version,
  });
  try {
    for (const field of event.sealed) without(stored, field.path);
  } catch {
    return "broken";
  }
  if (event.sealed.length) stored.sealed = event.sealed;
  const bytes = new TextEncoder().encode(JSON.stringify(sorted(stored)));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hash = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hash === event.hash && event.previous === previous ? "whole" : "broken";
}
