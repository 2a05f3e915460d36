//! Credentials and signatures of AWS, as far as an EKS token needs them.
//!
//! The sources and their order are those of botocore, which the aws program uses: botocore/credentials.py. What this folder does not
//! cover is [`AwsError::Unsupported`], so that the program itself does it.

pub mod credentials;
pub mod eks_api;
pub mod env;
mod http;
pub mod metadata;
mod profiles;
pub mod search;
pub mod settings;
pub mod sigv4;
pub mod sts;

use std::fmt;

/// The reason why there is no credential or no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AwsError {
    /// Something that only the program covers.
    Unsupported(String),
    /// No source has a credential; the text names those that were searched.
    NoCredentials(String),
    /// A source, or a service of AWS, failed.
    Failed(String),
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(text) | Self::NoCredentials(text) | Self::Failed(text) => f.write_str(text),
        }
    }
}
