//! The completion scripts and the manual pages, made from the definitions of the command line.

use clap_complete::shells::{Bash, Fish, Zsh};
use clap_complete::{Generator, generate};
use clap_mangen::Man;

use super::args::Shell;
use super::variables::command;

const NAME: &str = "img-classification";

/// The section of the manual for commands, see man(1).
const SECTION: &str = "1";

/// Lists the names of the Jobs of the environment's server, for at most 2 s: the user's prompt waits.
const JOB_NAMES: &str = "timeout 2 img-classification jobs 2>/dev/null | sed '1d;s/ .*//'";

/// Returns the completion script of a shell. It offers the names of the Jobs for `jobs`.
pub fn completion(shell: Shell) -> String {
    match shell {
        // clap_complete 4.6 gives the function of a command two names if the program's name has a hyphen.
        Shell::Bash => script(Bash).replace("img__subcmd__classification", "img__classification") + &bash_job_names(),
        Shell::Zsh => {
            let function = format!("_img_classification_jobs() {{\n    compadd -- ${{(f)\"$({JOB_NAMES})\"}}\n}}\n\n");
            let script = script(Zsh).replace(ZSH_JOB, &ZSH_JOB.replace("_default", "_img_classification_jobs"));
            // The first line marks the script for compinit.
            script.replacen("\n\n", &format!("\n\n{function}"), 1)
        }
        Shell::Fish => script(Fish) + &fish_arguments(),
    }
}

/// Returns the lines for the arguments of the commands, which the generator for fish leaves out.
fn fish_arguments() -> String {
    let line = |command: &str, words: &str| {
        format!("complete -c {NAME} -n \"__fish_img_classification_using_subcommand {command}\" -f -a \"{words}\"\n")
    };
    let root = visible_commands();
    let values = root.get_subcommands().filter_map(|command| {
        let values = command.get_positionals().flat_map(clap::Arg::get_possible_values);
        let words: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        (!words.is_empty()).then(|| line(command.get_name(), &words.join(" ")))
    });
    values.collect::<String>() + &line("jobs", &format!("({JOB_NAMES})"))
}

/// The argument of `jobs` in the script for zsh.
const ZSH_JOB: &str = "'::name -- Job to show instead of the list:_default'";

/// Wraps the function of the script for bash: where `jobs` takes a name, it offers the Jobs.
fn bash_job_names() -> String {
    let root = command();
    let jobs = root.find_subcommand("jobs").expect("jobs is a command");
    let with_value = jobs.get_arguments().filter(|arg| arg.get_action().takes_values()).filter_map(clap::Arg::get_long);
    let with_value: Vec<String> = with_value.map(|long| format!("--{long}")).collect();
    format!(
        r#"
_img_classification_with_jobs() {{
    _img__classification "$@"
    case $3 in {}) return ;; esac
    if [[ $2 != -* && " ${{COMP_WORDS[*]:1:COMP_CWORD-1}} " == *" jobs "* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$({JOB_NAMES})" -- "$2")
    fi
}}
complete -F _img_classification_with_jobs {NAME}
"#,
        with_value.join(" | ")
    )
}

fn script(generator: impl Generator) -> String {
    let mut script = Vec::new();
    generate(generator, &mut visible_commands(), NAME, &mut script);
    String::from_utf8(script).expect("the definitions are text")
}

/// Returns the parser without its hidden commands, which the generators do not leave out.
fn visible_commands() -> clap::Command {
    let root = command();
    let shown = root.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let (about, end) = (root.get_about().cloned(), root.get_after_help().cloned());
    let visible = clap::Command::new(NAME).about(about.unwrap_or_default()).after_help(end.unwrap_or_default());
    visible.args(root.get_arguments().cloned()).subcommands(shown)
}

/// Returns the manual pages and the completion scripts, each with its file's name.
pub fn files() -> Vec<(String, Vec<u8>)> {
    let root = visible_commands().version(env!("CARGO_PKG_VERSION"));
    let pages = root.get_subcommands().map(|command| {
        let name = command.get_name();
        page(command.clone().bin_name(format!("{NAME} {name}")), &format!("{NAME}-{name}"))
    });
    let scripts = Shell::ALL.map(|shell| (format!("{NAME}.{}", shell.as_str()), completion(shell).into_bytes()));
    [page(root.clone(), NAME)].into_iter().chain(pages).chain(scripts).collect()
}

fn page(command: clap::Command, name: &str) -> (String, Vec<u8>) {
    let mut page = Vec::new();
    let source = format!("{NAME} {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.name(name.to_owned())).section(SECTION).source(source).manual("User Commands");
    man.render(&mut page).expect("a vector takes all bytes");
    (format!("{name}.{SECTION}"), page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_script_offers_the_jobs_and_no_hidden_command() {
        for shell in Shell::ALL {
            let script = completion(shell);
            assert!(script.contains(JOB_NAMES) && script.contains("kmnist"), "{shell:?}");
            assert!(!script.contains("generate"), "{shell:?}");
        }
        assert!(completion(Shell::Zsh).contains("the list:_img_classification_jobs'"));
    }

    #[test]
    fn each_command_has_a_page() {
        let files = files();
        let page = |name: &str| {
            let file = files.iter().find(|(file, _)| file == name).unwrap_or_else(|| panic!("no {name}"));
            String::from_utf8(file.1.clone()).expect("text")
        };
        assert!(page("img-classification.1").contains(r"\-\-listen"));
        for name in ["serve", "setup", "doctor", "clean", "selftest", "submit", "jobs", "completion", "version"] {
            assert!(page(&format!("img-classification-{name}.1")).contains("Exit codes: "), "{name}");
        }
        assert_eq!(files.len(), 13);
    }
}
