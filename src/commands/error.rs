//! Errors that end a command, with their exit codes.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::clean::CleanError;
use super::client::CaError;
use super::serve::StartError;
use super::server_client::ServerError;
use super::setup::SetupError;
use crate::cli::UsageError;
use crate::kube;

/// An error that ends the program.
#[derive(Debug)]
pub enum CommandError {
    /// The command line or a variable is invalid.
    Usage(UsageError),
    /// stdout cannot be written.
    Print(io::Error),
    /// The server did not start.
    Start(StartError),
    /// The kubeconfig cannot be used.
    Config(kube::ConfigError),
    /// The certificates of the kubeconfig cannot be used.
    Tls(kube::TlsError),
    /// `setup` failed.
    Setup(SetupError),
    /// `setup --eks-kubeconfig` failed.
    EksKubeconfig(kube::EksKubeconfigError),
    /// `clean` failed.
    Clean(CleanError),
    /// The file of --premium-token-file cannot be used.
    PremiumToken(io::Error),
    /// The file of --admin-token-file cannot be used.
    AdminToken(io::Error),
    /// The CAs of a server cannot be used.
    Ca(CaError),
    /// The operating system gives no random numbers.
    Randomness(getrandom::Error),
    /// `submit` or `jobs` failed.
    Server(ServerError),
    /// `generate` cannot write a file.
    Generate { path: PathBuf, source: io::Error },
}

impl CommandError {
    /// Returns the exit code: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Clean(CleanError::Unconfirmed) => 2,
            Self::Server(error) => error.exit_code(),
            _ => 1,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => write!(f, "{error}"),
            Self::Print(_) => write!(f, "cannot write to stdout"),
            Self::Start(error) => write!(f, "{error}"),
            Self::Config(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "cannot use the kubeconfig's certificates: {error}"),
            Self::Setup(SetupError::Kube(error)) | Self::Clean(CleanError::Kube(error)) if error.not_permitted() => {
                write!(f, "{error}; fix: use an administrator's kubeconfig, see --kubeconfig and --context")
            }
            Self::Setup(error) => write!(f, "{error}"),
            Self::EksKubeconfig(error) => write!(f, "{error}"),
            Self::Clean(error) => write!(f, "{error}"),
            Self::PremiumToken(_) => write!(f, "cannot use the file of --premium-token-file"),
            Self::AdminToken(_) => write!(f, "cannot use the file of --admin-token-file"),
            Self::Ca(error) => write!(f, "{error}"),
            Self::Randomness(error) => {
                write!(f, "cannot choose an idempotency key: {error}; fix: set --idempotency-key")
            }
            Self::Server(error) => write!(f, "{error}"),
            Self::Generate { path, .. } => write!(f, "cannot write {}", path.display()),
        }
    }
}

impl Error for CommandError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Start(error) => error.source(),
            Self::Config(error) => error.source(),
            Self::Setup(error) => error.source(),
            Self::EksKubeconfig(error) => error.source(),
            Self::Clean(error) => error.source(),
            Self::Ca(error) => error.source(),
            Self::Print(source) | Self::PremiumToken(source) | Self::AdminToken(source) => Some(source),
            Self::Generate { source, .. } => Some(source),
            Self::Usage(_) | Self::Tls(_) | Self::Server(_) | Self::Randomness(_) => None,
        }
    }
}
