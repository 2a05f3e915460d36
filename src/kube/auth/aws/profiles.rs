//! The shared files of AWS: `~/.aws/config` and `~/.aws/credentials`, as Python's configparser reads them for botocore.
//!
//! A file that configparser would refuse, or that needs one of its rarer rules, is left to the program.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use crate::kube::auth::aws::AwsError;
use crate::kube::auth::aws::env::AwsEnv;
use crate::kube::auth::secret::Secret;
use crate::kube::files::read_text;

/// The keys that are understood here or change nothing. Any other may select a source that only the program has, such as sso_session,
/// credential_process, login_session or mfa_serial.
const KNOWN: [&str; 29] = [
    "account_id_endpoint_mode",
    "aws_access_key_id",
    "aws_account_id",
    "aws_secret_access_key",
    "aws_session_token",
    "ca_bundle",
    "cli_auto_prompt",
    "cli_binary_format",
    "cli_follow_urlparam",
    "cli_history",
    "cli_pager",
    "cli_timestamp_format",
    "credential_source",
    "defaults_mode",
    "duration_seconds",
    "external_id",
    "max_attempts",
    "output",
    "parameter_validation",
    "region",
    "retry_mode",
    "role_arn",
    "role_session_name",
    "s3",
    "sdk_ua_app_id",
    "source_profile",
    "sts_regional_endpoints",
    "tcp_keepalive",
    "web_identity_token_file",
];

/// A section: its keys in lower case, and their values.
type Section = BTreeMap<String, String>;

/// The fields of a profile.
#[derive(Clone, Default)]
pub struct Profile {
    /// Those of both files; the credentials file wins.
    fields: Section,
    /// Those of each file: the credentials file and the config file.
    files: [Section; 2],
}

/// Shows the names only: some values are secrets.
impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields.keys()).finish()
    }
}

impl Profile {
    /// Returns a field; an empty one counts as missing.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the access key, and its secret key and session token, which are of the same file.
    pub fn keys(&self) -> Option<(&str, Option<Secret>, Option<Secret>)> {
        let file = self.files.iter().find(|file| file.contains_key("aws_access_key_id"))?;
        let secret = |key: &str| file.get(key).map(Secret::new);
        Some((file.get("aws_access_key_id")?, secret("aws_secret_access_key"), secret("aws_session_token")))
    }

    /// Refuses fields that only the program understands.
    pub fn check(&self, name: &str) -> Result<(), AwsError> {
        let is_odd = |(key, value): &(&String, &String)| {
            let is_known = KNOWN.contains(&key.as_str());
            !is_known
                || (*key == "sts_regional_endpoints" && *value != "regional")
                || (value.is_empty() && *key != "cli_pager")
        };
        match self.fields.iter().find(is_odd) {
            Some((key, _)) => Err(AwsError::Unsupported(format!("the profile {name} sets {key}"))),
            None => Ok(()),
        }
    }
}

/// All profiles of both files.
#[derive(Debug, Default)]
pub struct Profiles {
    profiles: BTreeMap<String, Profile>,
    /// The other sections of the config file.
    others: Vec<String>,
}

impl Profiles {
    /// Reads the files; a missing one is empty.
    ///
    /// # Errors
    /// [`AwsError::Unsupported`]
    pub fn load(env: &AwsEnv) -> Result<Self, AwsError> {
        let (mut profiles, mut others): (BTreeMap<String, Profile>, Vec<String>) = Default::default();
        for (header, fields) in sections(&env.path("AWS_CONFIG_FILE", "~/.aws/config")?)? {
            let Some(name) = profile_name(&header)? else {
                others.push(header);
                continue;
            };
            let profile = Profile { fields: fields.clone(), files: [Section::new(), fields] };
            if profiles.insert(name.clone(), profile).is_some() {
                return Err(AwsError::Unsupported(format!("the profile {name} has two sections")));
            }
        }
        for (name, fields) in sections(&env.path("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")?)? {
            let profile = profiles.entry(name).or_default();
            profile.fields.extend(fields.clone());
            profile.files[0] = fields;
        }
        Ok(Self { profiles, others })
    }

    pub fn get(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name)
    }

    /// Tests for a section of the config file that has this name and is no profile.
    pub fn has_other_section(&self, name: &str) -> bool {
        self.others.iter().any(|other| other == name)
    }
}

fn sections(path: &Path) -> Result<Vec<(String, Section)>, AwsError> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let problem = |problem: &str| AwsError::Unsupported(format!("{}: {problem}", path.display()));
    match read_text(path) {
        Ok(text) => parse(&text).map_err(problem),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(problem(&error.to_string())),
    }
}

