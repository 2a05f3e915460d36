//! Check of the image's name, by the grammar of <https://github.com/distribution/reference>. Pure; only a node can check that
//! the image exists.

use crate::commands::output::Check;

/// Longest name without tag and digest, in bytes.
const MAX_NAME: usize = 255;

/// Longest tag, in bytes.
const MAX_TAG: usize = 128;

/// Smallest number of digits of a digest.
const MIN_DIGEST: usize = 32;

/// Fix that pushes an image to a registry of the EKS nodes.
const PUSH: &str = "docker push ACCOUNT.dkr.ecr.REGION.amazonaws.com/mp12-classifier:1.0, and set --image or CLASSIFIER_IMAGE to that name";

/// The parts of an image's name that the check uses.
#[derive(Debug, PartialEq, Eq)]
struct Reference<'a> {
    registry: Option<&'a str>,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

/// Checks an image's name. `server` is the address of the running server that uses the image.
pub fn check(image: &str, server: Option<&str>) -> Vec<Check> {
    let name = match server {
        Some(url) => format!("{image}, the image of the server at {url},"),
        None => image.to_owned(),
    };
    let reference = match parse(image) {
        Ok(reference) => reference,
        Err(problem) => return vec![Check::fail("image", format!("{name} is not an image name: {problem}"), PUSH)],
    };
    let mut checks = Vec::new();
    if reference.registry.is_none() {
        let text = format!("{name} has no registry: nodes without the image pull it from Docker Hub");
        checks.push(Check::warning("image", text, PUSH));
    }
    if matches!((reference.tag, reference.digest), (None | Some("latest"), None)) {
        let text = format!("{name} has no tag or :latest: nodes that have the image do not pull a newer one");
        checks.push(Check::warning("image", text, "push it with a version as its tag, such as :1.0"));
    }
    if checks.is_empty() {
        let registry = reference.registry.unwrap_or_default();
        checks.push(Check::ok("image", format!("{name} is well formed; the nodes pull it from {registry}")));
    }
    checks
}

fn parse(image: &str) -> Result<Reference<'_>, &'static str> {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    // A colon before the last slash starts a port.
    let slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    let registry = name.split_once('/').map(|(first, _)| first).filter(|first| is_host(first));
    let path = registry.map_or(name, |registry| &name[registry.len() + 1..]);
    if registry.is_some_and(|registry| !is_registry(registry)) {
        return Err("the part before the first slash must be a host name with an optional port");
    }
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("a repository must be in lower case");
    }
    if path.len() > MAX_NAME || !path.split('/').all(is_component) {
        return Err("a repository consists of parts like my-name: letters and digits, separated by single . _ -");
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("a tag has up to 128 letters, digits, _ . - and does not begin with . or -");
    }
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err("a digest is sha256: and 64 hexadecimal digits");
    }
    Ok(Reference { registry, tag, digest })
}

/// Tests for a first part that is a host and not a folder on Docker Hub.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(|c| c.is_ascii_uppercase())
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = registry.split_once(':').unwrap_or((registry, "443"));
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    host.split('.').all(is_label) && port.parse::<u16>().is_ok()
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |text: &str| matches!(text, "." | "_" | "__") || text.chars().all(|c| c == '-');
    part.starts_with(is_word)
        && part.ends_with(is_word)
        && part.split(is_word).filter(|between| !between.is_empty()).all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= MAX_TAG && tag.starts_with(is_word) && tag.chars().all(|c| is_word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let is_known = algorithm.starts_with(|c: char| c.is_ascii_alphabetic());
    let length = if algorithm == "sha256" { hex.len() == 64 } else { hex.len() >= MIN_DIGEST };
    is_known && length && hex.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::output::CheckStatus;

    #[test]
    fn good_names_are_parsed() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let pinned = format!("localhost/a@{digest}");
        let table = [
            ("mp12-classifier:1.0", None, Some("1.0")),
            ("user/mp12_classifier", None, None),
            ("user/a.b__c--d/e", None, None),
            (
                "123456789012.dkr.ecr.us-east-1.amazonaws.com/mp12:v1",
                Some("123456789012.dkr.ecr.us-east-1.amazonaws.com"),
                Some("v1"),
            ),
            ("registry.local:5000/a/b/c", Some("registry.local:5000"), None),
            ("localhost:5000/a:latest", Some("localhost:5000"), Some("latest")),
            (&pinned, Some("localhost"), None),
        ];
        for (image, registry, tag) in table {
            let reference = parse(image).expect(image);
            assert_eq!((reference.registry, reference.tag), (registry, tag), "{image}");
        }
        assert_eq!(parse(&pinned).expect("good").digest, Some(digest.as_str()));
    }

    #[test]
    fn bad_names_have_a_reason() {
        let table = [
            ("", "parts"),
            ("Classifier:1", "lower case"),
            ("registry.local/A", "lower case"),
            ("a//b", "parts"),
            ("a/", "parts"),
            ("/a", "parts"),
            ("-a", "parts"),
            ("a-", "parts"),
            ("a..b", "parts"),
            ("a___b", "parts"),
            ("a._b", "parts"),
            ("a:", "tag"),
            ("a:.b", "tag"),
            ("a:b:c", "tag"),
            ("a@sha256:12", "digest"),
            ("a@", "digest"),
            ("registry.local:port/a", "host"),
            ("-x.y/a", "host"),
            ("a.b__c/d", "host"),
        ];
        for (image, words) in table {
            assert!(parse(image).expect_err(image).contains(words), "{image}: {:?}", parse(image));
        }
        assert!(parse(&format!("a:{}", "b".repeat(129))).is_err());
        assert!(parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn an_image_that_a_node_may_not_find_is_a_warning() {
        let statuses = |image: &str| check(image, None).into_iter().map(|check| check.status).collect::<Vec<_>>();
        assert_eq!(statuses("r.io/a:1"), [CheckStatus::Ok]);
        assert_eq!(statuses("a:1"), [CheckStatus::Warning]);
        assert_eq!(statuses("r.io/a"), [CheckStatus::Warning]);
        assert_eq!(statuses("a:latest"), [CheckStatus::Warning, CheckStatus::Warning]);
        assert_eq!(statuses("A"), [CheckStatus::Fail]);
    }
}
