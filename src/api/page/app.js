// The entry of the page: the views, the status and the banners.

import { $, age, clock, copy, element, setChildren, setText } from "./dom.js";
import { Failure, cache, now } from "./api.js";
import { data, isOverview, loads, openJob, refreshAll, startPolling, updated } from "./model.js";
import { showCluster } from "./cluster.js";
import { closeDialog, showJob, showTimeline } from "./job.js";
import { showJobs, tickJobs } from "./jobs.js";
import { stopLog } from "./log.js";
import { showStarted, showSubmit } from "./submit.js";
import { showTiers } from "./tiers.js";

/** Age from which the data counts as stale, in ms. */
const STALE = 10_000;

/** The names of the loads. */
const TITLES = { info: "Server", jobs: "Jobs", queue: "Queue", premium: "Premium tier", pods: "Pods", job: "This Job" };

function show() {
	const job = openJob();
	$("overview").hidden = job !== null || !hasData();
	$("job").hidden = job === null;
	$("static").hidden = job !== null || hasData();
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
/** Returns the Failures of what the present view shows, by name. */
const failures = () => ["info", ...loads(), "pods"].filter((name) => data.failures[name] && (name !== "pods" || isOverview()));

function isStale() {
	const time = updated();
	return data.downSince !== null || time === null || now() - time > STALE || loads().some((name) => data.failures[name]);
}

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
	setText($("updated"), updated() ? `· updated ${age((now() - updated()) / 1000)} ago` : "");
	setText($("version"), info ? `img-classification ${info.version} · image ${info.image}` : "");
	document.body.classList.toggle("stale", isStale());
}

function showBanners() {
	const banners = [];
	const shown = updated() ? ` Last update: ${clock(updated())}.` : "";
	if (data.downSince) {
		banners.push(`The server has not answered since ${clock(data.downSince)}.${shown} The page tries again by itself.`);
	} else if (data.ready instanceof Failure) {
		banners.push(`Not ready since ${clock(data.notReadySince)}: ${data.ready.message}.`);
	}
	for (const name of data.downSince ? [] : failures()) {
		const { message, status } = data.failures[name];
		// A Job that does not exist is no fault.
		if (banners.some((banner) => banner.endsWith(`${message}.`)) || (name === "job" && status === 404)) continue;
		banners.push(`${TITLES[name]}: ${message}.`);
	}
	if (data.info && !data.info.watch) {
		banners.push("The server runs with --no-watch: it lists no Jobs and no queue. Jobs that you start here are shown.");
	}
	setChildren($("banners"), banners.join("\n"), () => banners.map((text) => element("p", { class: "banner" }, text)));
}

function navigate() {
	const job = openJob();
	stopLog();
	closeDialog();
	[data.job, data.jobName] = [null, null];
	for (const name of ["loadedAt", "failures"]) delete data[name].job;
	for (const path of cache.keys()) if (path.startsWith("/jobs/")) cache.delete(path);
	show();
	(job === null ? $("main") : $("job-title")).focus({ preventScroll: false });
	window.scrollTo(0, 0);
	refreshAll();
}

window.addEventListener("hashchange", navigate);
// The address says which view is open, so the link must not change it.
document.querySelector(".skip").addEventListener("click", (event) => {
	event.preventDefault();
	$("main").focus();
});

for (const button of document.querySelectorAll("[data-copy]")) {
	button.addEventListener("click", () => copy($(button.dataset.copy).textContent, button));
}

// Times pass between two polls.
setInterval(() => {
	if (document.hidden) return;
	showStatus();
	if (!isOverview()) return data.jobName === openJob() && data.job.state && showTimeline(data.job);
	if (!hasData()) return;
	tickJobs();
	showSubmit();
	showStarted();
}, 1_000);

show();
startPolling(show);
