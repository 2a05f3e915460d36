//! Tokens of EKS that the server makes itself, with scripted services of AWS. tests/eks/run compares the tokens with those of the aws
//! program.

use crate::support::api::{ApiServer, Listen, Request};
use crate::support::eventually;
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::{Plugin, credential};
use crate::support::response::{ApiResponse, Behavior};
use crate::support::server::{Finished, Server, Setup};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

const SECRET: &str = "s3cr3tKey";
const SESSION: &str = "s3cr3tSession";
const ROLE: &str = "/latest/meta-data/iam/security-credentials/";
const GET_TOKEN: [&str; 8] =
    ["--region", "us-east-1", "eks", "get-token", "--cluster-name", "mp12-cluster", "--output", "json"];

/// A host with a cluster of EKS.
struct Host {
    api: ApiServer,
    setup: Setup,
    plugin: Option<Plugin>,
}

impl Host {
    /// A host whose kubeconfig runs `aws` with these arguments. The program prints the token `from-program`.
    fn new(args: &[&str]) -> Host {
        Host::with_command("aws", args)
    }

    /// A host whose kubeconfig runs another program.
    fn with_command(command: &str, args: &[&str]) -> Host {
        let mut host = Host::without_program_of(command, args);
        let status = json!({"token": "from-program"});
        let body = format!("cat <<'END'\n{}\nEND", credential("v1beta1", &status));
        let folder = host.setup.home().join("bin");
        host.plugin = Some(Plugin::write(&folder, command, &body));
        host.setup = host.setup.env("PATH", &format!("{}:/usr/bin:/bin", folder.display()));
        host
    }

    fn without_program(args: &[&str]) -> Host {
        Host::without_program_of("aws", args)
    }

