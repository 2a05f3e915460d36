//! Jobs as text: a table in the manner of kubectl, or the fields of one.

use std::time::SystemTime;

use serde_json::json;

use crate::commands::output::{one_line, print_line};
use crate::commands::server_client::Job;

/// Width of the longest state, and of an age such as 59m.
const STATE_WIDTH: usize = 9;
const AGE_WIDTH: usize = 4;

/// The longest name that a server gives a Job.
const LONGEST_NAME: &str = "premium-kmnist-abcdefghijklmnopqrstuvwxyz";

/// A table of Jobs. A row may be added later, as with `jobs --watch`.
pub struct Table {
    name_width: usize,
    /// JSON objects instead of rows.
    json: bool,
}

impl Table {
    /// A table whose first column fits these Jobs, and with `grows` any later one.
    pub fn of(jobs: &[Job], grows: bool, json: bool) -> Self {
        let least = if grows { LONGEST_NAME.len() } else { 0 };
        Self { name_width: jobs.iter().map(|job| job.job.len()).max().unwrap_or_default().max(least), json }
    }

    /// Writes the titles of the columns.
    pub fn print_titles(&self) {
        if !self.json {
            self.print_row(["NAME", "STATE", "AGE", "DETAIL"]);
        }
    }

    /// Writes a Job. Its detail is its accuracy or its reason.
    pub fn print_job(&self, job: &Job) {
        if self.json {
            return print_line(&job.to_json());
        }
        let detail = job.accuracy().or_else(|| job.reason.clone()).unwrap_or_default();
        self.print_row([&job.job, &job.state, &age(&job.created, SystemTime::now()), &detail]);
    }

    /// Writes a Job that was deleted.
    pub fn print_deleted(&self, job: &Job) {
        if self.json {
            return print_line(&json!({ "job": job.job, "state": "deleted" }).to_string());
        }
        self.print_row([&job.job, "deleted", &age(&job.created, SystemTime::now()), ""]);
    }

    fn print_row(&self, [name, state, age, detail]: [&str; 4]) {
        let name_width = self.name_width;
        let row = format!("{name:<name_width$}  {state:<STATE_WIDTH$}  {age:<AGE_WIDTH$}  {detail}");
        print_line(one_line(&row).trim_end());
    }
}

/// Writes the fields of one Job that have a value, one a line.
pub fn print_fields(job: &Job) {
    let text = |value: &str| Some(value.to_owned());
    let fields = [
        ("job", text(&job.job)),
        ("namespace", text(&job.namespace)),
        ("tier", text(&job.tier)),
        ("dataset", text(&job.dataset)),
        ("type", text(&job.r#type)),
        ("state", text(&job.state)),
        ("reason", job.reason.clone()),
        ("position", job.position.map(|position| position.to_string())),
        ("created", text(&job.created)),
        ("started", job.started.clone()),
        ("finished", job.finished.clone()),
        ("node", job.node.clone()),
        ("exit code", job.exit_code.map(|code| code.to_string())),
    ];
    for (name, value) in fields {
        value.into_iter().for_each(|value| print_line(&one_line(&format!("{name}: {value}"))));
    }
    job.accuracy().into_iter().for_each(|accuracy| print_line(&accuracy.replacen(' ', ": ", 1)));
}

/// Returns the time since `created` in one unit, such as 12s, 5m, 3h or 2d.
fn age(created: &str, now: SystemTime) -> String {
    let Ok(created) = humantime::parse_rfc3339(created) else { return "?".to_owned() };
    // The clocks of two hosts differ.
    let seconds = now.duration_since(created).unwrap_or_default().as_secs();
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_age_has_one_unit() {
        let created = "2026-01-01T00:00:00Z";
        let start = humantime::parse_rfc3339(created).expect("a time");
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (7200, "2h"), (200_000, "2d")] {
            assert_eq!(age(created, start + Duration::from_secs(seconds)), text);
        }
        assert_eq!(age(created, start - Duration::from_secs(5)), "0s");
        assert_eq!(age("soon", start), "?");
    }
}
