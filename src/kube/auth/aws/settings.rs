//! The settings of AWS's programs: the selected profile, the region, and the endpoints of services with the way to them.

use crate::kube::address::Address;
use crate::kube::agent::agent_for;
use crate::kube::auth::aws::AwsError;
use crate::kube::auth::aws::env::AwsEnv;
use crate::kube::auth::aws::profiles::{Profile, Profiles};
use crate::kube::files::read_regular;
use crate::kube::proxy;

/// The settings of a run: the environment and the selected profile.
#[derive(Debug)]
pub struct Settings<'a> {
    pub env: &'a AwsEnv,
    pub profiles: Profiles,
    /// The name of the profile.
    pub name: String,
    /// The profile is named by an option: variables with credentials do not count then.
    pub is_explicit: bool,
}

impl<'a> Settings<'a> {
    /// Reads the profiles. `profile` is that of the option --profile.
    ///
    /// # Errors
    /// [`AwsError::Unsupported`]
    pub fn load(env: &'a AwsEnv, profile: Option<&str>) -> Result<Self, AwsError> {
        env.check()?;
        let profiles = Profiles::load(env)?;
        let named = [env.get("AWS_PROFILE"), env.get("AWS_DEFAULT_PROFILE")];
        if profile.is_none() && matches!(named, [Some(one), Some(other)] if one != other) {
            return Err(AwsError::Unsupported("AWS_PROFILE and AWS_DEFAULT_PROFILE differ".to_owned()));
        }
        let named = profile.or(named[0]).or(named[1]);
        let name = named.unwrap_or("default").to_owned();
        if named.is_some() && profiles.get(&name).is_none() {
            return Err(AwsError::Unsupported(format!("there is no profile {name}")));
        }
        let settings = Self { env, profiles, name, is_explicit: profile.is_some() };
        settings.check()?;
        Ok(settings)
    }

    /// Refuses the variables and fields that change endpoints in a way that only the program knows.
    fn check(&self) -> Result<(), AwsError> {
        for name in ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"] {
            if self.env.is_true(name) {
                return Err(AwsError::Unsupported(format!("{name} is set")));
            }
        }
        if self.env.get("AWS_STS_REGIONAL_ENDPOINTS").is_some_and(|value| value != "regional") {
            return Err(AwsError::Unsupported("AWS_STS_REGIONAL_ENDPOINTS is not regional".to_owned()));
        }
        self.profile().map_or(Ok(()), |profile| profile.check(&self.name))
    }

    /// Returns the selected profile.
    pub fn profile(&self) -> Option<&Profile> {
        self.profiles.get(&self.name)
    }

    /// Returns the region of the environment or the profile. Version 1 of the program does not read AWS_REGION.
    ///
    /// # Errors
    /// [`AwsError::Unsupported`] if the versions of the program would differ.
    pub fn region(&self) -> Result<Option<&str>, AwsError> {
        let of_profile = || self.profile()?.get("region");
        match (self.env.get("AWS_REGION"), self.env.get("AWS_DEFAULT_REGION").or_else(of_profile)) {
            (Some(one), Some(other)) if one != other => {
                Err(AwsError::Unsupported(format!("the region is {one} in AWS_REGION and {other} elsewhere")))
            }
            (one, other) => Ok(one.or(other)),
        }
    }

    /// Refuses what aws-iam-authenticator, which has the rules of AWS's library for Go, reads in another way than botocore.
    ///
    /// # Errors
    /// [`AwsError::Unsupported`]
    pub fn check_for_go(&self) -> Result<(), AwsError> {
        let unsupported =
            |what: &str| Err(AwsError::Unsupported(format!("{what} means something else to aws-iam-authenticator")));
        let variables = [
            "AWS_ACCESS_KEY",
            "AWS_SECRET_KEY",
            "AWS_SECURITY_TOKEN",
            "AWS_CREDENTIAL_EXPIRATION",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
        ];
        if let Some(name) = variables.into_iter().find(|name| self.env.get(name).is_some()) {
            return unsupported(name);
        }
        let fields = ["role_arn", "source_profile", "credential_source", "web_identity_token_file"];
        let has_field = |field: &&str| self.profile().is_some_and(|profile| profile.get(field).is_some());
        if let Some(field) = fields.into_iter().find(has_field) {
            return unsupported(&format!("{field} of the profile {}", self.name));
        }
        if self.profiles.has_other_section(&self.name) {
            return unsupported(&format!("the section [{}] of the config file", self.name));
        }
        Ok(())
    }

    /// Returns the endpoint of a service in this region.
    ///
    /// # Errors
    /// [`AwsError::Unsupported`]
    pub fn endpoint(&self, service: &str, region: &str) -> Result<Endpoint, AwsError> {
        let own = format!("AWS_ENDPOINT_URL_{}", service.to_ascii_uppercase());
        let name = if self.env.get(&own).is_some() { &own } else { "AWS_ENDPOINT_URL" };
        let url = match self.env.get(name) {
            Some(url) => url.to_owned(),
            None => format!("https://{service}.{region}.{}", dns_suffix(region)?),
        };
        // A URL may hold a password, and is not shown.
        let odd = || {
            let problem = "is not a scheme, a host in lower case and, if there is one, a port other than 80 and 443";
            AwsError::Unsupported(format!("{name} {problem}"))
        };
        let address = Address::parse(&url, true).map_err(|_| odd())?;
        let origin = address.to_string();
        let host = origin.split_once("://").map_or("", |(_, host)| host).to_owned();
        let is_plain = url.trim_end_matches('/') == origin && origin.matches('/').count() == 2;
        if !is_plain || host.contains(char::is_uppercase) || host.ends_with(":443") || host.ends_with(":80") {
            return Err(odd());
        }
        Ok(Endpoint { origin, host, region: region.to_owned(), address })
    }

    /// Returns an agent for an endpoint, with the proxy and the CAs of the environment.
    ///
    /// # Errors
    /// [`AwsError::Failed`] if one of them is not usable.
    pub fn agent(&self, endpoint: &Endpoint) -> Result<ureq::Agent, AwsError> {
        let variable = |name: &str| self.env.get(name).map(str::to_owned);
        let invalid = || AwsError::Failed("HTTPS_PROXY is not the address of a proxy".to_owned());
        let proxy = proxy::from_environment(&endpoint.address, variable)
            .map(|url| proxy::parse_variable(&url).ok_or_else(invalid))
            .transpose()?;
        let bundle = self.env.get("AWS_CA_BUNDLE").or_else(|| self.profile()?.get("ca_bundle"));
        let ca = bundle.map(|path| {
            read_regular(path.as_ref())
                .map_err(|error| AwsError::Failed(format!("cannot read the CA bundle {path}: {error}")))
        });
        agent_for(&endpoint.address, ca.transpose()?, proxy.as_ref())
            .map_err(|error| AwsError::Failed(format!("cannot connect to {}: {error}", endpoint.origin)))
    }
}