    fn without_program_of(command: &str, args: &[&str]) -> Host {
        let api = ApiServer::start();
        let user =
            json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": command, "args": args}});
        let setup = Setup::new().kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml());
        let setup = setup.args(&["--kube-timeout", "20", "--log-level", "debug"]).env("PATH", "/usr/bin:/bin");
        // No request leaves this host.
        Host { api, setup: setup.env("AWS_EC2_METADATA_DISABLED", "true"), plugin: None }
    }

    fn env(mut self, variables: &[(&str, &str)]) -> Host {
        for (name, value) in variables {
            self.setup = self.setup.env(name, value);
        }
        self
    }

    /// Adds the keys of a user.
    fn keys(self) -> Host {
        self.env(&[("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", SECRET)])
    }

    /// Takes this server for the instance metadata service.
    fn imds(self, aws: &ApiServer) -> Host {
        self.env(&[("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &aws.url())])
    }

    fn file(self, name: &str, text: &str) -> Host {
        self.setup.file(name, text);
        self
    }

    fn start(self) -> (ApiServer, Server, Option<Plugin>) {
        (self.api, self.setup.start(), self.plugin)
    }
}

/// Scripted services of AWS, without TLS.
fn aws(mut script: impl FnMut(&Request) -> Option<Behavior> + Send + 'static) -> ApiServer {
    let server = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    server.script(move |request| script(request).unwrap_or_else(|| instance(request, 3600).into()));
    server
}

/// The instance metadata service of an instance with a role, whose credential lasts so many seconds.
fn instance(request: &Request, seconds: u64) -> ApiResponse {
    let is_session = request.header("x-aws-ec2-metadata-token") == Some("session");
    match request.path() {
        "/latest/api/token" if request.method == "PUT" => text(200, "session"),
        path if !is_session => text(401, path),
        ROLE => text(200, "mp12-host"),
        path if path.starts_with(ROLE) => role(seconds),
        "/latest/meta-data/placement/region" => text(200, "eu-west-1"),
        _ => text(404, ""),
    }
}

fn role(seconds: u64) -> ApiResponse {
    let end = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(seconds)).to_string();
    let key = json!({"Code": "Success", "AccessKeyId": "ASIAINSTANCE", "SecretAccessKey": SECRET, "Token": SESSION, "Expiration": end});
    ApiResponse::json(200, &key)
}

fn text(status: u16, body: &str) -> ApiResponse {
    ApiResponse::new(status, "text/plain", body)
}

/// Returns the parameters of the URL in a request's token.
fn url(request: &Request) -> String {
    let token = request.header("Authorization").unwrap().strip_prefix("Bearer k8s-aws-v1.");
    let token = token.unwrap_or_else(|| panic!("no token of EKS: {:?}", request.header("Authorization")));
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap()
}

fn check_post(server: &Server) {
    let response = server.post_job();
    assert_eq!(response.status, 200, "{}\n{}", response.text(), server.stderr());
}

/// Checks that neither a secret nor a token is in the log.
fn check_log(server: &Server) -> String {
    let log = server.log_until_now();
    for secret in [SECRET, SESSION, "k8s-aws-v1", "X-Amz-Signature", "Bearer "] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    log
}

#[test]
fn token_is_made_without_the_program_and_used_until_it_is_due() {
    let (api, server, plugin) = Host::new(&GET_TOKEN).keys().start();
    for _ in 0..5 {
        check_post(&server);
    }
    let requests = api.requests();
    let first = url(&requests[0]);
    let start = "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=";
    assert!(first.starts_with(start) && first.contains("&X-Amz-Expires=60&"), "{first}");
    assert!(first.contains("Credential=AKIAEXAMPLE%2F") && first.contains("=host%3Bx-k8s-aws-id&"), "{first}");
    assert!(requests.iter().all(|request| url(request) == first), "one token for all");
    assert_eq!(plugin.unwrap().runs(), 0);
    assert!(check_log(&server).contains("credentials: tokens of the EKS cluster mp12-cluster, or plugin aws"));
}

#[test]
fn program_makes_what_only_it_knows_and_that_is_logged_once() {
    let profile = |text: &str| format!("[default]\nregion = us-east-1\n{text}\n");
    let with = |more: &[&'static str]| [&GET_TOKEN[..], more].concat();
    let plain = GET_TOKEN.to_vec();
    let cases = [
        (with(&["--no-verify-ssl"]), String::new(), "", "the option --no-verify-ssl is not known"),
        (with(&["--output", "text"]), String::new(), "", "the option --output is there twice"),
        (with(&["--profile", "none"]), String::new(), "", "there is no profile none"),
        (plain.clone(), profile("sso_session = corp"), "", "the profile default sets sso_session"),
        (plain.clone(), profile("credential_process = /bin/true"), "", "the profile default sets credential_process"),
        (plain.clone(), profile("mfa_serial = arn"), "", "the profile default sets mfa_serial"),
        (plain.clone(), profile("login_session = arn"), "", "the profile default sets login_session"),
        (
            plain.clone(),
            profile("role_arn = arn\nsource_profile = x"),
            "",
            "the source_profile x of default does not exist",
        ),
        (plain.clone(), "[default\nregion = a".to_owned(), "", ".aws/config: a line"),
        (plain.clone(), String::new(), "AWS_USE_FIPS_ENDPOINT", "AWS_USE_FIPS_ENDPOINT is set"),
        (plain.clone(), profile(""), "AWS_CONFIG_FILE=", "AWS_CONFIG_FILE is set but empty"),
        (plain.clone(), profile(""), "HOME", "HOME is set but empty"),
        (
            plain.clone(),
            "[profiles default]\nregion = us-east-1".to_owned(),
            "",
            "the section [profiles default] is a profile to the program only",
        ),
        (plain.clone(), profile("x = y\rz = a"), "", ".aws/config: a control character"),
        (
            plain.clone(),
            profile("aws_access_key_id = A B\naws_secret_access_key = C"),
            "",
            "the profile default has a key with white space",
        ),
        (
            plain.clone(),
            String::new(),
            "AWS_ENDPOINT_URL_STS=http://u:pa55word@host/",
            "AWS_ENDPOINT_URL_STS is not a scheme, a host",
        ),
        (
            plain.clone(),
            String::new(),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://u:pa55word@host/",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT is more",
        ),
        (
            GET_TOKEN[2..].to_vec(),
            String::new(),
            "AWS_REGION",
            "the region is true in AWS_REGION and us-west-2 elsewhere",
        ),
        (
            vec!["--region", "us-east-1", "eks", "get-token", "--cluster-name", "file:///etc/hostname"],
            String::new(),
            "",
            "the option --cluster-name has a URL",
        ),
        (plain.clone(), String::new(), "", "AWS_EC2_METADATA_DISABLED is true"),
        (
            vec!["--region", "us-iso-east-1", "eks", "get-token", "--cluster-name", "a"],
            profile(""),
            "keys",
            "us-iso-east-1 is not",
        ),
    ];
    std::thread::scope(|scope| {
        for (args, config, variable, reason) in &cases {
            scope.spawn(move || {
                let host = Host::new(args).file(".aws/config", config);
                let host = match *variable {
                    "keys" => host.keys(),
                    "" => host,
                    "HOME" => host.env(&[("HOME", "")]),
                    "AWS_REGION" => host.keys().env(&[("AWS_REGION", "true"), ("AWS_DEFAULT_REGION", "us-west-2")]),
                    with_value if with_value.contains("ENDPOINT_URL_STS=") => {
                        let (name, value) = with_value.split_once('=').unwrap();
                        host.keys().env(&[(name, value)])
                    }
                    with_value if with_value.contains('=') => {
                        let (name, value) = with_value.split_once('=').unwrap();
                        host.env(&[(name, value), ("AWS_EC2_METADATA_DISABLED", "false")])
                    }
                    name => host.env(&[(name, "true")]),
                };
                let (api, server, plugin) = host.start();
                check_post(&server);
                // A rejection causes another run.
                api.queue([ApiResponse::failure(401, "Unauthorized", "Unauthorized").into()]);
                check_post(&server);
                let authorization = api.requests()[0].header("Authorization").map(str::to_owned);
                assert_eq!(authorization.as_deref(), Some("Bearer from-program"), "{reason}");
                assert_eq!(plugin.unwrap().runs(), 2, "{reason}");
                let log = server.log_until_now();
                assert!(!log.contains("pa55word"), "{log}");
                let lines = log.lines().filter(|line| line.contains("aws makes the EKS tokens"));
                let lines: Vec<&str> = lines.collect();
                assert!(lines.len() == 1 && lines[0].contains(reason), "{reason}: {log}");
            });
        }
    });
}

#[test]
fn entries_of_aws_iam_authenticator_are_made_where_it_has_the_same_rules() {
    let role = "[default]\nrole_arn = arn\ncredential_source = Environment\n";
    for (args, config, variable, runs) in [
        (&["token", "-i", "mp12"][..], "", "", 0),
        (&["token", "--cluster-id=mp12", "--region", "eu-west-1"], "", "", 0),
        (&["token", "-i", "mp12"], "", "DEFAULT_ROLE", 1),
        (&["token", "-i", "mp12"], "", "AWS_WEB_IDENTITY_TOKEN_FILE", 1),
        (&["token", "-i", "mp12"], "", "AWS_ACCESS_KEY", 1),
        (&["token", "-i", "mp12"], role, "", 1),
        (&["token", "-i", "mp12", "--forward-session-name"], "", "", 1),
        (&["help"], "", "", 1),
    ] {
        let host = Host::with_command("aws-iam-authenticator", args).keys().file(".aws/config", config);
        let host = host.env(&[("AWS_DEFAULT_REGION", "eu-west-1")]);
        let host = if variable.is_empty() { host } else { host.env(&[(variable, "x")]) };
        let (api, server, plugin) = host.start();
        check_post(&server);
        assert_eq!(plugin.unwrap().runs(), runs, "{args:?} {variable} {}", server.stderr());
        if runs == 0 {
            assert!(url(&api.requests()[0]).starts_with("https://sts.eu-west-1.amazonaws.com/?"));
        }
    }
}

#[test]
fn native_eks_off_always_runs_the_program() {
    for (args, variable) in [(&["--native-eks", "off"][..], ""), (&[], "off")] {
        let mut host = Host::new(&GET_TOKEN).keys();
        host.setup = host.setup.args(args).env("NATIVE_EKS", variable);
        let (api, server, plugin) = host.start();
        check_post(&server);
        assert_eq!(api.requests()[0].header("Authorization"), Some("Bearer from-program"));
        assert_eq!(plugin.unwrap().runs(), 1);
    }
}

#[test]
fn without_program_and_credential_the_error_names_both() {
    let (api, server, _) = Host::without_program(&GET_TOKEN).start();
    let response = server.post_job();
    assert_eq!((response.status, api.requests().len()), (502, 0), "{}", response.text());
    server.wait_for_log("of both", |line| {
        line.contains("cannot make an EKS token: AWS_EC2_METADATA_DISABLED is true; and the program aws, which might know more, cannot run: entity not found")
    });
}

#[test]
fn instance_role_is_read_with_a_session_token() {
    let services = aws(|_| None);
    let (api, server, plugin) = Host::new(&GET_TOKEN[2..]).imds(&services).start();
    check_post(&server);
    let url = url(&api.requests()[0]);
    assert!(
        url.starts_with("https://sts.eu-west-1.amazonaws.com/") && url.contains("Credential=ASIAINSTANCE%2F"),
        "{url}"
    );
    assert!(url.contains(&format!("&X-Amz-Security-Token={SESSION}&")), "{url}");
    assert_eq!(plugin.unwrap().runs(), 0);
    check_log(&server);
}

#[test]
fn token_is_renewed_before_the_credential_of_the_instance_expires() {
    let services = aws(|request| Some(instance(request, 3).into()));
    let (api, server, _) = Host::without_program(&GET_TOKEN).imds(&services).start();
    check_post(&server);
    let first = url(&api.requests()[0]);
    eventually("another token", || {
        check_post(&server);
        url(api.requests().last().unwrap()) != first
    });
}

#[test]
fn rejected_token_is_replaced_once() {
    let services = aws(|_| None);
    let (api, server, _) = Host::without_program(&GET_TOKEN).imds(&services).start();
    check_post(&server);
    let before = services.requests().len();
    api.queue([ApiResponse::failure(401, "Unauthorized", "Unauthorized").into()]);
    check_post(&server);
    let after = services.requests().len();
    assert!(after > before, "the credential is read again");
    // A cluster that rejects every token does not cause a request to AWS for each POST.
    api.always(ApiResponse::failure(401, "Unauthorized", "Unauthorized"));
    for _ in 0..5 {
        assert_eq!(server.post_job().status, 502);
    }
    assert_eq!(services.requests().len(), after);
}

#[test]
fn faults_of_the_instance_metadata_service_are_named_and_pass() {
    let answer = |path: &'static str, answer: Behavior| {
        move |request: &Request| (request.path() == path).then(|| answer.clone())
    };
    let token = "/latest/api/token";
    let key = "/latest/meta-data/iam/security-credentials/mp12-host";
    let unauthorized =
        json!({"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume the role mp12-host"});
    type Fault = Box<dyn Fn(&Request) -> Option<Behavior> + Send>;
    let cases: Vec<(&str, Fault)> = vec![
        ("it answered the request for a token with 503", Box::new(answer(token, text(503, "").into()))),
        ("it answered the request for a token with 400", Box::new(answer(token, text(400, "").into()))),
        ("--http-put-response-hop-limit 2", Box::new(answer(token, Behavior::Hang))),
        ("--http-put-response-hop-limit 2", Box::new(|_| Some(Behavior::Hang))),
        (
            "this instance has no role; fix: aws ec2 associate-iam-instance-profile",
            Box::new(answer(ROLE, text(404, "").into())),
        ),
        (
            "it answered /latest/meta-data/iam/security-credentials/ with 500",
            Box::new(answer(ROLE, text(500, "").into())),
        ),
        (
            "it answered /latest/meta-data/iam/security-credentials/ with 200",
            Box::new(answer(ROLE, text(200, "../../x").into())),
        ),
        (
            "AssumeRoleUnauthorizedAccess: EC2 cannot assume the role",
            Box::new(answer(key, ApiResponse::json(200, &unauthorized).into())),
        ),
        ("the response is not JSON", Box::new(answer(key, ApiResponse::html(200).into()))),
        ("the response has no credential", Box::new(answer(key, ApiResponse::json(200, &json!({})).into()))),
        ("the instance metadata service at http://127.0.0.1", Box::new(answer(key, role(3600).cut_last().into()))),
        (
            "the instance metadata service at http://127.0.0.1",
            Box::new(answer(key, text(200, &SECRET.repeat(1 << 17)).into())),
        ),
        ("the instance metadata service at http://127.0.0.1", Box::new(answer(key, Behavior::Drip))),
        ("the instance metadata service at http://127.0.0.1", Box::new(answer(key, Behavior::Reset))),
    ];
    std::thread::scope(|scope| {
        for (words, fault) in cases {
            scope.spawn(move || {
                let services = aws(move |request| fault(request));
                let (api, server, _) = Host::without_program(&GET_TOKEN).imds(&services).start();
                let response = server.post_job();
                assert_eq!((response.status, api.requests().len()), (502, 0), "{words}: {}", response.text());
                server.wait_for_log(words, |line| line.contains(words) && line.contains("cannot make an EKS token"));
                check_log(&server);
                services.script(|request| instance(request, 3600).into());
                eventually("a token", || server.post_job().status == 200);
            });
        }
    });
}

#[test]
fn throttled_instance_metadata_service_is_asked_again() {
    let mut refusals = 0;
    let services = aws(move |_| {
        refusals += 1;
        (refusals % 2 == 1).then(|| text(503, "").into())
    });
    let (_api, server, _) = Host::without_program(&GET_TOKEN).imds(&services).start();
    check_post(&server);
}

#[test]
fn absent_instance_metadata_service_leaves_the_token_to_the_program() {
    let mut services = ApiServer::listen(&Listen { ip: "127.0.0.3", identity: None, ..Listen::default() });
    services.close_port();
    let (api, server, plugin) = Host::new(&GET_TOKEN).imds(&services).start();
    check_post(&server);
    assert_eq!(api.requests()[0].header("Authorization"), Some("Bearer from-program"));
    assert_eq!(plugin.unwrap().runs(), 1);
    server.wait_for_log("of the reason", |line| {
        line.contains("no instance metadata service answers at http://127.0.0.3")
    });
}

#[test]
fn service_without_session_tokens_is_asked_without_one_unless_that_is_forbidden() {
    let plain = |request: &Request| match request.path() {
        "/latest/api/token" => Some(text(403, "").into()),
        ROLE => Some(text(200, "mp12-host").into()),
        _ => Some(role(3600).into()),
    };
    let services = aws(plain);
    let (_api, server, _) = Host::without_program(&GET_TOKEN).imds(&services).start();
    check_post(&server);
    let host = Host::without_program(&GET_TOKEN).imds(&services).env(&[("AWS_EC2_METADATA_V1_DISABLED", "true")]);
    let (_api, server, _) = host.start();
    assert_eq!(server.post_job().status, 502);
}

/// The profile `classifier` assumes a role with the keys of `default`.
const CHAIN: &str = "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = s3cr3tKey\n\
                     [profile classifier]\nrole_arn = arn:aws:iam::1:role/c\nsource_profile = default\nregion = us-east-1\n";

fn sts_error(status: u16, code: &str, message: &str) -> Behavior {
    let body = format!("<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>");
    ApiResponse::new(status, "text/xml", body).into()
}

fn assumed() -> Behavior {
    let credential = format!(
        "<Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>\
         <SessionToken>{SESSION}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
    );
    ApiResponse::new(200, "text/xml", format!("<AssumeRoleResponse>{credential}</AssumeRoleResponse>")).into()
}

fn with_role(sts: &ApiServer) -> Host {
    let host = Host::without_program(&GET_TOKEN).file(".aws/config", CHAIN);
    host.env(&[("AWS_PROFILE", "classifier"), ("AWS_ENDPOINT_URL_STS", &sts.url())])
}

#[test]
fn role_of_a_profile_is_assumed_by_a_signed_request() {
    let sts = aws(|_| Some(assumed()));
    let (api, server, _) = with_role(&sts).start();
    check_post(&server);
    assert!(url(&api.requests()[0]).contains("Credential=ASIAROLE%2F"));
    let request = &sts.requests()[0];
    let form: Vec<(String, String)> = form_urlencoded::parse(&request.body).into_owned().collect();
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!((field("Action"), field("RoleArn")), (Some("AssumeRole"), Some("arn:aws:iam::1:role/c")));
    let signature = request.header("Authorization").unwrap();
    assert!(
        signature.contains("Credential=AKIADEFAULT/") && signature.contains("/us-east-1/sts/aws4_request"),
        "{signature}"
    );
    check_log(&server);
}

#[test]
fn faults_of_sts_are_named_and_pass() {
    for (answer, words) in [
        (
            sts_error(403, "AccessDenied", "User: x is not authorized &amp; &lt;y&gt;"),
            "AccessDenied: User: x is not authorized & <y>",
        ),
        (
            sts_error(400, "ExpiredToken", "The security token has expired"),
            "ExpiredToken: The security token has expired",
        ),
        // Its message quotes the request, and any message may quote a secret.
        (sts_error(403, "SignatureDoesNotMatch", "x-amz-security-token:Bearer x"), "failed: SignatureDoesNotMatch"),
        (sts_error(403, "AccessDenied", "the key s3cr3tKey\nBearer x"), "AccessDenied: the key <set>"),
        (ApiResponse::html(502).into(), "the response is 502"),
        (ApiResponse::html(200).into(), "the response has no credential"),
        (text(302, "").into(), "the response is 302"),
        (Behavior::Close, "AssumeRole at http://127.0.0.1"),
    ] {
        let sts = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
        sts.always(answer);
        let (api, server, _) = with_role(&sts).start();
        let response = server.post_job();
        assert_eq!((response.status, api.requests().len()), (502, 0), "{words}: {}", response.text());
        server.wait_for_log(words, |line| line.contains(words) && line.contains("cannot make an EKS token"));
        check_log(&server);
        sts.always(assumed());
        eventually("a token", || server.post_job().status == 200);
    }
    let mut throttled = 0;
    let sts = aws(move |_| {
        throttled += 1;
        Some(if throttled <= 2 { sts_error(503, "Throttling", "Rate exceeded") } else { assumed() })
    });
    let (_api, server, _) = with_role(&sts).start();
    check_post(&server);
}

/// The answer of DescribeCluster.
fn description() -> Value {
    json!({"cluster": {"name": "mp12", "arn": "arn:aws:eks:us-east-1:1:cluster/mp12", "status": "ACTIVE",
                       "endpoint": "https://mp12.example", "certificateAuthority": {"data": "Q0E="}}})
}

/// Runs `setup --eks-kubeconfig` with this file as KUBECONFIG.
fn run_setup(eks: &ApiServer, kubeconfig: &Path) -> Finished {
    let setup = Setup::new().env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE").env("AWS_SECRET_ACCESS_KEY", SECRET);
    let setup = setup.env("AWS_ENDPOINT_URL_EKS", &eks.url()).env("KUBECONFIG", kubeconfig);
    setup.run(&["setup", "--eks-kubeconfig", "mp12", "--region", "us-east-1"])
}

#[test]
fn setup_writes_the_kubeconfig_of_a_cluster_and_keeps_other_entries() {
    let eks = aws(|_| Some(ApiResponse::json(200, &description()).into()));
    let folder = tempfile::tempdir().unwrap();
    let (target, link) = (folder.path().join("real"), folder.path().join("link"));
    std::fs::write(&target, "users: [{name: ann}]\ncurrent-context: other\n").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let new = folder.path().join("new/folder/config");
    for path in [&link, &new, &new] {
        let end = run_setup(&eks, path);
        assert_eq!(end.code, Some(0), "{end:?}");
        assert!(end.stdout.contains("the current context is arn:aws:eks:us-east-1:1:cluster/mp12"), "{end:?}");
    }
    let read = |path: &Path| -> Value { serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let (merged, made) = (read(&target), read(&new));
    assert_eq!(merged["users"][0]["name"], "ann");
    for (config, user) in [(&merged, &merged["users"][1]), (&made, &made["users"][0])] {
        let arn = "arn:aws:eks:us-east-1:1:cluster/mp12";
        assert_eq!((&config["current-context"], &user["name"]), (&json!(arn), &json!(arn)), "{config}");
        assert_eq!(user["user"]["exec"]["command"], "aws");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://mp12.example");
        let args = &user["user"]["exec"]["args"];
        assert_eq!(
            args,
            &json!(["--region", "us-east-1", "eks", "get-token", "--cluster-name", "mp12", "--output", "json"])
        );
    }
    assert_eq!(made["users"].as_array().unwrap().len(), 1, "a repeat replaces the entry");
    assert!(link.is_symlink() && std::fs::read_dir(folder.path()).unwrap().count() == 3, "no other file");
    assert_eq!(std::fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o600);
    let signature = eks.requests()[0].header("Authorization").unwrap().to_owned();
    assert!(signature.contains("/us-east-1/eks/aws4_request") && eks.requests()[0].path() == "/clusters/mp12");
}

#[test]
fn failed_description_or_unusable_file_leaves_the_kubeconfig_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let mut creating = description();
    creating["cluster"] = json!({"arn": "a", "status": "CREATING"});
    let refusal = |status: u16, message: &str| ApiResponse::json(status, &json!({ "message": message }));
    let good = ApiResponse::json(200, &description());
    for (answer, old, words) in [
        (
            refusal(403, "not authorized"),
            "users: []",
            "not authorized; fix: AWS_ACCESS_KEY_ID needs eks:DescribeCluster",
        ),
        (refusal(404, "No cluster found"), "users: []", "No cluster found; fix: check the name and the region"),
        (ApiResponse::json(200, &creating), "users: []", "the cluster has no address yet; its status is CREATING"),
        (ApiResponse::html(200), "users: []", "the cluster has no address yet"),
        (good.clone(), "users: 1", "is not a kubeconfig; fix: name another one with --kubeconfig"),
        (good.clone(), "[]", "is not a kubeconfig"),
        (good.clone(), "users: [", "is not valid YAML"),
        (good.clone(), "users: []\n---\nusers: []\n", "has several documents"),
    ] {
        std::fs::write(&path, old).unwrap();
        let eks = aws(move |_| Some(answer.clone().into()));
        let end = run_setup(&eks, &path);
        assert!(
            end.code == Some(1) && end.stderr.contains(words) && end.stderr.lines().count() == 1,
            "{words}: {end:?}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), old);
    }
    let eks = aws(move |_| Some(good.clone().into()));
    let end = run_setup(&eks, Path::new("/proc/none/config"));
    assert!(end.code == Some(1) && end.stderr.contains("/proc/none/config"), "{end:?}");
    // A device such as /dev/null, or a pipe, is not replaced by a file.
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    let end = run_setup(&eks, &pipe);
    assert!(made.success() && end.code == Some(1) && end.stderr.contains("not a regular file"), "{end:?}");
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    // Another program changes the file.
    std::fs::write(folder.path().join("config.lock"), "").unwrap();
    let end = run_setup(&eks, &path);
    assert!(end.code == Some(1) && end.stderr.contains("config.lock exists; fix: remove it"), "{end:?}");
    assert!(folder.path().join("config.lock").exists());
}

#[test]
fn strings_the_mode_and_links_of_a_kubeconfig_are_kept_and_runs_take_turns() {
    let eks = aws(|_| Some(ApiResponse::json(200, &description()).into()));
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("config"), folder.path().join("dangling"));
    std::fs::write(&file, "users: [{name: 'yes', user: {password: '1_000', token: \"12:30\"}}]\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(run_setup(&eks, &file).code, Some(0)));
        }
    });
    let text = std::fs::read_to_string(&file).unwrap();
    for kept in ["\"yes\"", "password: \"1_000\"", "token: \"12:30\""] {
        assert!(text.contains(kept), "no {kept} in {text}");
    }
    assert_eq!(text.matches("current-context:").count(), 1);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    std::os::unix::fs::symlink("target", &link).unwrap();
    assert_eq!(run_setup(&eks, &link).code, Some(0));
    assert!(link.is_symlink() && folder.path().join("target").is_file());
}
