//! `jobs`: lists the Jobs of a running server, or shows, follows or deletes one.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use crate::api::auth::Token;
use crate::cli::JobsArgs;
use crate::commands::error::CommandError;
use crate::commands::follow::{self, Follow, Progress};
use crate::commands::job_table::{self, Table};
use crate::commands::output::{has_failed, print_line};
use crate::commands::server_client::{Job, List, MAX_OUTAGE, ServerClient, ServerError};
use crate::job::Tier;
use crate::state::job_status::State;

/// Pause between two lists of --watch. An unchanged list costs the server a 304.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Shows the Jobs. Returns false if a followed Job failed.
///
/// # Errors
/// [`CommandError`]
pub fn run(args: &JobsArgs, is_dumb: bool) -> Result<bool, CommandError> {
    let token_file = args.admin.admin_token_file.as_deref().filter(|_| args.delete);
    let token = token_file.map(Token::read).transpose().map_err(CommandError::AdminToken)?;
    // One look reports its failure at once.
    let max_outage = if args.watch || args.logs { MAX_OUTAGE } else { Duration::ZERO };
    let progress = Rc::new(Progress::stdout(args.output.json, is_dumb));
    let server = follow::connect(&args.server, &progress, max_outage, None)?;
    let result = match &args.name {
        Some(name) if args.delete => delete(&server, name, token.as_ref(), args.output.json),
        Some(name) if args.watch => follow::run(&server, &progress, &Follow { name, is_new: false, logs: args.logs }),
        Some(name) if args.logs => follow::print_log(&server, &progress, name).map(|()| true),
        Some(name) => show(&server, name, args.output.json),
        None => list(&server, args),
    };
    result.map_err(|error| progress.command_error(error))
}

fn show(server: &ServerClient, name: &str, json: bool) -> Result<bool, ServerError> {
    let job = server.job(name, None)?.ok_or_else(|| ServerError::NoSuchJob(name.to_owned()))?;
    if json {
        print_line(&job.to_json());
    } else {
        job_table::print_fields(&job);
    }
    Ok(true)
}

fn delete(server: &ServerClient, name: &str, token: Option<&Token>, json: bool) -> Result<bool, ServerError> {
    let deleted = server.delete(name, token)?;
    print_line(&if json { deleted.to_string() } else { format!("{name} deleted") });
    Ok(true)
}

fn list(server: &ServerClient, args: &JobsArgs) -> Result<bool, ServerError> {
    let parameter =
        |name: &str, value: Option<&str>| value.map_or_else(String::new, |value| format!("&{name}={value}"));
    // A watch needs all states: a Job that leaves the wanted one is shown once more.
    let state = args.state.filter(|_| !args.watch);
    let query = parameter("tier", args.tier.map(Tier::as_str)) + &parameter("state", state.map(State::as_str));
    let list = server.list(&query, None)?.unwrap_or_default();
    let is_wanted = |job: &Job| args.state.is_none_or(|state| state.as_str() == job.state);
    let has_rows = list.jobs.iter().any(is_wanted);
    if !has_rows {
        let _ = writeln!(io::stderr(), "no Jobs");
    }
    let table = Table::of(&list.jobs, args.watch, args.output.json);
    if args.watch || has_rows {
        table.print_titles();
    }
    list.jobs.iter().filter(|job| is_wanted(job)).for_each(|job| table.print_job(job));
    if args.watch { watch(server, &query, list, (&table, &is_wanted)) } else { Ok(true) }
}

/// Prints each wanted Job that changes, until a signal ends the process or stdout is closed.
fn watch(
    server: &ServerClient,
    query: &str,
    list: List,
    (table, is_wanted): (&Table, &dyn Fn(&Job) -> bool),
) -> Result<bool, ServerError> {
    let (mut shown, mut etag) = (by_name(list.jobs), list.etag);
    while !has_failed() {
        server.sleep(WATCH_INTERVAL)?;
        let Some(list) = server.list(query, etag.as_deref())? else { continue };
        etag = list.etag;
        let now = by_name(list.jobs);
        let was_wanted = |job: &Job| shown.get(&job.job).is_some_and(is_wanted);
        let is_changed = |job: &&Job| shown.get(&job.job) != Some(job) && (is_wanted(job) || was_wanted(job));
        // Oldest first, as they happened.
        let mut changed: Vec<&Job> = now.values().filter(is_changed).collect();
        changed.sort_by(|a, b| a.created.cmp(&b.created));
        changed.into_iter().for_each(|job| table.print_job(job));
        let is_gone = |job: &&Job| !now.contains_key(&job.job) && is_wanted(job);
        shown.values().filter(is_gone).for_each(|job| table.print_deleted(job));
        shown = now;
    }
    Ok(true)
}

fn by_name(jobs: Vec<Job>) -> BTreeMap<String, Job> {
    jobs.into_iter().map(|job| (job.job.clone(), job)).collect()
}
