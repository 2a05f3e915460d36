//! The summary of the page for browsers without JavaScript: the Jobs and the commands, as HTML. Scripts replace it.

use std::fmt::Write;
use std::time::Instant;

use crate::api::{App, Watched};
use crate::job::Tier;
use crate::state::job_status::{State, status};

/// Number of Jobs of each tier in the summary: one screen.
const SHOWN_JOBS: usize = 20;

/// Returns the summary.
pub fn html(app: &App) -> String {
    let mut html = "<p>This page needs JavaScript for live data. Reload it for the present state.</p>\n".to_owned();
    match &app.watched {
        Some(watched) => {
            write_queue(watched, &mut html);
            Tier::ALL.into_iter().for_each(|tier| write_jobs(watched, tier, &mut html));
        }
        None => html.push_str("<p>The server runs with --no-watch, so it lists no Jobs.</p>\n"),
    }
    html.push_str(
        "<h2>Commands</h2>\n<p>SERVER is the address of this page.</p>\n\
         <pre>curl -d '{\"dataset\":\"mnist\"}' http://SERVER/img-classification/free\n\
         curl -d '{\"dataset\":\"mnist\"}' http://SERVER/img-classification/premium\n\
         curl http://SERVER/jobs\n\
         curl http://SERVER/jobs/NAME\n\
         curl http://SERVER/jobs/NAME/logs</pre>\n",
    );
    html
}

fn write_queue(watched: &Watched, html: &mut String) {
    let Ok(stats) = watched.queue.stats() else { return };
    let slots = stats.slots.map(|slots| format!(" of {slots}")).unwrap_or_default();
    let (used, waiting) = (stats.used_slots, stats.waiting);
    push(html, format_args!("<p>Free tier: {used}{slots} slots in use, Jobs waiting: {waiting}.</p>\n"));
}

/// Writes the newest Jobs of a tier.
fn write_jobs(watched: &Watched, tier: Tier, html: &mut String) {
    let jobs = watched.jobs.read(tier);
    let title = tier.as_str();
    if jobs.check(Instant::now()).is_err() {
        push(html, format_args!("<p>The Jobs of the {title} tier are not known at the moment.</p>\n"));
        return;
    }
    push(html, format_args!("<h2>Newest Jobs of the {title} tier</h2>\n"));
    let mut rows = jobs.newest(None).take(SHOWN_JOBS).peekable();
    if rows.peek().is_none() {
        html.push_str("<p>No Jobs yet.</p>\n");
        return;
    }
    html.push_str("<table><tr><th>Name</th><th>State</th><th>Created</th><th>Result</th></tr>\n");
    for (name, job) in rows {
        let status = status(job, jobs.pod(name, &job.uid));
        let accuracy = status.accuracy.map(|accuracy| format!("{:.1} %", accuracy * 100.0));
        let result = status.reason.or(accuracy).unwrap_or_default();
        let log = match status.state {
            State::Queued | State::Pending => String::new(),
            _ => format!(" <a href=\"/jobs/{}/logs\">log</a>", escaped(name)),
        };
        let cells = [name, status.state.as_str(), &job.created, &result].map(escaped);
        let [name, state, created, result] = cells;
        push(html, format_args!("<tr><td><a href=\"/jobs/{name}\">{name}</a></td><td>{state}</td><td>{created}</td>"));
        push(html, format_args!("<td>{result}{log}</td></tr>\n"));
    }
    html.push_str("</table>\n");
}

fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    html.write_fmt(text).expect("a String takes any text");
}

/// Returns a text in which HTML finds no markup. Reasons contain text from Kubernetes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn markup_in_a_text_is_escaped() {
        assert_eq!(escaped("<b class=\"x\">'&"), "&lt;b class=&quot;x&quot;&gt;&#39;&amp;");
    }
}
