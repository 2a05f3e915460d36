// The state of the page, and the polls that update it.

import { $, announce } from "./dom.js";
import { Failure, cache, get, now } from "./api.js";

/** Time between two polls of Jobs and queue, in ms. Unchanged answers are 304. */
const POLL = 2_000;
/** Polls between two requests for slow data, and for data that costs Kubernetes a request. */
const SELDOM = 5;
/** Longest pause between two polls while the server does not answer, in ms. */
const MAX_PAUSE = 30_000;
/** Largest `limit` of GET /jobs. */
const MAX_LIMIT = 500;
/** Time for which samples of the queue's length are kept, in ms. */
const SAMPLES_AGE = 600_000;
/** Jobs that are shown at first, and that the button adds. */
export const PAGE = 100;

const ENDED = ["succeeded", "failed"];
export const hasEnded = (job) => ENDED.includes(job.state);

/** The state of the page. */
export const data = {
	info: null,
	ready: null, // true, or the Failure
	jobs: null, // an array
	hasMore: false,
	queue: null,
	premium: null, // { running, pending }
	pods: null,
	job: null, // the open Job, or a Failure
	jobName: null, // the name of `job`
	loadedAt: {}, // the time of the last success of each load
	failures: {}, // the Failure of each load whose last run failed
	samples: [], // [time, length of the queue]
	wantedRows: PAGE, // rows of the table to load
	downSince: null, // the server does not answer
	notReadySince: null,
};

/** Jobs that were started on this page, by name: they are announced, and listed where the server lists none. */
export const mine = new Map();
/** Tokens live only here: a reload forgets them. */
export const tokens = { premium: "", admin: "" };
let polls = 0;
let onPoll = () => {};
let pause = POLL;
let timer = null;
let polling = null;

/** Runs `load` and keeps its Failure by `name`. Only a missing response ends the poll. */
async function keep(name, load) {
	try {
		await load();
		data.loadedAt[name] = now();
		delete data.failures[name];
	} catch (error) {
		if (!(error instanceof Failure) || error.status === 0) throw error;
		data.failures[name] = error;
	}
}

/** The loads of [`loadAside`] that are in progress. */
const aside = new Set();

/** Runs a load that may take as long as Kubernetes does, so that no poll waits for it. */
function loadAside(name, load) {
	if (aside.has(name)) return;
	aside.add(name);
	const end = () => {
		aside.delete(name);
		onPoll();
	};
	// The poll itself notices a missing response.
	keep(name, load).then(end, end);
}

/** Returns the names of the loads that the present view shows. */
export function loads() {
	if (!isOverview()) return ["job"];
	return isWatching() ? ["jobs", "queue", "premium"] : ["jobs"];
}

/** Returns the age of the oldest data that the present view shows, as the time of its load; null before the first load. */
export function updated() {
	const times = loads().map((name) => data.loadedAt[name]);
	return times.includes(undefined) ? null : Math.min(...times);
}

export const isWatching = () => data.info?.watch !== false;
export const isOverview = () => openJob() === null;
const isSeldom = () => polls % SELDOM === 0;

async function load() {
	if (isSeldom() || !data.info) await keep("info", async () => (data.info = await get("/info")));
	if (isSeldom() || data.ready !== true) loadAside("ready", loadReady);
	if (!isOverview()) return isWatching() || isSeldom() || !data.job ? keep("job", loadJob) : undefined;
	if ($("cluster").open && (isSeldom() || !data.pods)) {
		loadAside("pods", async () => (data.pods = (await get("/config")).pods));
	}
	if (isWatching()) {
		await Promise.all([keep("jobs", loadJobs), keep("queue", loadQueue), keep("premium", loadPremium)]);
	} else {
		[data.queue, data.premium] = [null, null];
		await keep("jobs", loadUnwatched);
	}
}

async function loadReady() {
	try {
		data.ready = await get("/readyz").then(() => true);
		data.notReadySince = null;
	} catch (error) {
		if (error instanceof Failure && error.status !== 0) {
			data.ready = error;
			data.notReadySince ??= now();
		}
		throw error;
	}
}

/** The paths of the table's pages. */
let jobPaths = new Set();

/** Returns the [parameter, value] pairs of the filter. */
const filters = () => [...new FormData($("filter"))].filter(([name, value]) => value && name !== "name");

