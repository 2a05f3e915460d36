//! Lists in pages, see
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks>.

use crate::kube::address::{UNRESERVED, percent_encode};
use crate::kube::error::Error;

/// Reads the pages of a list in order. `read` takes a page's path and returns the continue token, empty on the last
/// page.
///
/// # Errors
/// The first error of `read`. An expired continue token, a 410, is [`Error::ListExpired`]: the list must start over.
pub fn paginate(first: &str, mut read: impl FnMut(&str) -> Result<String, Error>) -> Result<(), Error> {
    let separator = if first.contains('?') { '&' } else { '?' };
    let mut next = read(first)?;
    while !next.is_empty() {
        let page = format!("{first}{separator}continue={}", percent_encode(&next, UNRESERVED));
        next = read(&page).map_err(|error| match error {
            Error::Status { url, status, .. } if status.code == 410 => Error::ListExpired { url },
            error => error,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_is_requested_by_the_token_of_the_one_before() {
        for (first, expected) in [
            ("/pods", ["/pods", "/pods?continue=a%2Bb", "/pods?continue=c"]),
            ("/pods?limit=2", ["/pods?limit=2", "/pods?limit=2&continue=a%2Bb", "/pods?limit=2&continue=c"]),
        ] {
            let mut paths = Vec::new();
            let read = |path: &str| {
                paths.push(path.to_owned());
                Ok(["a+b", "c", ""][paths.len() - 1].to_owned())
            };
            paginate(first, read).expect("three pages");
            assert_eq!(paths, expected);
        }
    }

    #[test]
    fn an_error_ends_the_list() {
        let mut pages = 0;
        let read = |_: &str| {
            pages += 1;
            if pages == 2 { Err(Error::Timeout { url: String::new() }) } else { Ok("next".to_owned()) }
        };
        assert!(paginate("/pods", read).is_err());
        assert_eq!(pages, 2);
    }
}
