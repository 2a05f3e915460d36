//! A credential of AWS. Plain data.

use std::time::SystemTime;

use crate::kube::auth::aws::AwsError;
use crate::kube::auth::secret::Secret;

/// A credential of AWS.
#[derive(Debug, Clone)]
pub struct AwsCredentials {
    pub access_key: String,
    pub secret_key: Secret,
    /// The session token of a temporary credential.
    pub token: Option<Secret>,
    /// End of a temporary credential.
    pub expires: Option<SystemTime>,
    /// The source, for messages.
    pub source: String,
}

impl AwsCredentials {
    /// Leaves a credential with characters that no key has to the program.
    ///
    /// # Errors
    /// [`AwsError::Unsupported`]
    pub fn checked(self) -> Result<Self, AwsError> {
        let is_key = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let secrets = [Some(&self.secret_key), self.token.as_ref()];
        if is_key(&self.access_key) && secrets.into_iter().flatten().all(|secret| is_key(secret.expose())) {
            return Ok(self);
        }
        Err(AwsError::Unsupported(format!("{} has a key with white space or other odd characters", self.source)))
    }

    /// Removes the secrets from a text.
    pub fn redact(&self, text: &str) -> String {
        let secrets = [Some(&self.secret_key), self.token.as_ref()].into_iter().flatten();
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "<set>"))
    }
}
