//! `submit`: creates a Job through a running server, and follows it to its end.

use std::rc::Rc;
use std::time::Instant;

use crate::api::auth::Token;
use crate::cli::{SubmitArgs, shell_word};
use crate::commands::error::CommandError;
use crate::commands::follow::{self, Follow, Progress};
use crate::commands::output::has_failed;
use crate::commands::server_client::{MAX_OUTAGE, ServerClient, ServerError};
use crate::commands::signals::Hint;
use crate::job::Tier;

/// Creates the Job. With --wait returns true if it succeeded.
///
/// # Errors
/// [`CommandError`]
pub fn run(args: &SubmitArgs, is_dumb: bool) -> Result<bool, CommandError> {
    let token_file = args.premium.premium_token_file.as_deref().filter(|_| args.tier == Tier::Premium);
    let token = token_file.map(Token::read).transpose().map_err(CommandError::PremiumToken)?;
    let key = args.idempotency_key.clone().map_or_else(random_key, Ok).map_err(CommandError::Randomness)?;
    let progress = Rc::new(Progress::stdout(args.output.json, is_dumb));
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let server = follow::connect(&args.server, &progress, MAX_OUTAGE, deadline)?;
    let hint = Hint::default();
    hint.set(format!("the Job may exist: repeat the command with --idempotency-key {}", shell_word(&key)));
    hint.print_when_interrupted();
    let result = create(args, (&server, &progress), (&key, token.as_ref()), &hint)
        .and_then(|name| follow_to_end(args, (&server, &progress), &name, &hint));
    if has_failed() {
        log::warn!("stdout is closed; {}", hint.get());
    }
    result.map_err(|error| progress.command_error(error))
}

/// Creates the Job and prints its name.
fn create(
    args: &SubmitArgs,
    (server, progress): (&ServerClient, &Progress),
    (key, token): (&str, Option<&Token>),
    hint: &Hint,
) -> Result<String, ServerError> {
    let (name, created) = server.create((args.tier, args.dataset), key, token).map_err(|error| match error {
        ServerError::NotRunning { .. }
        | ServerError::Refused { status: ..500, .. }
        | ServerError::NotAServer { .. } => error,
        error => error.with_hint(&hint.get()),
    })?;
    let logs = if args.logs { " --logs" } else { "" };
    hint.set(format!(
        "the Job continues; follow it with: img-classification jobs {name} --watch{logs}{}",
        args.server.to_words()
    ));
    progress.result(&name, &created);
    Ok(name)
}

/// Follows the Job with --wait or --logs. Returns true if it succeeded.
fn follow_to_end(
    args: &SubmitArgs,
    (server, progress): (&ServerClient, &Progress),
    name: &str,
    hint: &Hint,
) -> Result<bool, ServerError> {
    if !args.wait && !args.logs {
        return Ok(true);
    }
    let job = Follow { name, is_new: true, logs: args.logs };
    follow::run(server, progress, &job).map_err(|error| match error {
        ServerError::Gone(_) => error,
        error => error.with_hint(&hint.get()),
    })
}

/// Returns a key that no other Job has: 128 random bits.
fn random_key() -> Result<String, getrandom::Error> {
    let mut random = [0; 16];
    getrandom::getrandom(&mut random)?;
    Ok(format!("{:032x}", u128::from_be_bytes(random)))
}
