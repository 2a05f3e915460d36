// What the page knows, and the polls that keep it up to date.

import { $, announce } from "./dom.js";
import { Failure, cache, get, now } from "./api.js";

/** Time between two polls of Jobs and queue, in ms. Unchanged answers are 304. */
const POLL = 2_000;
/** Polls between two requests for what changes less, or of which each costs Kubernetes a request. */
const SELDOM = 5;
/** Longest pause between two polls while the server does not answer, in ms. */
const MAX_PAUSE = 30_000;
/** Largest `limit` of GET /jobs. */
const MAX_LIMIT = 500;
/** Samples of the queue's length that are kept: ten minutes. */
const MAX_SAMPLES = 300;
/** Jobs that are shown at first, and that the button adds. */
export const PAGE = 100;

const ENDED = ["succeeded", "failed"];
export const hasEnded = (job) => ENDED.includes(job.state);

/** All that the page knows. */
export const data = {
  info: null,
  ready: null, // true, or the Failure
  jobs: null, // an array
  hasMore: false,
  queue: null,
  premium: null, // { running, pending }
  pods: null,
  job: null, // the Job of the Job page, or a Failure
  failures: {}, // the last Failure of each of these names
  samples: [], // [time, length of the queue]
  wantedRows: PAGE, // rows of the table to load
  updated: null, // the time of the last complete poll
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

/** Runs `load` and keeps its Failure by `name`. Only a missing answer ends the poll. */
async function keep(name, load) {
  try {
    await load();
    delete data.failures[name];
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (error.status === 0) throw error;
    data.failures[name] = error;
  }
}

export const isWatching = () => data.info?.watch !== false;
export const isOverview = () => openJob() === null;
const isSeldom = () => polls % SELDOM === 0;

async function load() {
  if (isSeldom() || !data.info) await keep("info", async () => (data.info = await get("/info")));
  const tasks = [];
  if (isSeldom() || data.ready !== true) {
    const check = async () => {
      data.ready = await get("/readyz").then(() => true);
      data.notReadySince = null;
    };
    tasks.push(keep("ready", check));
  }
  if (isOverview()) {
    tasks.push(keep("jobs", isWatching() ? loadJobs : loadStarted));
    if (isWatching()) tasks.push(keep("queue", loadQueue), keep("premium", loadPremium));
    if ($("cluster").open && (isSeldom() || !data.pods)) {
      tasks.push(keep("pods", async () => (data.pods = (await get("/config")).pods)));
    }
  } else {
    tasks.push(keep("job", loadJob));
  }
  await Promise.all(tasks);
  if (data.failures.ready) {
    data.ready = data.failures.ready;
    data.notReadySince ??= now();
  }
}

/** The paths of the table's pages. */
let jobPaths = new Set();

/** Loads the rows of the table, in pages as large as the API allows. */
async function loadJobs() {
  const filter = new URLSearchParams(
    [...new FormData($("filter"))].filter(([name, value]) => value && name !== "name"),
  );
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
  // Pages of another filter, or after another Job, are of no more use.
  for (const path of jobPaths) if (!paths.has(path)) cache.delete(path);
  jobPaths = paths;
  [data.jobs, data.hasMore] = [jobs, next !== null];
}

async function loadQueue() {
  data.queue = await get("/queue");
  data.samples.push([now(), data.queue.waiting.length]);
  if (data.samples.length > MAX_SAMPLES) data.samples.shift();
}

async function loadPremium() {
  const count = async (state) => {
    const page = await get(`/jobs?limit=${MAX_LIMIT}&tier=premium&state=${state}`);
    return page.next ? `${page.jobs.length}+` : page.jobs.length;
  };
  const [running, pending] = await Promise.all([count("running"), count("pending")]);
  data.premium = { running, pending };
}

/** Without a watch the server lists no Jobs, but shows each by its name. */
async function loadStarted() {
  for (const [name, job] of mine) {
    if (hasEnded(job) || !(isSeldom() || !job.state)) continue;
    try {
      mine.set(name, await get(`/jobs/${name}`));
    } catch (error) {
      if (error.status !== 404) throw error;
      mine.delete(name);
    }
  }
  data.jobs = [...mine.values()].reverse().filter((job) => job.created);
}

async function loadJob() {
  const name = openJob();
  // Another Job may have been opened meanwhile.
  const store = (job) => name === openJob() && (data.job = job);
  try {
    store(await get(`/jobs/${name}`));
  } catch (error) {
    if (!(error instanceof Failure) || error.status === 0) throw error;
    if (error.status === 404) store(error);
    throw error;
  }
}

/** Begins to poll, and calls `show` after each poll. */
export function startPolling(show) {
  onPoll = show;
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
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
    data.updated = now();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
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

/** Keeps the newest state of a Job that was started here, and announces a change. */
export function note(job) {
  const before = mine.get(job.job);
  if (!before) return;
  mine.set(job.job, job);
  if (before.state && before.state !== job.state)
    announce(`${job.job} ${job.state}${job.reason ? `: ${job.reason}` : ""}`);
}

/** Returns the name of the Job in the address, as it stands there, or null. */
export function openJob() {
  return location.hash.match(/^#\/jobs\/(.+)$/)?.[1] ?? null;
}
