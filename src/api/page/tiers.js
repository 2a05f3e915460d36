// The cards of the tiers, with their charts.

import { $, age, element, groupBy, percent, plural, setChildren, setText, svg } from "./dom.js";
import { since } from "./api.js";
import { PAGE, data, isWatching } from "./model.js";

export function showTiers() {
	const { queue, info, premium } = data;
	const slots = info.free_slots;
	if (queue) {
		const used = queue.running.length + queue.starting.length;
		const boxes = Math.min(Math.max(slots ?? 0, used), 20);
		const text = slots === null ? `${used} in use` : `${used} of ${slots}`;
		setChildren($("free-slots"), `${used}/${slots}`, () => [
			element("span", { "aria-hidden": "true", class: "slots" }, "■".repeat(Math.min(used, boxes)) + "□".repeat(Math.max(0, boxes - used))),
			element("span", {}, ` ${text}`),
			element("span", { class: "quiet" }, " slots"),
		]);
		const oldest = queue.waiting[0]?.since;
		setText($("free-queue"), `waiting ${queue.waiting.length}${oldest ? ` · oldest ${age(since(oldest))}` : ""}`);
	} else {
		setText($("free-slots"), isWatching() ? "…" : "not known");
		setText($("free-queue"), "");
	}
	setText($("premium-running"), premium ? `running ${premium.running}` : isWatching() ? "…" : "not known");
	setText($("premium-pending"), premium ? `waiting for CPU or the image: ${premium.pending}` : "");
	showQueueChart();
	showAccuracy();
}

/** Shows the length of the queue over the last minutes as a line. */
function showQueueChart() {
	const { samples } = data;
	if (samples.length < 2) return;
	const [width, height] = [240, 48];
	const [first, last] = [samples[0][0], samples.at(-1)[0]];
	const most = Math.max(1, ...samples.map(([, length]) => length));
	const x = (time) => ((time - first) / Math.max(1, last - first)) * width;
	const y = (length) => height - 2 - (length / most) * (height - 4);
	const points = samples.map(([time, length]) => `${x(time).toFixed(1)},${y(length).toFixed(1)}`).join(" ");
	const label = `Jobs waiting over the last ${age((last - first) / 1000)}: now ${samples.at(-1)[1]}, at most ${Math.max(...samples.map(([, length]) => length))}`;
	setChildren($("queue-chart"), points, () => [
		svg(
			"svg",
			{
				viewBox: `0 0 ${width} ${height}`,
				class: "chart",
				"aria-hidden": "true",
				preserveAspectRatio: "none",
			},
			svg("polygon", { points: `0,${height} ${points} ${width},${height}` }),
			svg("polyline", { points }),
		),
		element("p", { class: "quiet" }, label),
	]);
}

/** Shows the accuracies of the Jobs in the table as dots, a line for each tier and dataset. */
function showAccuracy() {
	const ended = (data.jobs ?? []).filter((job) => job.accuracy !== null);
	const groups = groupBy(ended, (job) => `${job.tier} ${job.dataset}`);
	if (groups.size === 0) {
		return setChildren($("accuracy-chart"), "none", () => [element("p", { class: "quiet" }, "No Job has reported its accuracy yet.")]);
	}
	const least = Math.floor(Math.min(...ended.map((job) => job.accuracy)) * 10) / 10;
	const x = (accuracy) => (4 + ((accuracy - least) / Math.max(0.01, 1 - least)) * 232).toFixed(1);
	const line = ([name, jobs]) => {
		const values = jobs.map((job) => job.accuracy);
		const mean = percent(values.reduce((sum, value) => sum + value, 0) / values.length);
		const label = element("p", { class: "scale" }, name, element("span", {}, `${mean} · ${plural(values.length, "Job")}`));
		const dots = values.slice(0, PAGE).map((value) => svg("circle", { cx: x(value), cy: 8, r: 4 }));
		return element(
			"div",
			{},
			label,
			svg(
				"svg",
				{ viewBox: "0 0 240 16", class: "chart dots", "aria-hidden": "true" },
				svg("line", { x1: 0, y1: 8, x2: 240, y2: 8 }),
				...dots,
			),
		);
	};
	setChildren($("accuracy-chart"), ended.map((job) => job.job).join(), () => [
		...[...groups].sort().map(line),
		element("p", { class: "scale quiet" }, element("span", {}, percent(least)), element("span", {}, "100 %")),
	]);
}
