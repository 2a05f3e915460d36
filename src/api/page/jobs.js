// The table of Jobs.

import { $, duration, element, percent, setChildren, setText } from "./dom.js";
import { now } from "./api.js";
import { PAGE, data, hasEnded, note, refresh } from "./model.js";

/** Most rows of the table. */
const MAX_ROWS = 2_000;

export const ICONS = { queued: "◷", pending: "…", running: "●", succeeded: "✓", failed: "✗" };

/** The rows of the table by name: { row, cells, log, job }. */
const rows = new Map();

export function showJobs() {
	const jobs = data.jobs;
	$("jobs").setAttribute("aria-busy", String(jobs === null && !data.failures.jobs));
	if (!jobs) return setText($("jobs-note"), data.failures.jobs ? "" : "Loading the Jobs …");
	const part = $("filter").elements.name.value.trim().toLowerCase();
	const visible = jobs.filter((job) => job.job.includes(part));
	const names = new Set(visible.map((job) => job.job));
	for (const [name, { row }] of rows) {
		if (names.has(name)) continue;
		row.remove();
		rows.delete(name);
	}
	let place = $("job-rows").firstElementChild;
	for (const job of visible) {
		const known = rows.get(job.job) ?? addRow(job.job);
		if (known.job !== job) showRow(known, job);
		// A row in its place is not moved: that would take the focus from its link.
		if (known.row === place) place = place.nextElementSibling;
		else $("job-rows").insertBefore(known.row, place);
	}
	showNote(jobs.length, visible.length);
}

function addRow(name) {
	const cells = ["name", "tier", "state", "waited", "ran", "result"].map((label) =>
		label === "name"
			? element("th", { role: "rowheader", scope: "row", class: label })
			: element("td", { role: "cell", class: label, "data-label": label }),
	);
	const [nameCell, , , , , result] = cells;
	nameCell.append(element("a", { href: `#/jobs/${name}` }, name));
	const log = element("a", { href: `#/jobs/${name}`, "aria-label": `log of ${name}` }, "log");
	result.append(element("span"), " ", log);
	const known = { row: element("tr", { role: "row" }, ...cells), cells, log, job: null };
	rows.set(name, known);
	return known;
}

/** Shows a Job whose fields changed, and announces the change of one that was started here. */
function showRow(known, job) {
	const [, tier, state, , , result] = known.cells;
	note(job);
	setText(tier, job.tier);
	showState(state, job);
	known.row.className = job.state;
	known.job = job;
	showTimes(known);
	setText(result.firstChild, job.accuracy !== null ? percent(job.accuracy) : (job.reason ?? ""));
	known.log.hidden = ["queued", "pending"].includes(job.state);
}

function showState(node, job) {
	const text = job.state + (job.position ? ` · position ${job.position}` : "");
	setChildren(node, text, () => [element("span", { class: "icon", "aria-hidden": "true" }, ICONS[job.state]), ` ${text}`]);
}

/** Returns [seconds waited, seconds ran or null]. */
export function times({ created, started, finished }) {
	const waited = (Date.parse(started ?? finished ?? "") || now()) - Date.parse(created);
	const ran = started ? (Date.parse(finished ?? "") || now()) - Date.parse(started) : null;
	return [waited / 1000, ran === null ? null : ran / 1000];
}

function showTimes({ cells, job }) {
	const [waited, ran] = times(job);
	setText(cells[3], duration(waited));
	setText(cells[4], ran === null ? "" : duration(ran));
}

function showNote(loaded, visible) {
	const isFiltered = [...new FormData($("filter"))].some(([, value]) => value);
	let text = "";
	if (loaded === 0) text = isFiltered ? "No Job matches." : "No Jobs yet. Press Start, or copy the curl line.";
	else if (visible < loaded) text = `${visible} of the ${loaded} newest Jobs match.`;
	else if (data.hasMore) text = `The ${loaded} newest Jobs.`;
	if (data.hasMore && loaded >= MAX_ROWS) text += ` The table shows ${MAX_ROWS} at most; filter to see others.`;
	setText($("jobs-note"), text);
	$("more").hidden = !data.hasMore || loaded >= MAX_ROWS;
}

/** Shows the time that passes between two polls. */
export function tickJobs() {
	for (const known of rows.values()) if (!hasEnded(known.job)) showTimes(known);
}

$("filter").addEventListener("submit", (event) => event.preventDefault());
$("filter").addEventListener("input", (event) => {
	if (event.target.name === "name") return showJobs();
	data.wantedRows = PAGE;
	refresh();
});
$("more").addEventListener("click", async () => {
	const shown = rows.size;
	data.wantedRows = Math.min(data.wantedRows + PAGE, MAX_ROWS);
	await refresh();
	// The hidden button has lost the focus.
	if ($("more").hidden) $("job-rows").children[shown]?.querySelector("a").focus();
});
