// Elements and texts. Every text from the API becomes a text node.

export const $ = (id) => document.getElementById(id);

/** Returns an element with these attributes and children; strings become text nodes. */
export function element(tag, attributes = {}, ...children) {
	const created = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		if (typeof value === "function") created.addEventListener(name, value);
		else if (value !== null && value !== false) created.setAttribute(name, value === true ? "" : value);
	}
	created.append(...children.filter((child) => child !== null));
	return created;
}

export function svg(tag, attributes, ...children) {
	const created = document.createElementNS("http://www.w3.org/2000/svg", tag);
	for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
	created.append(...children);
	return created;
}

/** Sets a text only if it differs, so that selections and screen readers are left alone. */
export function setText(node, text) {
	if (node.textContent !== text) node.textContent = text;
}

/** Replaces the children only if `key` differs from that of the last call. */
export function setChildren(node, key, make) {
	if (node.dataset.key === key) return;
	node.dataset.key = key;
	node.replaceChildren(...make());
}

/** The texts for screen readers that are not yet announced. */
const announcements = [];

/** Announces a text to screen readers. An element that changes twice at once, or not at all, would lose one. */
export function announce(text) {
	announcements.push(text);
	setText($("announcer"), "");
	clearTimeout(announce.timer);
	announce.timer = setTimeout(() => setText($("announcer"), announcements.splice(0).join(". ")), 100);
}

/** Copies a text. Pages of plain http have no clipboard API, hence the second way. */
export async function copy(text, button) {
	let copied = true;
	try {
		await navigator.clipboard.writeText(text);
	} catch {
		const area = element("textarea", { class: "unseen", "aria-hidden": "true" });
		area.value = text;
		document.body.append(area);
		area.select();
		copied = document.execCommand("copy");
		area.remove();
		button.focus();
	}
	announce(copied ? "Copied" : "The browser refused to copy");
	button.dataset.label ??= button.textContent;
	button.textContent = copied ? "Copied" : "Not copied";
	setTimeout(() => (button.textContent = button.dataset.label), 1_500);
}

/** Returns a command with a button that copies it. */
export function command(text) {
	const button = element("button", { type: "button", click: () => copy(text, button) }, "Copy");
	return element("div", { class: "command" }, element("code", {}, text), button);
}

/** Returns seconds as "12 s", "1:04" or "2:03:04". */
export function duration(seconds) {
	const whole = Math.max(0, Math.floor(seconds));
	if (whole < 60) return `${whole} s`;
	const two = (number) => String(number).padStart(2, "0");
	const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
	return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** Returns seconds as a rough age: "4 min". */
export function age(seconds) {
	if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
	return seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export const clock = (time) => new Date(time).toLocaleTimeString();
export const percent = (accuracy) => `${(accuracy * 100).toFixed(1)} %`;
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Returns the values by their key. */
export function groupBy(values, key) {
	const groups = new Map();
	for (const value of values) {
		if (!groups.has(key(value))) groups.set(key(value), []);
		groups.get(key(value)).push(value);
	}
	return groups;
}
