//! Follows a Job to its end: its states as they change, and its log.

use std::cell::Cell;
use std::io::Read;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::ServerArgs;
use crate::commands::client::{self, HttpClient};
use crate::commands::error::CommandError;
use crate::commands::output::{Format, has_failed, one_line, print, print_bytes, print_line};
use crate::commands::server_client::{Job, ServerClient, ServerError, code};

/// Seconds that the server holds a request back. On a terminal the elapsed time is drawn again at the same pace.
const WAIT: u64 = 10;
const TERMINAL_WAIT: u64 = 1;

/// Shortest time from one request to the next. A server responds at once while too many requests wait.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Longest time until a new Job is visible at another server, whose state is at most 25 s old.
const MAX_INVISIBLE: Duration = Duration::from_secs(30);

/// Lines of the log's end that a terminal shows.
const LAST_LINES: u32 = 5;

/// Bytes of a log that are read at once.
const PIECE: usize = 16 * 1024;

/// Erases the line, writes without wrapping at the terminal's edge, and wraps again; see ECMA-48 and DECAWM of the VT100.
const ERASE_LINE: &str = "\r\x1b[K";
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// The output of a followed Job: one live line on a terminal, a line for each change elsewhere, JSON objects with --json.
pub struct Progress {
    format: Format,
    start: Instant,
    /// A live line is on the terminal.
    is_live: Cell<bool>,
    /// The log has not ended its last line.
    is_line_open: Cell<bool>,
}

impl Progress {
    /// The output to stdout. `is_dumb` is true if the terminal cannot erase a line.
    pub fn stdout(json: bool, is_dumb: bool) -> Self {
        let format = match Format::of_stdout(json) {
            Format::Terminal if is_dumb => Format::Plain,
            format => format,
        };
        Self { format, start: Instant::now(), is_live: Cell::new(false), is_line_open: Cell::new(false) }
    }

    /// Writes a result, as text or as the JSON object in `json`.
    pub fn result(&self, text: &str, json: &str) {
        self.end_live_line();
        print_line(&one_line(if self.format == Format::Json { json } else { text }));
    }

    /// Erases the live line, or ends a line of the log, so that other output starts a line of its own.
    pub fn end_live_line(&self) {
        self.erase_live_line();
        if self.is_line_open.replace(false) {
            print("\n");
        }
    }

    fn erase_live_line(&self) {
        if self.is_live.replace(false) {
            print(ERASE_LINE);
        }
    }

    /// Writes an error with --json, and returns it as that of the command.
    pub fn command_error(&self, error: ServerError) -> CommandError {
        self.end_live_line();
        if self.format == Format::Json {
            print_line(&json!({ "error": one_line(&error.to_string()) }).to_string());
        }
        CommandError::Server(error)
    }

    /// Shows the state of a Job if it differs from that of `last`, or on a terminal the elapsed time.
    fn show(&self, job: &Job, last: Option<&Job>) {
        let is_new = last.is_none_or(|last| (&last.state, &last.reason) != (&job.state, &job.reason));
        match self.format {
            Format::Terminal if !job.has_ended() => {
                self.is_live.set(true);
                let line = one_line(&live_line(job, self.start.elapsed()));
                print(&format!("{ERASE_LINE}{NO_WRAP}{line}{WRAP}"));
            }
            _ if !is_new => {}
            Format::Json => print_line(&job.to_json()),
            Format::Plain | Format::Terminal => {
                self.end_live_line();
                print_line(&one_line(&state_line(job)));
            }
        }
    }

    /// Writes a piece of a log as it is, or with --json its lines.
    fn log(&self, name: &str, piece: &[u8]) {
        if self.format != Format::Json {
            self.erase_live_line();
            print_bytes(piece);
            self.is_line_open.set(piece.last().map_or_else(|| self.is_line_open.get(), |byte| *byte != b'\n'));
            return;
        }
        let text = String::from_utf8_lossy(piece);
        text.lines().for_each(|line| print_line(&json!({ "job": name, "log": line }).to_string()));
    }
}