/// The endpoint of a service.
#[derive(Debug)]
pub struct Endpoint {
    /// The scheme, host and port.
    pub origin: String,
    /// The value of the Host header.
    pub host: String,
    pub region: String,
    address: Address,
}

/// Returns the domain of a region's partition: aws, aws-us-gov or aws-cn.
fn dns_suffix(region: &str) -> Result<&'static str, AwsError> {
    /// The first parts of the names of the regions of the partition aws.
    const AREAS: [&str; 9] = ["af", "ap", "ca", "eu", "il", "me", "mx", "sa", "us"];
    let parts: Vec<&str> = region.split('-').collect();
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match parts.as_slice() {
        ["us", "gov", area, number] if is_word(area) && is_number(number) => Ok("amazonaws.com"),
        ["cn", area, number] if is_word(area) && is_number(number) => Ok("amazonaws.com.cn"),
        [start, area, number]
            if AREAS.contains(start)
                && !["iso", "isob", "isoe", "isof"].contains(area)
                && is_word(area)
                && is_number(number) =>
        {
            Ok("amazonaws.com")
        }
        _ => {
            Err(AwsError::Unsupported(format!("{region} is not a region of the partitions aws, aws-us-gov and aws-cn")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_the_domain_of_their_partition() {
        for (region, suffix) in [
            ("us-east-1", Some("amazonaws.com")),
            ("ap-southeast-5", Some("amazonaws.com")),
            ("mx-central-1", Some("amazonaws.com")),
            ("us-gov-west-1", Some("amazonaws.com")),
            ("cn-north-1", Some("amazonaws.com.cn")),
            ("us-iso-east-1", None),
            ("us-isob-east-1", None),
            ("eusc-de-east-1", None),
            ("aws-global", None),
            ("us-east-1.evil.example/", None),
            ("", None),
        ] {
            assert_eq!(dns_suffix(region).ok(), suffix, "{region}");
        }
    }
}
