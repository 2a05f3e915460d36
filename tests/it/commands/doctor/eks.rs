//! The check of tokens of EKS, and the causes of a rejection.

use super::date_in;
use crate::support::api::{ApiServer, Listen};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::response::ApiResponse;
use crate::support::server::{Finished, Setup};
use serde_json::json;

const SECRET: &str = "s3cr3tKey";

/// Runs doctor on a host with an access key and without the aws program. `identity` is the answer of STS.
fn doctor(api: &ApiServer, identity: ApiResponse, args: &[&str]) -> Finished {
    let sts = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    sts.always(identity);
    let get_token = ["--region", "us-east-1", "eks", "get-token", "--cluster-name", "mp12", "--output", "json"];
    let args = [&get_token, args].concat();
    let user = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "aws", "args": args}});
    let setup = Setup::new().kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml()).env("PATH", "/usr/bin:/bin");
    let setup = setup.env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE").env("AWS_SECRET_ACCESS_KEY", SECRET);
    let end = setup.env("AWS_ENDPOINT_URL_STS", &sts.url()).args(super::GOOD).run(&["doctor"]);
    assert!(!end.stdout.contains(SECRET) && !end.stderr.contains(SECRET), "{end:?}");
    end
}

fn arn(arn: &str) -> ApiResponse {
    let body = format!("<GetCallerIdentityResponse><Arn>{arn}</Arn></GetCallerIdentityResponse>");
    ApiResponse::new(200, "text/xml", body)
}

fn line<'a>(end: &'a Finished, start: &str) -> &'a str {
    end.stdout.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}: {}", end.stdout))
}

const HOST: &str = "arn:aws:sts::123456789012:assumed-role/mp12-host/i-0123456789";

#[test]
fn token_has_its_source_region_and_identity_and_needs_no_program() {
    let api = ApiServer::start();
    api.always(ApiResponse::json(200, &json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})));
    let end = doctor(&api, arn(HOST), &[]);
    let token = line(&end, "ok EKS token: made within ");
    assert!(token.contains(&format!("with AWS_ACCESS_KEY_ID, region us-east-1; the identity is {HOST}")), "{token}");
    assert!(!end.stdout.contains("credential plugin aws"), "the program may be missing: {}", end.stdout);
    let end = doctor(&api, ApiResponse::html(500), &[]);
    line(&end, "ok EKS token: made within ");
    let refused = "<Error><Code>InvalidClientTokenId</Code><Message>The security token is invalid</Message></Error>";
    let end = doctor(&api, ApiResponse::new(403, "text/xml", refused), &[]);
    assert!(line(&end, "FAIL EKS token: ").contains("InvalidClientTokenId"), "{}", end.stdout);
    let end = doctor(&api, arn(HOST), &["--no-verify-ssl"]);
    line(&end, "FAIL environment: the credential plugin aws");
}

#[test]
fn rejected_identity_is_named_with_the_access_entry_that_it_needs() {
    let api = ApiServer::start();
    api.always(ApiResponse::failure(401, "Unauthorized", "Unauthorized"));
    for (identity, principal) in [
        (HOST, "arn:aws:iam::123456789012:role/mp12-host"),
        ("arn:aws-cn:sts::1:assumed-role/a/b", "arn:aws-cn:iam::1:role/a"),
        ("arn:aws:iam::123456789012:user/ann", "arn:aws:iam::123456789012:user/ann"),
    ] {
        let end = doctor(&api, arn(identity), &[]);
        let api = line(&end, "FAIL API: ");
        let cause =
            format!("the cluster does not know the identity {identity}; it is neither in an access entry nor in");
        let fix = format!(
            "aws eks create-access-entry --cluster-name CLUSTER --principal-arn {principal} --kubernetes-groups"
        );
        assert!(api.contains(&cause) && api.contains(&fix), "{api}");
    }
}

#[test]
fn clock_that_is_five_minutes_wrong_is_the_cause_of_a_rejection() {
    let api = ApiServer::start();
    for (seconds, word) in [(-600, "ahead of"), (600, "behind")] {
        api.always(ApiResponse::failure(401, "Unauthorized", "Unauthorized").header("Date", &date_in(seconds)));
        let end = doctor(&api, arn(HOST), &[]);
        let api = line(&end, "FAIL API: ");
        assert!(
            api.contains("because this host's clock is") && api.contains(word) && api.contains("timedatectl"),
            "{api}"
        );
        line(&end, "FAIL clock: ");
    }
}
