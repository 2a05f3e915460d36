// The page of one Job.

import { $, announce, clock, command, duration, element, percent, setChildren, setText } from "./dom.js";
import { Failure, failure, send } from "./api.js";
import { data, hasEnded, mine, note, openJob, tokens } from "./model.js";
import { ICONS, times } from "./jobs.js";
import { showLog } from "./log.js";

export function showJob() {
  const name = openJob();
  setText($("job-title"), name);
  document.title = `${name} · img-classification`;
  const { job } = data;
  const isMissing = job instanceof Failure;
  for (const id of ["timeline", "job-facts", "log-section", "commands-section"]) $(id).hidden = !job || isMissing;
  if (isMissing || !job) {
    $("job-actions").hidden = true;
    $("job-reason").className = isMissing ? "result problem" : "result quiet";
    return setText($("job-reason"), isMissing ? `${job.message}.` : "Loading …");
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
  setChildren($("job-commands"), name, () =>
    [
      `kubectl -n ${job.namespace} describe job ${name}`,
      `kubectl -n ${job.namespace} logs -f job/${name}`,
      `curl ${location.origin}/jobs/${name}`,
      `curl '${location.origin}/jobs/${name}/logs?follow=true'`,
    ].map(command),
  );
  $("job-actions").hidden = !data.info?.deletion;
  showLog(job);
}

export function showTimeline(job) {
  const [waited, ran] = times(job);
  const isOver = hasEnded(job);
  const at = ["queued", "pending", "running"].indexOf(job.state);
  const steps = [
    ["posted", clock(job.created), "done"],
    [
      "queued",
      at === 0
        ? `${job.position ? `position ${job.position}, ` : ""}for ${duration(waited)}`
        : job.tier === "premium"
          ? "no quota"
          : "",
      at === 0 ? "now" : "done",
    ],
    [
      "pending",
      at === 1 ? `for ${duration(waited)}` : at === 0 ? "" : `waited ${duration(waited)}`,
      at === 1 ? "now" : at === 0 ? "next" : "done",
    ],
    [
      "running",
      ran === null ? "" : at === 2 ? `for ${duration(ran)}` : `ran ${duration(ran)}`,
      at === 2 ? "now" : isOver ? (ran === null ? "skipped" : "done") : "next",
    ],
    [isOver ? job.state : "ended", job.finished ? clock(job.finished) : "", isOver ? `now ${job.state}` : "next"],
  ];
  setChildren($("timeline"), JSON.stringify(steps), () =>
    steps.map(([name, text, kind]) =>
      element(
        "li",
        { class: kind, "aria-current": kind.startsWith("now") ? "step" : null },
        element("strong", {}, ICONS[name] ? `${ICONS[name]} ${name}` : name),
        ` ${text}`,
      ),
    ),
  );
}

async function deleteJob(event) {
  event.preventDefault();
  const name = openJob();
  const form = $("delete-form").elements;
  tokens.admin = form.token.value.trim();
  setText($("delete-error"), "");
  try {
    const response = await send(`/jobs/${name}`, {
      method: "DELETE",
      headers: { Authorization: `Bearer ${tokens.admin}` },
    });
    if (!response.ok) throw await failure(response);
    $("delete-dialog").close();
    mine.delete(name);
    location.hash = "#/";
    announce(`${name} deleted`);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    setText($("delete-error"), `${error.message}.`);
    form.token.focus();
  }
}

$("delete").addEventListener("click", () => {
  $("delete-form").elements.token.value = tokens.admin;
  setText($("delete-error"), "");
  $("delete-dialog").showModal();
});
$("delete-cancel").addEventListener("click", () => $("delete-dialog").close());
$("delete-form").addEventListener("submit", deleteJob);
