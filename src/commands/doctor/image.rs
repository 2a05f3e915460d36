//! Whether an image's name can be meant so. The grammar is that of <https://github.com/distribution/reference>. Pure; whether
//! the image is there only a node can tell.

use crate::commands::output::Finding;

/// Longest name without tag and digest, in bytes.
const NAME_MOST: usize = 255;

/// Longest tag, in bytes.
const TAG_MOST: usize = 128;

/// Fewest digits of a digest.
const DIGEST_LEAST: usize = 32;

/// How an image gets to a registry that the nodes of EKS can read.
const PUSH: &str = "docker push ACCOUNT.dkr.ecr.REGION.amazonaws.com/mp12-classifier:1.0, and that name as --image or CLASSIFIER_IMAGE";

/// The parts of an image's name that matter here.
#[derive(Debug, PartialEq, Eq)]
struct Reference<'a> {
    registry: Option<&'a str>,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

/// What the image's name promises.
pub fn judge(image: &str) -> Vec<Finding> {
    let reference = match parse(image) {
        Ok(reference) => reference,
        Err(problem) => return vec![Finding::fail("image", format!("{image:?} is no image name: {problem}"), PUSH)],
    };
    let mut findings = Vec::new();
    if reference.registry.is_none() {
        let text = format!("{image} names no registry: unless the nodes have it, they look for it on Docker Hub");
        findings.push(Finding::warning("image", text, PUSH));
    }
    if matches!((reference.tag, reference.digest), (None | Some("latest"), None)) {
        let text = format!("{image} has no tag but :latest: nodes that have one keep it when a newer is pushed");
        findings.push(Finding::warning("image", text, "push it with a tag of its own, such as :1.0"));
    }
    if findings.is_empty() {
        let registry = reference.registry.unwrap_or_default();
        findings.push(Finding::ok("image", format!("{image} is well formed; the nodes pull it from {registry}")));
    }
    findings
}

fn parse(image: &str) -> Result<Reference<'_>, &'static str> {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    // A colon before the last slash is that of a port.
    let slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    let registry = name.split_once('/').map(|(first, _)| first).filter(|first| is_host(first));
    let path = registry.map_or(name, |registry| &name[registry.len() + 1..]);
    if registry.is_some_and(|registry| !is_registry(registry)) {
        return Err("the part before the first slash is no host name, with or without a port");
    }
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("a repository is written in lower case");
    }
    if path.len() > NAME_MOST || !path.split('/').all(is_component) {
        return Err("a repository is made of parts like my-name, with letters, digits and single . _ - between them");
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("a tag has up to 128 letters, digits, _ . - and begins with none of . -");
    }
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err("a digest is written sha256: and 64 hexadecimal digits");
    }
    Ok(Reference { registry, tag, digest })
}

/// What makes the first part a host and not a folder on Docker Hub.
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
    tag.len() <= TAG_MOST && tag.starts_with(is_word) && tag.chars().all(|c| is_word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let is_known = algorithm.starts_with(|c: char| c.is_ascii_alphabetic());
    let length = if algorithm == "sha256" { hex.len() == 64 } else { hex.len() >= DIGEST_LEAST };
    is_known && length && hex.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::output::Verdict;

    #[test]
    fn good_names_are_taken_apart() {
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
    fn bad_names_are_told_why() {
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
    fn what_a_node_might_not_find_is_a_warning() {
        let verdicts = |image: &str| judge(image).into_iter().map(|finding| finding.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts("r.io/a:1"), [Verdict::Ok]);
        assert_eq!(verdicts("a:1"), [Verdict::Warning]);
        assert_eq!(verdicts("r.io/a"), [Verdict::Warning]);
        assert_eq!(verdicts("a:latest"), [Verdict::Warning, Verdict::Warning]);
        assert_eq!(verdicts("A"), [Verdict::Fail]);
    }
}
