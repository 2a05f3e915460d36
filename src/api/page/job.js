// The page of one Job.

import { $, announce, clock, command, duration, element, percent, setChildren, setText } from "./dom.js";
import { Failure, bearer, failure, send } from "./api.js";
import { data, hasEnded, mine, note, openJob, tokens } from "./model.js";
import { ICONS, times } from "./jobs.js";
import { showLog } from "./log.js";

export function showJob() {
	const name = openJob();
	setText($("job-title"), name);
	document.title = `${name} · img-classification`;
	const job = data.jobName === name ? data.job : null;
	const isMissing = job instanceof Failure;
	for (const id of ["timeline", "job-facts", "log-section", "commands-section"]) $(id).hidden = !job || isMissing;
	if (isMissing || !job) {
		$("job-actions").hidden = true;
		$("job-reason").className = isMissing ? "result problem" : "result quiet";
		return setText($("job-reason"), isMissing ? `${job.message}.` : data.failures.job ? "" : "Loading …");
	}
	note(job);
	$("job-reason").className = job.state === "failed" ? "result problem" : "result";
	setText($("job-reason"), job.reason ?? "");
	showTimeline(job);
	const facts = [
		["Tier", `${job.tier}, namespace ${job.namespace}`],
		["Dataset", job.dataset],
		["Network", job.type === "ff" ? "feed-forward" : "convolutional"],
		["Node", job.node],
		["Exit code", job.exit_code],
		["Accuracy", job.accuracy === null ? null : percent(job.accuracy)],
	].filter(([, value]) => value !== null);
	setChildren($("job-facts"), JSON.stringify(facts), () =>
		facts.map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, String(value)))),
	);
	setChildren($("job-commands"), job.job, () =>
		[
			`kubectl -n ${job.namespace} describe job ${job.job}`,
			`kubectl -n ${job.namespace} logs -f job/${job.job}`,
			`curl ${location.origin}/jobs/${job.job}`,
			`curl '${location.origin}/jobs/${job.job}/logs?follow=true'`,
		].map(command),
	);
	$("job-actions").hidden = !data.info?.deletion;
	showLog(job);
}

export function showTimeline(job) {
	const [waited, ran] = times(job);
	const isOver = hasEnded(job);
	const states = ["queued", "pending", "running"];
	const at = isOver ? states.length : states.indexOf(job.state);
	const kind = (state) => ["done", "now", "next"][1 + Math.sign(states.indexOf(state) - at)];
	const place = job.position ? `position ${job.position}, ` : "";
	const steps = [
		["posted", clock(job.created), "done"],
		["queued", at === 0 ? `${place}for ${duration(waited)}` : "", kind("queued")],
		["pending", at === 0 ? "" : `${at === 1 ? "for" : "waited"} ${duration(waited)}`, kind("pending")],
		["running", ran === null ? "" : `${isOver ? "ran" : "for"} ${duration(ran)}`, isOver && ran === null ? "skipped" : kind("running")],
		[isOver ? job.state : "ended", job.finished ? clock(job.finished) : "", isOver ? `now ${job.state}` : "next"],
	];
	setChildren($("timeline"), steps.map(([name, , kind]) => name + kind).join(), () =>
		steps.map(([name, , kind]) =>
			element(
				"li",
				{ class: kind, "aria-current": kind.startsWith("now") ? "step" : null },
				element("strong", {}, element("span", { "aria-hidden": "true" }, ICONS[name] ?? ""), ` ${name}`),
				element("span", {}),
			),
		),
	);
	steps.forEach(([, text], place) => setText($("timeline").children[place].lastChild, text));
}

/** Closes the question before a deletion: its Job is no longer the open one. */
export function closeDialog() {
	// A browser may offer to store what a closed form holds.
	$("delete-form").elements.token.value = "";
	$("delete-dialog").close();
}

let isDeleting = false;

async function deleteJob(event) {
	event.preventDefault();
	if (isDeleting) return;
	const { name } = $("delete-dialog").dataset;
	const field = $("delete-form").elements.token;
	tokens.admin = field.value.trim();
	setText($("delete-error"), "");
	isDeleting = true;
	try {
		const response = await send(`/jobs/${name}`, {
			method: "DELETE",
			headers: { Authorization: bearer(tokens.admin) },
		});
		if (!response.ok) throw await failure(response);
		mine.delete(name);
		announce(`${name} deleted`);
		if (openJob() === name) location.hash = "#/";
	} catch (error) {
		if (!(error instanceof Failure)) throw error;
		setText($("delete-error"), `${error.message}.`);
		field.focus();
	} finally {
		isDeleting = false;
	}
}

$("delete").addEventListener("click", () => {
	const name = openJob();
	$("delete-dialog").dataset.name = name;
	setText($("delete-title"), `Delete ${name}?`);
	$("delete-form").elements.token.value = tokens.admin;
	setText($("delete-error"), "");
	$("delete-dialog").showModal();
});
$("delete-cancel").addEventListener("click", closeDialog);
$("delete-form").addEventListener("submit", deleteJob);
