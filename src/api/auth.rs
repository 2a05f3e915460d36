//! The bearer tokens of premium requests and of deletions, if the operator configures them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use subtle::ConstantTimeEq;

/// Longest token file, in bytes; the front refuses longer headers.
const FILE_LIMIT: u64 = 4096;

/// The configured tokens.
#[derive(Debug, Default)]
pub struct Tokens {
    /// The token that premium requests must carry. `None` leaves premium open.
    pub premium: Option<Token>,
    /// The token that deletions must carry. `None` disables them.
    pub admin: Option<Token>,
}

/// A token. Its `Debug` hides the value.
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<set>")
    }
}

impl Token {
    /// Reads a file. White space around the token is ignored.
    ///
    /// # Errors
    /// The file cannot be read, is empty, or holds characters that no header can carry.
    pub fn read(path: &Path) -> io::Result<Self> {
        let error = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(error)?;
        Self::parse(file).map_err(error)
    }

    fn parse(file: File) -> io::Result<Self> {
        let mut text = String::new();
        let length = file.take(FILE_LIMIT + 1).read_to_string(&mut text)?;
        if length as u64 > FILE_LIMIT {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has over 4096 bytes"));
        }
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it must hold one line of visible ASCII characters",
            ));
        }
        Ok(Self(token.to_owned()))
    }

    /// Returns the value of the Authorization header.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Returns true if an Authorization header carries this token. The comparison takes constant time.
    pub fn accepts(&self, authorization: Option<&str>) -> bool {
        let (scheme, given) = authorization.and_then(|value| value.split_once(' ')).unwrap_or_default();
        scheme.eq_ignore_ascii_case("bearer") && bool::from(given.trim().as_bytes().ct_eq(self.0.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_accepted() {
        let token = Token("s3cret".to_owned());
        assert!(token.accepts(Some("Bearer s3cret")) && token.accepts(Some("bearer  s3cret ")));
        for wrong in
            ["", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets", "Bearer S3CRET", "Basic s3cret"]
        {
            assert!(!token.accepts(Some(wrong)), "{wrong}");
        }
        assert!(!token.accepts(None));
        assert_eq!(format!("{token:?}"), "<set>");
    }
}
