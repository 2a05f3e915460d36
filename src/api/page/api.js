// Requests to the API.

/** Longest wait for an answer, in ms: longer than the server waits for Kubernetes. */
const TIMEOUT = 20_000;

/** Difference of the server's clock to this one, in ms. */
let clockOffset = 0;
export const now = () => Date.now() + clockOffset;
export const since = (time) => (now() - Date.parse(time)) / 1000;

/** An answer that is an error, in the API's own sentence; status 0 if there was no answer. */
export class Failure extends Error {
  constructor(status, code, sentence, retryAfter) {
    super(sentence);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** Sends a request and returns the response, whatever its status. */
export async function send(path, options = {}) {
  try {
    const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT), ...options });
    const date = Date.parse(response.headers.get("Date") ?? "");
    // A Date has whole seconds.
    if (Math.abs(date - now()) > 2_000) clockOffset = date - Date.now();
    return response;
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Failure(0, "no_answer", "the server does not answer");
  }
}

/** Returns the Failure of a response that is an error. */
export async function failure(response) {
  const body = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  return new Failure(response.status, body.code, body.error ?? `the server answered ${response.status}`, retryAfter);
}

/** The last answers by path, with their entity tags. */
export const cache = new Map();

/** Returns the JSON at a path: the same object as before while the server answers 304. */
export async function get(path) {
  const known = cache.get(path);
  const response = await send(path, { headers: known ? { "If-None-Match": known.etag } : {} });
  if (response.status === 304) return known.value;
  if (!response.ok) throw await failure(response);
  const value = await response.json();
  const etag = response.headers.get("ETag");
  if (etag) cache.set(path, { etag, value });
  return value;
}