/** Loads the rows of the table, in pages as large as the API allows. */
async function loadJobs() {
	const filter = new URLSearchParams(filters());
	const [jobs, paths] = [[], new Set()];
	let next = null;
	do {
		filter.set("limit", Math.min(data.wantedRows - jobs.length, MAX_LIMIT));
		if (next) filter.set("after", next);
		const path = `/jobs?${filter}`;
		const page = await get(path);
		paths.add(path);
		jobs.push(...page.jobs);
		next = page.next;
	} while (next && jobs.length < data.wantedRows);
	// The cache drops the pages of another filter or cursor.
	for (const path of jobPaths) if (!paths.has(path)) cache.delete(path);
	jobPaths = paths;
	[data.jobs, data.hasMore] = [jobs, next !== null];
	await loadMine(new Set(jobs.map((job) => job.job)));
}

async function loadQueue() {
	data.queue = await get("/queue");
	data.samples.push([now(), data.queue.waiting.length]);
	while (data.samples[0][0] < now() - SAMPLES_AGE) data.samples.shift();
}

async function loadPremium() {
	const count = async (state) => {
		const page = await get(`/jobs?limit=${MAX_LIMIT}&tier=premium&state=${state}`);
		return page.next ? `${page.jobs.length}+` : page.jobs.length;
	};
	const [running, pending] = await Promise.all([count("running"), count("pending")]);
	data.premium = { running, pending };
}

/** Loads the Jobs that were started here, have not ended, and are not among the `listed` names. */
async function loadMine(listed) {
	for (const [name, job] of mine) {
		if (listed.has(name) || hasEnded(job) || job.state === "deleted") continue;
		// Without a watch each of these requests costs Kubernetes one.
		if (job.state && !isWatching() && !isSeldom()) continue;
		try {
			note(await get(`/jobs/${name}`));
		} catch (error) {
			if (error.status !== 404) throw error;
			note({ job: name, state: "deleted" });
		}
	}
}

/** Without a watch the server lists no Jobs, but shows each by its name. */
async function loadUnwatched() {
	try {
		await loadMine(new Set());
	} finally {
		const matches = (job) => job.created && filters().every(([name, value]) => job[name] === value);
		data.jobs = [...mine.values()].reverse().filter(matches);
	}
}

async function loadJob() {
	const name = openJob();
	// Another Job may have been opened meanwhile.
	const store = (job) => name === openJob() && ([data.job, data.jobName] = [job, name]);
	try {
		// The address is free text.
		if (!/^[a-z0-9][a-z0-9.-]*$/.test(name)) throw new Failure(404, "job_not_found", "no such Job");
		store(await get(`/jobs/${name}`));
	} catch (error) {
		if (error.status === 404) store(error);
		throw error;
	}
}

/** Begins to poll, and calls `show` after each poll. */
export function startPolling(show) {
	onPoll = show;
	document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refreshAll()));
	poll();
}

/** Polls, shows the result, and plans the next poll. Concurrent calls share a poll. */
function poll() {
	polling ??= run().finally(() => (polling = null));
	return polling;
}

async function run() {
	clearTimeout(timer);
	try {
		await load();
		polls += 1;
		pause = POLL;
		data.downSince = null;
	} catch (error) {
		if (!(error instanceof Failure)) console.error(error);
		data.downSince ??= now();
		pause = Math.min(pause * 2, MAX_PAUSE);
	} finally {
		clearTimeout(timer);
		if (!document.hidden) timer = setTimeout(poll, pause);
	}
	onPoll();
}

/** Polls at once, after the present poll. */
export async function refresh() {
	await polling;
	await poll();
}

/** Polls at once, with the data that most polls leave out. */
export function refreshAll() {
	polls = 0;
	return refresh();
}

/** Keeps the newest state of a Job that was started here, and announces a change. */
export function note(job) {
	const before = mine.get(job.job);
	if (!before) return;
	mine.set(job.job, job);
	if (before.state && before.state !== job.state) announce(`${job.job} ${job.state}${job.reason ? `: ${job.reason}` : ""}`);
}

/** Returns the name of the Job in the address, as it stands there, or null. */
export function openJob() {
	return location.hash.match(/^#\/jobs\/(.+)$/)?.[1] ?? null;
}
