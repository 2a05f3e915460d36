//! The address for clients: on EC2 the public one, which only the metadata service has; elsewhere the one of the default route.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use crate::cli::Env;
use crate::commands::client;
use crate::commands::output::Check;

/// Time limit of all requests to the metadata service: it runs on the host, or does not exist.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

/// Address of the metadata service, and the two variables that change or disable it for AWS' own programs, see
/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html>.
const METADATA: &str = "http://169.254.169.254";
const METADATA_ENV: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
const METADATA_OFF_ENV: &str = "AWS_EC2_METADATA_DISABLED";

/// Lifetime of the metadata service's token, in seconds: two requests use it.
const TOKEN_TTL: &str = "21";

/// Files with the vendor of the machine, from its firmware.
const VENDORS: [&str; 2] = ["/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/board_vendor"];

/// A documentation address (RFC 5737). Connecting a UDP socket to it selects the local address and sends nothing.
const OUTSIDE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// Returns the address to give to the autograder.
pub fn check(env: Env<'_>, listen: &str) -> Check {
    let listen = listen.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let port = listen.map(|address| address.port()).filter(|port| *port != 0);
    let endpoint = env(METADATA_ENV).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    let is_off = env(METADATA_OFF_ENV).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if !is_off && (endpoint.is_some() || is_ec2()) {
        let endpoint = endpoint.unwrap_or_else(|| METADATA.to_owned());
        return public(public_ipv4(endpoint.trim_end_matches('/')), port);
    }
    let own = listen.map(|address| address.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
    match own.or_else(outbound_address) {
        Some(ip) => Check::ok("address", format!("{}, if the clients can reach it", with_port(ip, port))),
        None => Check::warning("address", "this host has no outbound route; address unknown", "ip address"),
    }
}

fn public(found: Result<Ipv4Addr, String>, port: Option<u16>) -> Check {
    match found {
        Ok(ip) => {
            let number = port.map_or_else(|| "PORT".to_owned(), |port| port.to_string());
            let text = format!(
                "give {} to the autograder; the security group must allow TCP port {number} from anywhere",
                with_port(ip.into(), port)
            );
            Check::ok("address", text)
        }
        Err(problem) => Check::warning(
            "address",
            format!("the public address of this EC2 instance is unknown: {problem}"),
            "aws ec2 allocate-address, and aws ec2 associate-address --instance-id ID --allocation-id ID",
        ),
    }
}

fn with_port(ip: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| format!("{ip} and the port that `serve` prints"), |port| SocketAddr::new(ip, port).to_string())
}

fn is_ec2() -> bool {
    VENDORS.iter().any(|path| std::fs::read_to_string(path).is_ok_and(|vendor| vendor.trim() == "Amazon EC2"))
}

/// Requests a token and then the address, as version 2 of the service requires, see
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html>.
fn public_ipv4(endpoint: &str) -> Result<Ipv4Addr, String> {
    let deadline = Instant::now() + METADATA_TIMEOUT;
    let request = |method, path: &str, headers: &[(&str, &str)]| {
        let remaining = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let response = client::request(method, &format!("{endpoint}{path}"), headers, None, remaining);
        response.map_err(|error| format!("the metadata service does not respond ({error})"))
    };
    let token = request("PUT", "/latest/api/token", &[("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL)])?;
    if token.status != 200 {
        return Err(format!("the metadata service returned {}", token.status));
    }
    let headers = [("X-aws-ec2-metadata-token", token.body.trim())];
    let response = request("GET", "/latest/meta-data/public-ipv4", &headers)?;
    match (response.status, response.body.trim().parse()) {
        (200, Ok(ip)) => Ok(ip),
        (404, _) => Err("it was started without a public address".to_owned()),
        (status, _) => Err(format!("the metadata service returned {status}")),
    }
}

/// Returns the local address of outbound connections.
pub fn outbound_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(OUTSIDE).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}
