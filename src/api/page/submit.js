// The form that starts a Job.

import { $, setText, sleep } from "./dom.js";
import { Failure, bearer, failure, json, send } from "./api.js";
import { data, mine, refresh, tokens } from "./model.js";

/** Time after a response in which Start does nothing, in ms: the second press of a double click falls into it. */
const DOUBLE_CLICK = 800;
/** Attempts of a submit whose response was lost, all with one Idempotency-Key, and the pause between them, in ms. */
const ATTEMPTS = 5;
const ATTEMPT_PAUSE = 2_000;

/** The key of the next Job, kept until the server has created or refused it. A repeat with it cannot create a second one. */
let submitKey = null;
let isSubmitting = false;
/** The time until which each tier refuses Jobs, in ms. */
const blockedUntil = { free: 0, premium: 0 };

/** Returns 128 random bits. Pages of plain http have no crypto.randomUUID. */
function randomKey() {
	return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function showSubmit() {
	const form = $("submit").elements;
	$("premium-token").hidden = form.tier.value !== "premium" || !(data.info?.premium_token || $("premium-token").dataset.asked);
	const token = $("premium-token").hidden ? "" : " -H 'Authorization: Bearer TOKEN'";
	setText(
		$("submit-curl"),
		`curl${token} -d '{"dataset":"${form.dataset.value}"}' ${location.origin}/img-classification/${form.tier.value}`,
	);
	const left = Math.ceil((blockedUntil[form.tier.value] - Date.now()) / 1000);
	setText($("start"), isSubmitting ? "Starting …" : left > 0 ? `Again in ${left} s` : "Start");
	// Not `disabled`, which would take the focus.
	$("start").setAttribute("aria-disabled", String(isSubmitting || left > 0));
}

function submitResult(kind, text, name = null) {
	$("submit-result").className = kind;
	setText($("submit-result"), text);
	$("submit-result").dataset.job = name ?? "";
	setText($("submit-state"), "");
	$("submit-open").hidden = !name;
	$("submit-open").href = `#/jobs/${name}`;
}

async function submit(event) {
	event.preventDefault();
	const form = $("submit").elements;
	const [tier, dataset] = [form.tier.value, form.dataset.value];
	if (isSubmitting || Date.now() < blockedUntil[tier]) return;
	tokens.premium = form.token.value.trim();
	isSubmitting = true;
	submitResult("quiet", "Starting …");
	showSubmit();
	try {
		const job = await create((submitKey ??= randomKey()), tier, dataset);
		submitKey = null;
		mine.set(job.job, { job: job.job });
		submitResult("good", `${job.job} started`, job.job);
	} catch (error) {
		showRefusal(error, tier);
	}
	refresh();
	await sleep(DOUBLE_CLICK);
	isSubmitting = false;
	showSubmit();
}

/** Creates a Job and returns it. After a lost response the same key finds the Job. */
async function create(key, tier, dataset) {
	for (let left = ATTEMPTS - 1; ; left--) {
		try {
			const headers = { "Idempotency-Key": key };
			if (tier === "premium" && tokens.premium) headers.Authorization = bearer(tokens.premium);
			const response = await send(`/img-classification/${tier}`, {
				method: "POST",
				headers,
				body: JSON.stringify({ dataset }),
			});
			if (response.ok) return await json(response);
			throw await failure(response);
		} catch (error) {
			if (!(error instanceof Failure) || ![0, 504].includes(error.status) || left === 0) throw error;
			submitResult("quiet", `${error.message}; looking for the Job by its key …`);
			await sleep(ATTEMPT_PAUSE);
		}
	}
}

function showRefusal(error, tier) {
	if (!(error instanceof Failure)) throw error;
	// A refused request created no Job; after others the key must find it.
	const isRefused = error.status >= 400 && error.status < 500 && error.status !== 429;
	if (isRefused || error.code === "job_being_deleted") submitKey = null;
	submitResult("problem", `${error.message}.`);
	if (error.status === 401) {
		$("premium-token").dataset.asked = "1";
		$("premium-token").hidden = false;
		if ([$("start"), document.body].includes(document.activeElement)) $("submit").elements.token.focus();
	}
	const refusing = error.code === "rate_limited" ? Object.keys(blockedUntil) : [tier];
	for (const name of refusing) blockedUntil[name] = Date.now() + (error.retryAfter ?? 0) * 1000;
}

/** Shows the present state of the Job that was started last beside the form. */
export function showStarted() {
	const job = mine.get($("submit-result").dataset.job);
	if (job?.state) setText($("submit-state"), ` · ${job.state}${job.position ? ` · position ${job.position}` : ""}`);
}

$("submit").addEventListener("submit", submit);
$("submit").addEventListener("input", showSubmit);
// A key that is held down is one press.
$("submit").addEventListener("keydown", (event) => event.repeat && event.key === "Enter" && event.preventDefault());