fn state_line(job: &Job) -> String {
    job.reason.as_ref().map_or_else(|| job.state.clone(), |reason| format!("{}: {reason}", job.state))
}

fn live_line(job: &Job, elapsed: Duration) -> String {
    let (minutes, seconds) = (elapsed.as_secs() / 60, elapsed.as_secs() % 60);
    let position = job.position.map_or_else(String::new, |position| format!(", position {position}"));
    let reason = job.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    format!("{}{position}, {minutes}:{seconds:02}{reason}", job.state)
}

/// Returns a client of the server of `args`, whose warnings do not mix with the live line.
///
/// # Errors
/// [`CommandError::Ca`]
pub fn connect(
    args: &ServerArgs,
    progress: &Rc<Progress>,
    max_outage: Duration,
    deadline: Option<Instant>,
) -> Result<ServerClient, CommandError> {
    let http = HttpClient::new(&args.server, args.ca.ca.as_deref()).map_err(CommandError::Ca)?;
    let progress = Rc::clone(progress);
    let notify = move |text: &str| {
        progress.end_live_line();
        log::warn!("{text}");
    };
    Ok(ServerClient::new(http, max_outage, deadline, Box::new(notify)))
}

/// The Job to follow.
pub struct Follow<'a> {
    pub name: &'a str,
    /// It was created a moment ago, and may not be visible yet.
    pub is_new: bool,
    /// Print its log.
    pub logs: bool,
}

/// Follows a Job to its end. Returns true if it succeeded.
///
/// # Errors
/// [`ServerError`]; the Job continues unless it is gone.
pub fn run(server: &ServerClient, progress: &Progress, job: &Follow<'_>) -> Result<bool, ServerError> {
    let Follow { name, is_new, logs } = *job;
    let mut log = FollowedLog { name, sent: 0, is_complete: !logs };
    let wait = if progress.format == Format::Terminal { TERMINAL_WAIT } else { WAIT };
    let mut shown: Option<Job> = None;
    loop {
        let start = Instant::now();
        // A log that was broken off continues at once.
        let is_held = shown.as_ref().is_some_and(|job| log.is_complete || job.state != "running");
        match server.job(name, Some(wait).filter(|_| is_held))? {
            Some(job) => {
                progress.show(&job, shown.as_ref());
                if has_failed() {
                    return Ok(true);
                }
                let has_changed = shown.as_ref().is_none_or(|shown| shown.state != job.state);
                if !log.is_complete && (job.state == "running" || job.has_ended()) {
                    log.copy(server, progress, &job)?;
                }
                if job.has_ended() {
                    finish(server, progress, &job, logs);
                    return Ok(job.has_succeeded());
                }
                shown = Some(job);
                if has_changed {
                    continue;
                }
            }
            None if shown.is_none() && is_new && progress.start.elapsed() < MAX_INVISIBLE => {}
            None if shown.is_none() && !is_new => return Err(ServerError::NoSuchJob(name.to_owned())),
            None => return Err(ServerError::Gone(name.to_owned())),
        }
        server.sleep(MIN_INTERVAL.saturating_sub(start.elapsed()))?;
    }
}

/// Writes the end of the log, on a terminal that has not shown it, and the accuracy.
fn finish(server: &ServerClient, progress: &Progress, job: &Job, has_log: bool) {
    if progress.format == Format::Terminal && !has_log {
        let mut end = Vec::new();
        // The log may be gone with its pod.
        if let Ok(Ok(log)) = server.log(&job.job, &format!("?tail={LAST_LINES}")) {
            let _ = log.take(PIECE as u64).read_to_end(&mut end);
        }
        progress.log(&job.job, &end);
    }
    if let (Some(accuracy), true) = (job.accuracy(), progress.format != Format::Json) {
        progress.end_live_line();
        print_line(&accuracy);
    }
}

