// The log of a Job.

import { $, copy, setText } from "./dom.js";
import { Failure, failure, send } from "./api.js";
import { data, hasEnded, refresh } from "./model.js";

/** Characters of a log that stay on the page, and of a line. The download has all. */
const MAX_LOG = 500_000;
const MAX_LINE = 10_000;
/** Lines of the log that the page asks for. */
const TAIL = 5_000;

/** The log that is read, or was read to its end: { isFollowed, isDone, controller }. */
let reading = null;
/** The Job whose log is shown. */
let shown = null;

export function showLog(job) {
	const hasStarted = !["queued", "pending"].includes(job.state);
	$("log-download").href = `/jobs/${job.job}/logs`;
	$("log-download").download = `${job.job}.log`;
	for (const id of ["log", "log-download", "log-copy"]) $(id).hidden = !hasStarted;
	if (shown !== job.job) {
		shown = job.job;
		stopLog();
		$("log").replaceChildren();
		$("log-again").hidden = $("log-dropped").hidden = true;
	}
	if (reading?.isDone && reading.isFollowed) showEnd(hasEnded(job));
	if (reading) return;
	if (!hasStarted) return setText($("log-note"), "The log begins when the container starts.");
	if (document.hidden) return;
	readLog(job.job, !hasEnded(job));
}

export function stopLog() {
	reading?.controller.abort();
	reading = null;
}

/** Shows the end of a followed log. While its Job runs, it is only that of the connection. */
function showEnd(hasEnded) {
	setText($("log-note"), hasEnded ? "End of the log." : "The connection for the log closed.");
	$("log-again").hidden = hasEnded;
}

/** Reads the log to its end, as it is written. */
async function readLog(name, isFollowed) {
	const controller = new AbortController();
	const own = (reading = { isFollowed, isDone: false, controller });
	if (document.activeElement === $("log-again")) $("log").focus();
	$("log-again").hidden = true;
	setText($("log-note"), "Reading …");
	try {
		const options = { signal: controller.signal };
		const response = await send(`/jobs/${name}/logs?tail=${TAIL}${isFollowed ? "&follow=true" : ""}`, options);
		if (!response.ok) throw await failure(response);
		const log = new LogView($("log"));
		setText($("log-note"), isFollowed ? "Live." : "Reading …");
		const decoder = new TextDecoder();
		for (const reader = response.body.getReader(); ;) {
			const { done, value } = await reader.read();
			log.append(decoder.decode(value ?? new Uint8Array(), { stream: !done }));
			if (done) break;
		}
		own.isDone = true;
		if (!isFollowed && log.lines >= TAIL) $("log-dropped").hidden = false;
		setText($("log-note"), log.size === 0 ? "The log is empty." : "End of the log.");
	} catch (error) {
		if (controller.signal.aborted) return;
		setText($("log-note"), error instanceof Failure ? `${error.message}.` : "The connection for the log closed.");
		$("log-again").hidden = false;
	}
	// The Job may have ended with its log.
	if (own === reading) refresh();
}

/** A log on the page: bounded, without control sequences of terminals. */
class LogView {
	constructor(node) {
		Object.assign(this, { node, size: 0, lines: 0, lineLength: 0, cut: 0, rest: "", isDropped: false });
		node.replaceChildren();
		$("log-dropped").hidden = true;
	}

	append(text) {
		// An escape sequence may go on in the next piece.
		const whole = this.rest + text;
		const escape = whole.lastIndexOf("\x1b");
		const isOpen = escape >= 0 && whole.length - escape < 32 && /^\x1b(\[[0-?]*[ -/]*)?$/.test(whole.slice(escape));
		this.rest = isOpen ? whole.slice(escape) : "";
		const clean = (isOpen ? whole.slice(0, escape) : whole)
			.replace(/\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[@-_]/g, "")
			.replace(/\r\n?/g, "\n")
			.replace(/[^\P{Cc}\n\t]/gu, "");
		const shown = clean
			.split("\n")
			.map((part, index) => this.shorten(part, index > 0))
			.join("");
		if (shown) this.add(shown);
	}

	/** Returns a part of a line, without what exceeds the longest line. */
	shorten(part, isNew) {
		let start = "";
		if (isNew) {
			this.lines += 1;
			start = this.cut ? ` … ${this.cut} more characters\n` : "\n";
			[this.lineLength, this.cut] = [0, 0];
		}
		const taken = part.slice(0, MAX_LINE - this.lineLength);
		this.lineLength += taken.length;
		this.cut += part.length - taken.length;
		return start + taken;
	}

	add(added) {
		const text = added.slice(-MAX_LOG);
		this.isDropped ||= text !== added;
		const isAtEnd = this.node.scrollHeight - this.node.scrollTop - this.node.clientHeight < 40;
		this.node.append(text);
		this.size += text.length;
		while (this.size > MAX_LOG && this.node.firstChild !== this.node.lastChild) {
			this.size -= this.node.firstChild.length;
			this.node.firstChild.remove();
			this.isDropped = true;
		}
		$("log-dropped").hidden = !this.isDropped;
		// A reader who scrolled up stays there.
		if ($("log-follow").checked && isAtEnd) this.node.scrollTop = this.node.scrollHeight;
	}
}

$("log-wrap").addEventListener("change", (event) => $("log").classList.toggle("wrap", event.target.checked));
$("log-follow").addEventListener("change", (event) => {
	if (event.target.checked) $("log").scrollTop = $("log").scrollHeight;
});
$("log-copy").addEventListener("click", (event) => copy($("log").textContent, event.target));
$("log-again").addEventListener("click", () => {
	stopLog();
	if (data.job?.state) showLog(data.job);
});
// A hidden page holds no log stream; the poll of a page that is shown again opens its log.
document.addEventListener("visibilitychange", () => {
	if (document.hidden && !reading?.isDone) stopLog();
});
