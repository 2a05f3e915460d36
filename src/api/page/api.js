// Requests to the API.

/** Longest wait for a response, in ms: longer than the server waits for Kubernetes. */
const TIMEOUT = 20_000;

/** Difference of the server's clock to this one, in ms. */
let clockOffset = 0;
export const now = () => Date.now() + clockOffset;
export const since = (time) => (now() - Date.parse(time)) / 1000;

/** A response that is an error, in the API's own sentence; status 0 if the server did not respond. */
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

/** Returns the JSON of a response. */
export async function json(response) {
	try {
		return await response.json();
	} catch {
		throw new Failure(0, "no_answer", "the response is incomplete or not JSON");
	}
}

/** Returns the Failure of a response that is an error. */
export async function failure(response) {
	const body = await response.json().catch(() => null);
	// Such a response is that of a proxy whose server does not respond.
	if (!body?.code && response.status >= 500) return new Failure(0, "no_answer", "the server does not answer");
	const retryAfter = Number(response.headers.get("Retry-After")) || null;
	return new Failure(response.status, body?.code, body?.error ?? `the server answered ${response.status}`, retryAfter);
}

/** Returns the value of Authorization for a token. */
export function bearer(token) {
	if (/[^\x21-\x7e]/.test(token)) throw new Failure(400, "bad_token", "the token has a space or a letter that no token has");
	return `Bearer ${token}`;
}

/** The last responses by path, with their entity tags. */
export const cache = new Map();

/** Returns the JSON at a path: the same object as before if the response is 304. */
export async function get(path) {
	const known = cache.get(path);
	const response = await send(path, { headers: known ? { "If-None-Match": known.etag } : {} });
	if (response.status === 304) return known.value;
	if (!response.ok) throw await failure(response);
	const value = await json(response);
	const etag = response.headers.get("ETag");
	if (etag) cache.set(path, { etag, value });
	return value;
}