/// Returns the name of the profile of a section in the config file, or `None` for another kind of section.
fn profile_name(header: &str) -> Result<Option<String>, AwsError> {
    if header == "default" {
        return Ok(Some(header.to_owned()));
    }
    let Some(rest) = header.strip_prefix("profile") else { return Ok(None) };
    let name = rest.trim();
    let inner = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name);
    if inner.contains(['"', '\'', '\\', '#']) {
        return Err(AwsError::Unsupported(format!("the section [{header}] has quotes that only the program reads")));
    }
    // botocore takes the second of two words, whatever follows "profile" in the first.
    if !rest.starts_with(char::is_whitespace) {
        return match header.contains(char::is_whitespace) {
            true => Err(AwsError::Unsupported(format!("the section [{header}] is a profile to the program only"))),
            false => Ok(None),
        };
    }
    let is_word = !inner.is_empty() && (inner.len() < name.len() || !inner.contains(char::is_whitespace));
    Ok(is_word.then(|| inner.to_owned()))
}

/// Parses an INI file by the rules of configparser.RawConfigParser.
fn parse(text: &str) -> Result<Vec<(String, Section)>, &'static str> {
    let text = text.replace("\r\n", "\n");
    if text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
        return Err("a control character");
    }
    let mut sections: Vec<(String, Section)> = Vec::new();
    // The last key of the current section, and the indentation of its line.
    let mut key: Option<String> = None;
    let mut indentation = 0;
    for line in text.lines() {
        let stripped = line.trim();
        if stripped.is_empty() || stripped.starts_with(['#', ';']) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        if let (Some(key), Some((_, fields)), true) = (&key, sections.last_mut(), indent > indentation) {
            let value = fields.entry(key.clone()).or_default();
            value.push('\n');
            value.push_str(stripped);
            continue;
        }
        indentation = indent;
        if let Some((header, _)) = stripped.strip_prefix('[').and_then(|rest| rest.rsplit_once(']')) {
            if header.is_empty() || header == "DEFAULT" || sections.iter().any(|(other, _)| other == header) {
                return Err("a section that is empty, [DEFAULT] or there twice");
            }
            sections.push((header.to_owned(), Section::new()));
            key = None;
            continue;
        }
        let (name, value) = stripped.split_once(['=', ':']).ok_or("a line without =")?;
        let name = name.trim_end().to_lowercase();
        let (_, fields) = sections.last_mut().ok_or("a line before the first section")?;
        if name.is_empty() || fields.insert(name.clone(), value.trim().to_owned()).is_some() {
            return Err("a key that is empty or there twice");
        }
        key = Some(name);
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, Vec<(String, String)>)> {
        parse(text).expect(text).into_iter().map(|(name, fields)| (name, fields.into_iter().collect())).collect()
    }

    #[test]
    fn files_are_read_as_configparser_reads_them() {
        let text = "# c\n[default]\nRegion = us-east-1 ; kept\naws_access_key_id: AKIA\n\n; c\ns3 =\n  a = b\n  # c\n  c = d\n\
                    output=json\n[profile x] after\nk = a=b:c\n";
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let default = vec![
            pair("aws_access_key_id", "AKIA"),
            pair("output", "json"),
            pair("region", "us-east-1 ; kept"),
            pair("s3", "\na = b\nc = d"),
        ];
        assert_eq!(parsed(text), [("default".to_owned(), default), ("profile x".to_owned(), vec![pair("k", "a=b:c")])]);
        for bad in [
            "a = b",
            "[x]\na = b\rc = d",
            "[x]\na = b\x1c",
            "[x]\nword",
            "[x]\na=1\na=2",
            "[x]\n[x]",
            "[DEFAULT]\na=1",
            "[x]\n= 1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_sections_with_one_name_are_profiles() {
        for (header, name) in [
            ("default", Some("default")),
            ("profile a", Some("a")),
            ("profile  a", Some("a")),
            ("profile \"a b\"", Some("a b")),
            ("profile a b", None),
            ("profile", None),
            ("profilea", None),
            ("profile\ta", Some("a")),
            ("preview", None),
            ("sso-session x", None),
        ] {
            assert_eq!(profile_name(header).expect(header).as_deref(), name, "{header}");
        }
        assert!(profile_name("profile 'a'").is_err() && profile_name("profiles a").is_err());
    }

    #[test]
    fn an_unknown_key_is_named() {
        let of = |key: &str, value: &str| Profile {
            fields: Section::from([(key.to_owned(), value.to_owned())]),
            ..Profile::default()
        };
        assert!(of("region", "us-east-1").check("p").is_ok());
        for (key, value) in [
            ("sso_session", "s"),
            ("credential_process", "p"),
            ("mfa_serial", "m"),
            ("region", ""),
            ("sts_regional_endpoints", "legacy"),
        ] {
            let error = of(key, value).check("p").expect_err(key);
            assert_eq!(error, AwsError::Unsupported(format!("the profile p sets {key}")));
        }
        assert_eq!(format!("{:?}", of("aws_secret_access_key", "s3cret")), r#"["aws_secret_access_key"]"#);
    }
}
