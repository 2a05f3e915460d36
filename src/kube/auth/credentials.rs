//! The source of each request's credential.
//!
//! Two kinds of credential change while the server runs. A token file is reloaded within a minute, and a
//! [plugin's credential](crate::kube::auth::exec_cache) is replaced before it expires. Either is replaced once when
//! Kubernetes rejects it.

use std::sync::Arc;
use std::time::Instant;

use crate::kube::auth::credential::{Credential, basic_header, bearer_header};
use crate::kube::auth::exec_cache::ExecCredentialCache;
use crate::kube::auth::token_file::{MAX_TOKEN_AGE, TokenFile};
use crate::kube::auth::user::{Bearer, User};
use crate::kube::error::CredentialError;

/// Provides the current credential of a user; shared by all threads.
pub struct Credentials(Source);

enum Source {
    Fixed(Arc<Credential>),
    File(TokenFile),
    Exec(Arc<ExecCredentialCache>),
}

impl Credentials {
    pub fn new(user: User) -> Self {
        let User { identity, bearer, basic, exec, .. } = user;
        if let Some(exec) = exec {
            return Self(Source::Exec(Arc::new(ExecCredentialCache::new(exec))));
        }
        let token = match bearer {
            Some(Bearer::File { path, first }) => {
                return Self(Source::File(TokenFile::new(path, &first, identity, MAX_TOKEN_AGE)));
            }
            Some(Bearer::Fixed(token)) => bearer_header(&token),
            None => None,
        };
        let authorization = token.or_else(|| basic.and_then(|basic| basic_header(&basic.username, &basic.password)));
        Self(Source::Fixed(Arc::new(Credential { authorization, identity, serial: 0 })))
    }

    /// Starts a plugin, so that the first request does not wait for it.
    pub fn warm_up(&self) {
        if let Source::Exec(cache) = &self.0 {
            cache.warm_up();
        }
    }

    /// Returns the current credential; waits for a plugin until `deadline`.
    ///
    /// # Errors
    /// The plugin failed, or is still running at the deadline.
    pub fn get(&self, deadline: Instant) -> Result<Arc<Credential>, CredentialError> {
        match &self.0 {
            Source::Fixed(credential) => Ok(Arc::clone(credential)),
            Source::File(file) => Ok(file.get()),
            Source::Exec(cache) => {
                Ok(cache.get(deadline, None)?.expect("a successor is missing only for a rejected credential"))
            }
        }
    }

    /// Returns the successor of a credential that Kubernetes rejected, or `None` if there is no other.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn renew(&self, rejected: &Credential, deadline: Instant) -> Result<Option<Arc<Credential>>, CredentialError> {
        match &self.0 {
            Source::Fixed(_) => Ok(None),
            Source::File(file) => Ok(Some(file.reload()).filter(|new| new.serial != rejected.serial)),
            Source::Exec(cache) => cache.get(deadline, Some(rejected.serial)),
        }
    }

    /// Kills a plugin that is still running.
    pub fn close(&self) {
        if let Source::Exec(cache) = &self.0 {
            cache.close();
        }
    }
}
