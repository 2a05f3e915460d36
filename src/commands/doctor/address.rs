//! The address to give away: on EC2 the public one, which the host itself does not know; elsewhere the one it goes out with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use crate::Env;
use crate::commands::client;
use crate::commands::output::Finding;

/// For all that is asked of the metadata service: it is within the host, or not there at all.
const METADATA_LIMIT: Duration = Duration::from_secs(1);

/// The address and the two variables by which AWS' own programs find the metadata service, or leave it alone,
/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html>.
const METADATA: &str = "http://169.254.169.254";
const METADATA_ENV: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
const METADATA_OFF_ENV: &str = "AWS_EC2_METADATA_DISABLED";

/// How long the metadata service's token is to be good: two questions, in seconds.
const TOKEN_TTL: &str = "21";

/// Where the firmware says whose machine this is.
const VENDORS: [&str; 2] = ["/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/board_vendor"];

/// An address that is nobody's (RFC 5737), to learn which of ours would be used; nothing is sent.
const OUTSIDE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// What to tell the autograder.
pub fn look(env: Env<'_>, listen: &str) -> Finding {
    let listen = listen.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let port = listen.map(|address| address.port()).filter(|port| *port != 0);
    let endpoint = env(METADATA_ENV).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    let is_off = env(METADATA_OFF_ENV).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if !is_off && (endpoint.is_some() || is_ec2()) {
        let endpoint = endpoint.unwrap_or_else(|| METADATA.to_owned());
        return public(public_ipv4(endpoint.trim_end_matches('/')), port);
    }
    let own = listen.map(|address| address.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
    match own.or_else(outward) {
        Some(ip) => Finding::ok("address", format!("{}, if it can be reached from there", with_port(ip, port))),
        None => Finding::warning("address", "this host has no way out, and so no address to give away", "ip address"),
    }
}

fn public(found: Result<Ipv4Addr, String>, port: Option<u16>) -> Finding {
    match found {
        Ok(ip) => {
            let number = port.map_or_else(|| "PORT".to_owned(), |port| port.to_string());
            let text = format!(
                "give {} to the autograder; the security group must let in TCP port {number} from anywhere",
                with_port(ip.into(), port)
            );
            Finding::ok("address", text)
        }
        Err(problem) => Finding::warning(
            "address",
            format!("no public address of this EC2 instance: {problem}"),
            "aws ec2 allocate-address, and aws ec2 associate-address --instance-id ID --allocation-id ID",
        ),
    }
}

fn with_port(ip: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| format!("{ip} and the port that `serve` tells"), |port| SocketAddr::new(ip, port).to_string())
}

fn is_ec2() -> bool {
    VENDORS.iter().any(|path| std::fs::read_to_string(path).is_ok_and(|vendor| vendor.trim() == "Amazon EC2"))
}

/// Asks by version 2 of the service: a token first,
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html>.
fn public_ipv4(endpoint: &str) -> Result<Ipv4Addr, String> {
    let deadline = Instant::now() + METADATA_LIMIT;
    let ask = |method, path: &str, headers: &[(&str, &str)]| {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let answer = client::request(method, &format!("{endpoint}{path}"), headers, None, left);
        answer.map_err(|error| format!("the metadata service gives no answer ({error})"))
    };
    let token = ask("PUT", "/latest/api/token", &[("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL)])?;
    if token.status != 200 {
        return Err(format!("the metadata service answers {}", token.status));
    }
    let headers = [("X-aws-ec2-metadata-token", token.body.trim())];
    let answer = ask("GET", "/latest/meta-data/public-ipv4", &headers)?;
    match (answer.status, answer.body.trim().parse()) {
        (200, Ok(ip)) => Ok(ip),
        (404, _) => Err("it was started without one".to_owned()),
        (status, _) => Err(format!("the metadata service answers {status}")),
    }
}

/// The address with which this host goes out.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(OUTSIDE).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}
