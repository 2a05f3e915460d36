//! Command lines and environments.

use std::os::unix::ffi::OsStringExt;

use super::*;

fn read(args: &[&str], vars: &[(&str, &str)]) -> Result<Options, UsageError> {
    let env = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    match parse(args.iter().map(OsString::from), &env)? {
        Command::Serve(options) => Ok(*options),
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_are_good_values() {
    let options = read(&[], &[]).expect("no option is needed");
    assert_eq!(options.listen, "0.0.0.0:5000");
    assert_eq!(options.jobs.ttl, 3600);
    assert_eq!(options.access.kube_timeout, Duration::from_secs(10));
    assert_eq!((options.access.context, options.access.kubeconfig), (None, None));
    assert!(options.local.is_none());
}

#[test]
fn a_flag_wins_over_its_variable_and_an_empty_variable_counts_as_unset() {
    let options = read(&["serve", "--listen=[::1]:1", "--context", "a"], &[("LISTEN", "x:2"), ("KUBE_CONTEXT", "b")]);
    let options = options.expect("good");
    assert_eq!((options.listen.as_str(), options.access.context.as_deref()), ("[::1]:1", Some("a")));
    let options = read(&[], &[("LISTEN", ""), ("KUBE_CONTEXT", "b"), ("JOB_TTL", "0")]).expect("good");
    assert_eq!((options.listen.as_str(), options.access.context.as_deref()), ("0.0.0.0:5000", Some("b")));
    assert_eq!(options.jobs.ttl, 0);
}

#[test]
fn a_cluster_on_the_command_line_wins_over_the_variable_local() {
    let is_local = |args: &[&str], local: &str| Ok(read(args, &[("LOCAL", local)])?.local.is_some());
    assert_eq!(is_local(&[], "1"), Ok(true));
    assert_eq!(is_local(&["--local"], "0"), Ok(true));
    for (value, expected) in [("true", true), ("Yes", true), ("no", false), ("FALSE", false), ("off", false)] {
        assert_eq!(is_local(&[], value), Ok(expected), "{value}");
    }
    assert_eq!(is_local(&["--kubeconfig", "x"], "1"), Ok(false));
    assert_eq!(
        is_local(&["--local", "--context", "x"], ""),
        Err(UsageError::Conflict("--local".into(), "--context".into()))
    );
}

#[test]
fn the_simulated_cluster_is_served_on_loopback_unless_listen_is_set() {
    let listen = |args: &[&str], vars: &[(&str, &str)]| read(args, vars).map(|options| options.listen);
    assert_eq!(listen(&["--local"], &[]), Ok("127.0.0.1:5000".to_owned()));
    assert_eq!(listen(&[], &[("LOCAL", "1")]), Ok("127.0.0.1:5000".to_owned()));
    assert_eq!(listen(&["--local"], &[("LISTEN", "a:1")]), Ok("a:1".to_owned()));
    assert_eq!(listen(&["--local", "--listen", "b:2"], &[("LISTEN", "a:1")]), Ok("b:2".to_owned()));
}

#[test]
fn an_unknown_name_gets_the_nearest_one() {
    for (args, text) in [
        (&["--imge", "x"][..], "unknown option --imge; did you mean --image?"),
        (&["clean", "--ye"], "unknown option --ye; did you mean --yes?"),
        (&["clean", "--xyz"], "unknown option --xyz; see img-classification clean --help"),
        (&["setp"], "unknown command \"setp\"; did you mean setup?"),
        (&["dance"], "unknown command \"dance\"; see img-classification --help"),
        (&["setup", "--image", "x"], "setup does not take --image; see img-classification setup --help"),
        (&["--listen"], "--listen needs a value: --listen ADDR:PORT"),
        (&["--local=1"], "--local takes no value"),
        (&["--premium-token-file"], "--premium-token-file needs a value: --premium-token-file PATH"),
        (&["--kubeconfig"], "--kubeconfig needs a value: --kubeconfig PATH"),
        (&["--local", "1"], "unknown command \"1\"; see img-classification --help"),
        (&["--no-requeue", "true"], "unknown command \"true\"; see img-classification --help"),
        (&["--listen", "a:1", "doctr"], "unknown command \"doctr\"; did you mean doctor?"),
        (&["--local", "serve", "1"], "unexpected argument \"1\"; see img-classification serve --help"),
        (&["--local", "--", "clean"], "unexpected argument \"clean\"; see img-classification serve --help"),
        (&["--yes"], "serve does not take --yes; see img-classification serve --help"),
        (&["--yes", "setup"], "setup does not take --yes; see img-classification setup --help"),
        (&["--no-nudge"], "unknown option --no-nudge; did you mean --no-requeue?"),
    ] {
        assert_eq!(read(args, &[]).expect_err(text).to_string(), text);
    }
}

#[test]
fn options_may_stand_before_their_command() {
    for args in [
        &["--kubeconfig", "k", "doctor"][..],
        &["--json", "doctor"],
        &["--context", "clean", "--json", "doctor", "--listen=setup:1"],
    ] {
        let command = parse(args.iter().map(OsString::from), &|_| None);
        assert!(matches!(command, Ok(Command::Doctor { .. })), "{args:?}: {command:?}");
    }
    let command = parse(["--timeout", "7", "--yes", "clean"].map(OsString::from), &|_| None);
    let Ok(Command::Clean { yes: true, timeout, .. }) = command else { panic!("{command:?}") };
    assert_eq!(timeout, Duration::from_secs(7));
    let command = parse(["--clean-first", "selftest", "http://a:1"].map(OsString::from), &|_| None);
    let Ok(Command::Selftest { url, clean_first: true, .. }) = command else { panic!("{command:?}") };
    assert_eq!(url, "http://a:1");
    let options = read(&["--context", "clean"], &[]).expect("clean is the name of a context");
    assert_eq!(options.access.context.as_deref(), Some("clean"));
}

#[test]
fn help_and_version_win_over_all_other_arguments() {
    let printed = |args: &[&str]| match parse(args.iter().map(OsString::from), &|_| None) {
        Ok(Command::Print(text)) => text,
        other => panic!("{args:?}: {other:?}"),
    };
    let (root, setup) = (printed(&["--help"]), printed(&["setup", "--help"]));
    assert_ne!(root, setup);
    for args in [
        &["setup", "--image", "x", "--help"][..],
        &["-h", "setup", "--nonsense"],
        &["help", "setup"],
        &["help", "setup", "--help"],
    ] {
        assert_eq!(printed(args), setup, "{args:?}");
    }
    for args in [&["help"][..], &["--job-ttl", "x", "-h"], &["--local=1", "--help", "--", "a"]] {
        assert_eq!(printed(args), root, "{args:?}");
    }
    for args in [&["--version"][..], &["clean", "--version"], &["-V", "-x"]] {
        assert_eq!(printed(args), concat!("img-classification ", env!("CARGO_PKG_VERSION"), "\n"), "{args:?}");
    }
    assert!(read(&["serve", "--", "--help"], &[]).is_err());
    assert!(read(&["nonsense", "--help"], &[]).is_err());
    assert!(read(&["--nonsense", "--help"], &[]).is_err());
    let options = read(&["--context", "--help"], &[]).expect("--help is the name of a context");
    assert_eq!(options.access.context.as_deref(), Some("--help"));
}

#[test]
fn the_last_of_equal_flags_wins() {
    let options = read(&["--job-ttl", "4", "--local", "--job-ttl", "5", "--local"], &[]).expect("good");
    assert_eq!(options.jobs.ttl, 5);
}

#[test]
fn a_value_that_is_not_utf8_is_named_by_its_flag_variable_or_argument() {
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let error = |args: &[OsString], env: Env<'_>| parse(args.to_vec(), env).expect_err("not UTF-8").to_string();
    let text = " is \"\u{fffd}\", but must be valid UTF-8";
    for option in ["--listen", "--image", "--context", "--job-ttl", "--job-timeout", "--log-level"] {
        assert_eq!(error(&[option.into(), bytes(b"\xff")], &|_| None), format!("{option}{text}"));
    }
    assert_eq!(error(&[bytes(b"--listen=\xff")], &|_| None), format!("--listen{text}"));
    assert_eq!(error(&["selftest".into(), bytes(b"\xff")], &|_| None), format!("the URL{text}"));
    let listen = |name: &str| (name == "LISTEN").then(|| bytes(b"\xff"));
    assert_eq!(error(&[], &listen), format!("LISTEN{text}"));
    let options = parse(["--kubeconfig".into(), bytes(b"/\xff")], &|_| None);
    let Ok(Command::Serve(options)) = options else { panic!("a path need not be UTF-8: {options:?}") };
    assert_eq!(options.access.kubeconfig.map(PathBuf::into_os_string), Some(bytes(b"/\xff")));
}

#[test]
fn doctor_collects_the_invalid_variables() {
    let vars = [("LISTEN", "5000"), ("JOB_TTL", "soon"), ("KUBE_TIMEOUT", "7"), ("NO_REQUEUE", "maybe")];
    let env = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    let command = parse(["doctor", "--json"].map(OsString::from), &env);
    let Ok(Command::Doctor { options, server: None, rejected, json: true }) = command else { panic!("{command:?}") };
    assert_eq!(options.access.kube_timeout, Duration::from_secs(7));
    assert_eq!(options.listen, "0.0.0.0:5000");
    assert!(["LISTEN", "JOB_TTL", "NO_REQUEUE"].iter().all(|name| rejected.iter().any(|error| error.names(name))));
    assert_eq!(rejected.len(), 3);
}

#[test]
fn doctor_takes_the_address_of_a_running_server() {
    let parse_with = |args: &[&str], variable: &str| {
        let env = |name: &str| (name == "IMG_CLASSIFICATION_SERVER").then(|| variable.into());
        let command = parse(args.iter().map(OsString::from), &env);
        let Ok(Command::Doctor { options, server, rejected, .. }) = command else { panic!("{command:?}") };
        (server, options.listen, rejected)
    };
    for args in [
        &["doctor", "--server", "a:1/", "--listen", "b:2"][..],
        &["--server", "a:1", "doctor", "--listen=b:2"],
        &["doctor", "--listen=b:2", "--server=http://a:1"],
    ] {
        let (server, listen, rejected) = parse_with(args, "c:3");
        assert_eq!((server.as_deref(), listen.as_str(), rejected.len()), (Some("http://a:1"), "b:2", 0), "{args:?}");
    }
    assert_eq!(parse_with(&["doctor"], "c:3").0.as_deref(), Some("http://c:3"));
    assert_eq!(parse_with(&["doctor"], "").0, None);
    let (server, _, rejected) = parse_with(&["doctor"], "a b");
    assert!(server.is_none() && rejected.len() == 1 && rejected[0].names("IMG_CLASSIFICATION_SERVER"), "{rejected:?}");
    assert!(parse(["doctor", "--server", "a b"].map(OsString::from), &|_| None).is_err());
}

#[test]
fn bad_values_name_the_flag_or_the_variable() {
    let flags: [&[&str]; 16] = [
        &["--listen", "5000"],
        &["--listen", ":5000"],
        &["--listen", "::1:5000"],
        &["--listen", "0.0.0.0:65536"],
        &["--image", ""],
        &["--image", "a b"],
        &["--image", "-a"],
        &["--job-ttl", "-1"],
        &["--job-ttl", "2147483648"],
        &["--kube-timeout", "0"],
        &["--kube-timeout", "1.5"],
        &["--log-level", "loud"],
        &["--context", ""],
        &["--kubeconfig", ""],
        &["--posts-per-minute", "many"],
        &["--premium-token-file", ""],
    ];
    for args in flags {
        let error = read(args, &[]).expect_err(args[1]).to_string();
        assert!(error.starts_with(args[0]), "{error}");
    }
    let error = read(&[], &[("KUBE_TIMEOUT", "soon")]).expect_err("not a number").to_string();
    assert!(error.starts_with("KUBE_TIMEOUT is \"soon\""), "{error}");
    for args in [&["--nonsense"][..], &["--listen"], &["serve", "serve"], &["-x"], &["dance"]] {
        assert!(read(args, &[]).is_err(), "{args:?}");
    }
}
