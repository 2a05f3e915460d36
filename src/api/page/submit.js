// The form that starts a Job.

import { $, element, setText, sleep } from "./dom.js";
import { Failure, failure, send } from "./api.js";
import { data, mine, refresh, tokens } from "./model.js";

/** Time after an answer in which Start does nothing, in ms: the second press of a double click falls into it. */
const DOUBLE_CLICK = 800;
/** Attempts of a submit whose answer was lost, all with one Idempotency-Key, and the pause between them, in ms. */
const ATTEMPTS = 5;
const ATTEMPT_PAUSE = 2_000;

/** The key of the Job that the next press of Start is to create. A repeat with it cannot create a second one. */
let submitKey = null;
let isSubmitting = false;
let blockedUntil = 0;

/** Returns 128 random bits. Pages of plain http have no crypto.randomUUID. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function showSubmit() {
  const form = $("submit").elements;
  $("premium-token").hidden =
    form.tier.value !== "premium" || !(data.info?.premium_token || $("premium-token").dataset.asked);
  const token = $("premium-token").hidden ? "" : " -H 'Authorization: Bearer TOKEN'";
  setText(
    $("submit-curl"),
    `curl${token} -d '{"dataset":"${form.dataset.value}"}' ${location.origin}/img-classification/${form.tier.value}`,
  );
  const left = Math.ceil((blockedUntil - Date.now()) / 1000);
  setText($("start"), isSubmitting ? "Starting …" : left > 0 ? `Again in ${left} s` : "Start");
  // Not `disabled`, which would take the focus.
  $("start").setAttribute("aria-disabled", String(isSubmitting || left > 0));
}

function submitResult(kind, ...children) {
  const result = $("submit-result");
  result.className = `result ${kind}`;
  result.dataset.key = "";
  result.replaceChildren(...children);
}

async function submit(event) {
  event.preventDefault();
  if (isSubmitting || Date.now() < blockedUntil) return;
  const form = $("submit").elements;
  const [tier, dataset] = [form.tier.value, form.dataset.value];
  tokens.premium = form.token.value.trim();
  submitKey ??= randomKey();
  isSubmitting = true;
  submitResult("quiet", "Starting …");
  showSubmit();
  try {
    const job = await create(tier, dataset);
    submitKey = null;
    mine.set(job.job, { job: job.job });
    submitResult(
      "good",
      `${job.job} started`,
      element("span", { id: "submit-state" }),
      " · ",
      element("a", { href: `#/jobs/${job.job}` }, "open"),
    );
    $("submit-result").dataset.job = job.job;
  } catch (error) {
    showRefusal(error);
  }
  refresh();
  await sleep(DOUBLE_CLICK);
  isSubmitting = false;
  showSubmit();
}

/** Creates a Job. Where the answer was lost or Kubernetes did not answer, the same key finds the Job if it exists. */
async function create(tier, dataset) {
  for (let left = ATTEMPTS - 1; ; left--) {
    try {
      const headers = { "Idempotency-Key": submitKey };
      if (tier === "premium" && tokens.premium) headers.Authorization = `Bearer ${tokens.premium}`;
      const response = await send(`/img-classification/${tier}`, {
        method: "POST",
        headers,
        body: JSON.stringify({ dataset }),
      });
      if (response.ok) return await response.json();
      throw await failure(response);
    } catch (error) {
      if (!(error instanceof Failure) || ![0, 504].includes(error.status) || left === 0) throw error;
      submitResult("quiet", `${error.message}; looking for the Job by its key …`);
      await sleep(ATTEMPT_PAUSE);
    }
  }
}

function showRefusal(error) {
  if (!(error instanceof Failure)) throw error;
  // A refused request created no Job; after others the key must find it.
  if (error.status >= 400 && error.status < 500 && error.status !== 429) submitKey = null;
  submitResult("problem", `${error.message}.`);
  if (error.status === 401) {
    $("premium-token").dataset.asked = "1";
    $("premium-token").hidden = false;
    $("submit").elements.token.focus();
  }
  if (error.retryAfter) blockedUntil = Date.now() + error.retryAfter * 1000;
}

/** Shows the present state of the Job that was started last beside the form. */
export function showStarted() {
  const node = document.getElementById("submit-state");
  const job = mine.get($("submit-result").dataset.job);
  if (!node || !job?.state) return;
  setText(node, ` · ${job.state}${job.position ? ` · position ${job.position}` : ""}`);
}

$("submit").addEventListener("submit", submit);
$("submit").addEventListener("input", () => {
  submitKey = null;
  showSubmit();
});
