//! Proxy addresses and the proxy variables of the environment, by the rules of Go, which kubectl follows:
//! <https://pkg.go.dev/golang.org/x/net/http/httpproxy#Config>. Pure: the environment is a parameter.

use std::net::IpAddr;

use ureq::Proxy;
use ureq::http::Uri;

use crate::kube::address::Address;

/// Returns the value of HTTPS_PROXY or HTTP_PROXY, depending on the server's scheme, unless NO_PROXY excludes the
/// server.
pub fn from_environment(server: &Address, env: impl Fn(&str) -> Option<String>) -> Option<String> {
    let names = if server.is_https() { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let proxy = names.into_iter().find_map(&env)?;
    let host = server.host().trim_matches(['[', ']']).to_ascii_lowercase();
    let excluded = ["NO_PROXY", "no_proxy"].into_iter().find_map(&env).unwrap_or_default();
    if is_local(&host) || excluded.split(',').any(|entry| matches(entry.trim(), &host, server.port())) {
        return None;
    }
    Some(proxy)
}

/// Parses the value of a variable. Go accepts a host and port without a scheme there.
pub fn parse_variable(value: &str) -> Option<Proxy> {
    if value.contains("://") { parse(value) } else { parse(&format!("http://{value}")) }
}

/// Parses a proxy's address. Returns `None` if it is invalid. A socks5 proxy resolves host names itself, as in Go and
/// as a tunnel to a private network requires.
pub fn parse(url: &str) -> Option<Proxy> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "socks5" | "socks5h" => "socks5h",
        "http" => "http",
        "https" => "https",
        _ => return None,
    };
    let url = format!("{scheme}://{rest}");
    // ureq replaces a port that is out of range by another one.
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    if scheme == "https" {
        // The name that verifies the certificate.
        crate::kube::transport::tls::server_name(authority.host()).ok()?;
    }
    let is_port_valid = authority.port().is_none_or(|port| port.as_str().parse::<u16>().is_ok());
    let after_host = authority.as_str().rsplit_once(authority.host())?.1;
    (is_port_valid && (after_host.is_empty() || authority.port_u16().is_some())).then(|| Proxy::new(&url).ok())?
}

/// Tests for the local host, which Go never reaches through a proxy.
fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn matches(entry: &str, host: &str, port: u16) -> bool {
    let entry = entry.to_ascii_lowercase();
    if let (Ok(ip), Some((net, bits))) = (host.parse::<IpAddr>(), entry.split_once('/')) {
        return in_network(ip, net, bits).unwrap_or(false);
    }
    let (name, wanted) = match entry.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') && !digits.is_empty() => (name, Some(digits)),
        _ => (entry.as_str(), None),
    };
    if name.is_empty() || wanted.is_some_and(|wanted| wanted.parse() != Ok(port)) {
        return false;
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    match name.strip_prefix('.') {
        // "*" excludes every host, ".example.com" its subdomains, "example.com" itself and its subdomains.
        None if name.is_empty() => true,
        None => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
        Some(_) => host.ends_with(name),
    }
}

fn in_network(ip: IpAddr, net: &str, bits: &str) -> Option<bool> {
    let bits: u32 = bits.parse().ok()?;
    match (ip, net.parse().ok()?) {
        (IpAddr::V4(ip), IpAddr::V4(net)) => {
            let mask = u32::MAX.checked_shl(32u32.checked_sub(bits)?).unwrap_or(0);
            Some(u32::from(ip) & mask == u32::from(net) & mask)
        }
        (IpAddr::V6(ip), IpAddr::V6(net)) => {
            let mask = u128::MAX.checked_shl(128u32.checked_sub(bits)?).unwrap_or(0);
            Some(u128::from(ip) & mask == u128::from(net) & mask)
        }
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_of_the_scheme_is_used_unless_the_host_is_excluded() {
        type Vars = &'static [(&'static str, &'static str)];
        let table: [(&str, Vars, bool); 17] = [
            ("https://k8s.example", &[("HTTPS_PROXY", "p"), ("NO_PROXY", "k8s.example:443")], false),
            ("https://[fd00::1]", &[("HTTPS_PROXY", "p"), ("NO_PROXY", "fd00::/8")], false),
            ("https://k8s.example:6443", &[], false),
            ("https://k8s.example:6443", &[("HTTPS_PROXY", "p")], true),
            ("https://k8s.example:6443", &[("https_proxy", "p")], true),
            ("https://k8s.example:6443", &[("HTTP_PROXY", "p")], false),
            ("http://k8s.example:8080", &[("HTTP_PROXY", "p")], true),
            ("https://127.0.0.1:6443", &[("HTTPS_PROXY", "p")], false),
            ("https://[::1]:6443", &[("HTTPS_PROXY", "p")], false),
            ("https://localhost:6443", &[("HTTPS_PROXY", "p")], false),
            ("https://k8s.example", &[("HTTPS_PROXY", "p"), ("NO_PROXY", "other, example")], false),
            ("https://k8s.example", &[("HTTPS_PROXY", "p"), ("NO_PROXY", ".k8s.example")], true),
            ("https://k8s.example", &[("HTTPS_PROXY", "p"), ("no_proxy", "*")], false),
            ("https://k8s.example:6443", &[("HTTPS_PROXY", "p"), ("NO_PROXY", "k8s.example:443")], true),
            ("https://k8s.example:6443/p", &[("HTTPS_PROXY", "p"), ("NO_PROXY", "K8S.example:6443")], false),
            ("https://10.100.0.1:443", &[("HTTPS_PROXY", "p"), ("NO_PROXY", "10.0.0.0/8")], false),
            ("https://11.100.0.1:443", &[("HTTPS_PROXY", "p"), ("NO_PROXY", "10.0.0.0/8,x/y,10.0.0.0/99")], true),
        ];
        for (server, vars, expected) in table {
            let env = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            let address = Address::parse(server, true).expect(server);
            assert_eq!(from_environment(&address, env).is_some(), expected, "{server} {vars:?}");
        }
    }
}
