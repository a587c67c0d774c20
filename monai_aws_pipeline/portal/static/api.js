// Requests to this portal's own API.

/** A refusal with the key of its text, and what the text needs. */
export class Refused extends Error {
  constructor(code, values = {}) {
    super(code);
    this.code = code;
    this.values = values;
  }
}

/** The line is down: the request reached nobody. */
export class LineDown extends Error {}

export async function ask(method, path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      signal,
      headers: { "x-monai-aws": "1", ...(body === undefined ? {} : { "content-type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new LineDown();
  }
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  if (answer.status === 429 || answer.status === 502 || answer.status === 503 || answer.status === 504) throw new LineDown();
  throw new Refused(said.error ?? "internal", said);
}
