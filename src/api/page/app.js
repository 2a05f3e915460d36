// The page: polls the API, shows what it returns, and sends the requests of its forms.

import { $, age, clock, copy, element, setChildren, setText } from "./dom.js";
import { Failure, cache, now } from "./api.js";
import { data, isOverview, openJob, refresh, startPolling } from "./model.js";
import { showCluster } from "./cluster.js";
import { showJob, showTimeline } from "./job.js";
import { showJobs, tickJobs } from "./jobs.js";
import { stopLog } from "./log.js";
import { showStarted, showSubmit } from "./submit.js";
import { showTiers } from "./tiers.js";

/** Age from which the data counts as stale, in ms. */
const STALE = 10_000;

function show() {
  const job = openJob();
  $("overview").hidden = job !== null || !hasData();
  $("job").hidden = job === null;
  $("static").hidden = true;
  showStatus();
  showBanners();
  if (job !== null) return showJob();
  if (!hasData()) return;
  showTiers();
  showJobs();
  showCluster();
  showSubmit();
  showStarted();
  document.title = "img-classification";
}

const hasData = () => data.info !== null;
const isStale = () => data.updated === null || now() - data.updated > STALE;

/** Returns [icon and word, class] of the server's readiness. */
function readiness() {
  if (data.downSince) return ["✗ no answer", "bad"];
  if (data.ready === null) return ["… loading", "quiet"];
  return data.ready === true ? ["● ready", "good"] : ["✗ not ready", "bad"];
}

function showStatus() {
  const { info } = data;
  $("status").hidden = false;
  const [text, name] = readiness();
  setText($("ready"), text);
  $("ready").className = name;
  const version = info?.kubernetes?.match(/\d+\.\d+/)?.[0];
  const facts = [info?.cluster && `cluster ${info.cluster}`, version && `Kubernetes ${version}`];
  if (info?.local) facts.unshift("simulation: no container runs");
  setText(
    $("facts"),
    facts
      .filter(Boolean)
      .map((fact) => `· ${fact}`)
      .join(" "),
  );
  setText($("updated"), data.updated ? `· updated ${age((now() - data.updated) / 1000)} ago` : "");
  setText($("version"), info ? `img-classification ${info.version} · image ${info.image}` : "");
  document.body.classList.toggle("stale", Boolean(data.downSince) || isStale() || Boolean(data.failures.jobs));
}

function showBanners() {
  const banners = [];
  const shown = data.updated ? ` What is shown is from ${clock(data.updated)}.` : "";
  if (data.downSince) {
    banners.push(`The server has not answered since ${clock(data.downSince)}.${shown} The page tries again by itself.`);
  } else if (data.ready instanceof Failure) {
    banners.push(`Not ready since ${clock(data.notReadySince)}: ${data.ready.message}.`);
  }
  for (const name of ["jobs", "queue", "pods"]) {
    const error = data.failures[name];
    if (data.downSince || !error || error.message === data.ready?.message) continue;
    const line = `${{ jobs: "Jobs", queue: "Queue", pods: "Pods" }[name]}: ${error.message}.`;
    if (!banners.some((banner) => banner.endsWith(error.message + "."))) banners.push(line);
  }
  if (data.info && !data.info.watch) {
    banners.push("The server runs with --no-watch: it lists no Jobs and no queue. Jobs that you start here are shown.");
  }
  setChildren($("banners"), banners.join("\n"), () => banners.map((text) => element("p", { class: "banner" }, text)));
}

function navigate() {
  const job = openJob();
  stopLog();
  data.job = null;
  delete data.failures.job;
  for (const path of cache.keys()) if (path.startsWith("/jobs/")) cache.delete(path);
  show();
  (job === null ? $("main") : $("job-title")).focus({ preventScroll: false });
  window.scrollTo(0, 0);
  refresh();
}

window.addEventListener("hashchange", () => {
  // "#main" is the skip link.
  if (/^#\/|^$/.test(location.hash)) navigate();
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy($(button.dataset.copy).textContent, button));
}

// Times pass between two polls.
setInterval(() => {
  if (document.hidden) return;
  showStatus();
  if (!isOverview()) return data.job?.state && showTimeline(data.job);
  if (!hasData()) return;
  tickJobs();
  showSubmit();
  showStarted();
}, 1_000);

show();
startPolling(show);
