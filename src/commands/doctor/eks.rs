//! The check of the tokens of EKS that are made without the aws program.

use crate::commands::output::Check;
use crate::kube::{AwsError, EksReport};

const TOPIC: &str = "EKS token";

/// Returns the check of a token.
pub fn token(made: &Result<EksReport, AwsError>) -> Check {
    match made {
        Ok(EksReport { source, region, elapsed, identity }) => {
            let text = format!("made within {} ms with {source}, region {region}", elapsed.as_millis());
            match identity {
                Ok(arn) => Check::ok(TOPIC, format!("{text}; the identity is {arn}")),
                Err(error) if error.contains("InvalidClientTokenId") || error.contains("SignatureDoesNotMatch") => {
                    let fix =
                        "create the access key again, or remove it where it is set: aws configure list shows the place";
                    Check::fail(TOPIC, format!("{text}, which AWS refuses: {error}"), fix)
                }
                Err(error) if error.contains("ExpiredToken") => {
                    Check::fail(TOPIC, format!("{text}, which has expired: {error}"), "renew the temporary credential")
                }
                Err(error) => Check::ok(TOPIC, format!("{text}; the identity is not known: {error}")),
            }
        }
        Err(AwsError::Unsupported(reason)) => {
            Check::ok(TOPIC, format!("made by the program of the kubeconfig: {reason}"))
        }
        Err(error @ AwsError::NoCredentials(_)) => {
            let fix = "give the instance a role, or access keys to the user that runs the server: docs/eks.md, step 4";
            Check::warning(TOPIC, format!("not made without the program of the kubeconfig: {error}"), fix)
        }
        Err(error @ AwsError::Failed(_)) => {
            let fix = "correct what the text names; the credential is for the user that runs the server";
            Check::fail(TOPIC, error.to_string(), fix)
        }
    }
}