/// Prints the log of the Job `name` as it arrives, from the start of its container to its end.
///
/// # Errors
/// [`ServerError`]
pub fn print_log(server: &ServerClient, progress: &Progress, name: &str) -> Result<(), ServerError> {
    let mut log = FollowedLog { name, sent: 0, is_complete: false };
    let mut is_first = true;
    loop {
        let Some(job) = server.job(name, Some(WAIT).filter(|_| !is_first))? else {
            let error = if is_first { ServerError::NoSuchJob } else { ServerError::Gone };
            return Err(error(name.to_owned()));
        };
        is_first = false;
        if job.state == "running" || job.has_ended() {
            log.copy(server, progress, &job)?;
        }
        if log.is_complete || has_failed() {
            return Ok(());
        }
        server.sleep(MIN_INTERVAL)?;
    }
}

/// A log that is copied to stdout as it arrives. A broken one continues where it ended.
struct FollowedLog<'a> {
    name: &'a str,
    /// Bytes that have been written.
    sent: usize,
    is_complete: bool,
}

impl FollowedLog<'_> {
    /// Copies the rest of the log. Returns early if the server breaks it off.
    ///
    /// # Errors
    /// [`ServerError::Refused`] if there will be no log, or as [`Self::read`].
    fn copy(&mut self, server: &ServerClient, progress: &Progress, job: &Job) -> Result<(), ServerError> {
        match server.log(self.name, "?follow=true") {
            Ok(Ok(log)) => return self.read(log, server, progress),
            // A Job that failed before its container started has no log, and its reason tells why.
            Ok(Err(response)) if matches!(&*code(&response), "not_started" | "log_gone") && job.has_ended() => {
                self.is_complete = true;
            }
            Ok(Err(response)) if matches!(response.status, 409 | 429 | 503 | 504) => {}
            Ok(Err(response)) => return Err(ServerError::refused(&response)),
            // The next request for the state waits for the server, or gives up.
            Err(_) => {}
        }
        Ok(())
    }

    /// Reads to the end of the log, or until the connection breaks or stdout is closed.
    ///
    /// # Errors
    /// [`ServerError::TimedOut`], or without a server.
    fn read(&mut self, mut log: impl Read, server: &ServerClient, progress: &Progress) -> Result<(), ServerError> {
        let (mut skip, mut pending) = (self.sent, Vec::new());
        let mut piece = vec![0; PIECE];
        while !has_failed() {
            server.check_deadline()?;
            match log.read(&mut piece) {
                Ok(0) => {
                    progress.log(self.name, &pending);
                    self.is_complete = true;
                    return Ok(());
                }
                Ok(count) => {
                    let new = &piece[skip.min(count)..count];
                    skip -= skip.min(count);
                    self.sent += new.len();
                    let end =
                        if progress.format == Format::Json { end_of_lines(pending.len(), new) } else { new.len() };
                    pending.extend_from_slice(&new[..end]);
                    if end > 0 {
                        progress.log(self.name, &pending);
                        pending.clear();
                    }
                    pending.extend_from_slice(&new[end..]);
                }
                // The classifier is silent, or the connection is dead.
                Err(error) if client::is_timeout(&error) => match server.job(self.name, None)? {
                    Some(job) if !job.has_ended() => {}
                    _ => break,
                },
                Err(_) => break,
            }
        }
        self.sent -= pending.len();
        Ok(())
    }
}

/// Longest line of an object of --json, in bytes; a longer one becomes several.
const MAX_LINE: usize = 64 * 1024;

/// Returns the length of the part of `new` that ends lines. `pending` bytes of the line were read before.
fn end_of_lines(pending: usize, new: &[u8]) -> usize {
    match new.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => end + 1,
        None if pending + new.len() > MAX_LINE => new.len(),
        None => 0,
    }
}
