// The nodes with their pods.

import { $, element, groupBy, plural, setText } from "./dom.js";
import { data, refreshAll } from "./model.js";

/** Pods that are listed. */
const MAX_PODS = 200;

/** The pods and the filter that are shown. */
let shownPods = null;
let shownPart = null;

export function showCluster() {
	const { pods } = data;
	if (!pods) return setText($("cluster-note"), data.failures.pods ? "" : "loading …");
	const nodes = groupBy(pods, (pod) => pod.node);
	const names = [...nodes.keys()].filter((name) => name !== null).sort();
	setText($("cluster-note"), `${plural(names.length, "node")}, ${plural(pods.length, "pod")}`);
	const part = $("pod-filter").value.trim().toLowerCase();
	if (pods === shownPods && part === shownPart) return;
	[shownPods, shownPart] = [pods, part];
	let left = MAX_PODS;
	const list = [...names, ...(nodes.has(null) ? [null] : [])];
	$("nodes").replaceChildren(
		...list.map((name) => {
			const matching = nodes.get(name).filter((pod) => `${pod.namespace}/${pod.name} ${pod.status}`.toLowerCase().includes(part));
			const shown = matching.slice(0, left);
			left -= shown.length;
			return showNode(name, nodes.get(name), matching, shown);
		}),
	);
}

function showNode(name, pods, matching, shown) {
	const isOurs = (pod) => /^(free|premium)-k?mnist-/.test(pod.name) && pod.status === "Running";
	const ours = pods.filter(isOurs).length;
	const facts = [plural(pods.length, "pod")];
	if (name && ours) facts.push(`${plural(ours, "classifier")}, ${(ours * 0.9).toFixed(1)} CPU`);
	const rest = matching.length - shown.length;
	return element(
		"section",
		{ class: "node" },
		element("h3", {}, name ?? "On no node"),
		element("p", { class: "quiet" }, facts.join(" · ")),
		element(
			"ul",
			{ role: "list" },
			...shown.map((pod) =>
				element("li", {}, element("span", { class: "pod" }, `${pod.namespace}/${pod.name}`), element("span", {}, pod.status)),
			),
		),
		rest > 0 ? element("p", { class: "quiet" }, `${rest} more; filter to see them`) : null,
	);
}

$("pod-filter").addEventListener("input", showCluster);
$("cluster").addEventListener("toggle", () => $("cluster").open && refreshAll());
