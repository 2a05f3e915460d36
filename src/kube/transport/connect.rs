//! Connections to the cluster for ureq: DNS, TCP, the proxy's tunnel, TLS.
//!
//! ureq's own chain resolves the name for every request, even over a live connection. It also gives each step of a
//! tunnel the full timeout. Here a name is resolved for a new connection only, and all steps share one deadline. ureq's
//! SOCKS connector is used unchanged.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;

use base64::Engine;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport, TransportAdapter,
};
use ureq::{Proxy, ProxyProtocol};

use crate::kube::error::TlsError;
use crate::kube::transport::tls::{self, TlsEndpoint};

/// Maximum head of a proxy's response to CONNECT, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;

/// Maximum number of addresses tried for one host: the capacity of ureq's list.
const MAX_ADDRESSES: usize = 16;

/// Connects to the cluster's host.
pub struct ClusterConnector {
    host: String,
    port: u16,
    tls: Option<TlsEndpoint>,
    tunnel: Option<Tunnel>,
}

/// An HTTP proxy that tunnels by CONNECT.
struct Tunnel {
    host: String,
    port: u16,
    tls: Option<TlsEndpoint>,
    authorization: Option<String>,
}

impl ClusterConnector {
    /// A connector with `tls` for https. A SOCKS `proxy` is left to ureq.
    ///
    /// # Errors
    /// [`TlsError`] if the proxy's name or CA is not usable.
    pub fn new(
        host: &str,
        port: u16,
        tls: Option<TlsEndpoint>,
        proxy: Option<&Proxy>,
        ca: Option<&[u8]>,
    ) -> Result<Self, TlsError> {
        let tunnel = match proxy {
            Some(proxy) if !is_socks(proxy) => Some(Tunnel::new(proxy, ca)?),
            _ => None,
        };
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port, tls, tunnel })
    }

    fn tcp<In: Transport>(&self, details: &ConnectionDetails) -> Result<Box<dyn Transport>, ureq::Error> {
        let (host, port) = match &self.tunnel {
            Some(tunnel) => (&tunnel.host, tunnel.port),
            None => (&self.host, self.port),
        };
        let addrs = resolve(host, port, remaining(details)?)?;
        let mut list = details.resolver.empty();
        addrs.into_iter().take(MAX_ADDRESSES).for_each(|addr| list.push(addr));
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: list,
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: Instant::now(),
            timeout: remaining(details)?,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let transport = match TcpConnector::default().connect(&details, None::<In>) {
            // A host that drops packets is as unreachable as one that refuses them: no request has been sent yet.
            Err(ureq::Error::Timeout(_)) => {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "connection attempt timed out").into());
            }
            other => other?,
        };
        transport.map(Transport::boxed).ok_or(ureq::Error::ConnectionFailed)
    }
}

impl fmt::Debug for ClusterConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterConnector({}:{})", self.host, self.port)
    }
}

impl<In: Transport> Connector<In> for ClusterConnector {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let mut transport = match chained {
            // The SOCKS connector has already connected.
            Some(transport) => transport.boxed(),
            None => self.tcp::<In>(details)?,
        };
        if let Some(tunnel) = &self.tunnel {
            transport = tunnel.connect_tunnel(transport, &self.host, self.port, details)?;
        }
        if let Some(endpoint) = &self.tls {
            transport = tls::handshake(endpoint, transport, remaining(details)?, details)?.boxed();
        }
        Ok(Some(transport))
    }
}

impl Tunnel {
    fn new(proxy: &Proxy, ca: Option<&[u8]>) -> Result<Self, TlsError> {
        let host = proxy.host().trim_matches(['[', ']']).to_owned();
        let tls = match proxy.protocol() {
            ProxyProtocol::Https => Some(TlsEndpoint::proxy(&host, ca)?),
            _ => None,
        };
        let authorization = (proxy.username().is_some() || proxy.password().is_some()).then(|| {
            let pair = format!("{}:{}", proxy.username().unwrap_or_default(), proxy.password().unwrap_or_default());
            base64::engine::general_purpose::STANDARD.encode(pair)
        });
        Ok(Self { host, port: proxy.port(), tls, authorization })
    }

    /// Sends CONNECT to the proxy and reads its response, RFC 9110, section 9.3.6.
    fn connect_tunnel(
        &self,
        mut transport: Box<dyn Transport>,
        host: &str,
        port: u16,
        details: &ConnectionDetails,
    ) -> Result<Box<dyn Transport>, ureq::Error> {
        if let Some(endpoint) = &self.tls {
            transport = tls::handshake(endpoint, transport, remaining(details)?, details)?.boxed();
        }
        let mut stream = TransportAdapter::new(transport, details.current_time.clone());
        stream.set_timeout(remaining(details)?);
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let authorization = match &self.authorization {
            Some(pair) => format!("Proxy-Authorization: Basic {pair}\r\n"),
            None => String::new(),
        };
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
        stream.write_all(request.as_bytes())?;
        let head = read_head(&mut stream)?;
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&head).ok().and(response.code) {
            Some(200..=299) => Ok(stream.into_inner()),
            // The proxy cannot reach the cluster: a retry may succeed.
            Some(code @ 500..) => Err(io::Error::other(format!("the proxy returned {code}")).into()),
            Some(code) => Err(ureq::Error::ConnectProxyFailed(format!("it returned {code}"))),
            None => Err(not_http()),
        }
    }
}

/// Reads the head of the proxy's response byte by byte, because the bytes after it belong to the cluster's connection.
fn read_head(stream: &mut impl Read) -> Result<Vec<u8>, ureq::Error> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_LIMIT || stream.read(&mut byte)? == 0 {
            return Err(not_http());
        }
        head.push(byte[0]);
    }
    Ok(head)
}

fn not_http() -> ureq::Error {
    ureq::Error::ConnectProxyFailed("its response is not HTTP".to_owned())
}

/// Tests for a SOCKS proxy, for which ureq has a connector.
pub fn is_socks(proxy: &Proxy) -> bool {
    !matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
}

/// Returns the timeout for the rest of this connection's steps.
fn remaining(details: &ConnectionDetails) -> Result<NextTimeout, ureq::Error> {
    let mut timeout = details.timeout;
    if let (Duration::Exact(limit), Instant::Exact(began)) = (timeout.after, details.now) {
        let remaining = limit.saturating_sub(began.elapsed());
        if remaining.is_zero() {
            return Err(ureq::Error::Timeout(timeout.reason));
        }
        timeout.after = Duration::Exact(remaining);
    }
    Ok(timeout)
}

/// Resolves a host name on a separate thread, because the system's resolver has no timeout.
fn resolve(host: &str, port: u16, timeout: NextTimeout) -> Result<Vec<SocketAddr>, ureq::Error> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    thread::Builder::new().name("dns".into()).spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // The receiver is gone if the timeout has passed.
        let _ = sender.send(found);
    })?;
    let found = match timeout.after {
        Duration::Exact(limit) => receiver.recv_timeout(limit).map_err(|_| ureq::Error::Timeout(timeout.reason))?,
        Duration::NotHappening => receiver.recv().map_err(io::Error::other)?,
    }?;
    if found.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(found) }
}

/// Resolves SOCKS proxies only. [`ClusterConnector`] resolves any other host when it connects.
#[derive(Debug)]
pub struct DeferredResolver;

impl Resolver for DeferredResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut list = self.empty();
        match config.proxy() {
            Some(proxy) if proxy.uri() == uri => {
                let addrs = resolve(proxy.host().trim_matches(['[', ']']), proxy.port(), timeout)?;
                addrs.into_iter().take(MAX_ADDRESSES).for_each(|addr| list.push(addr));
            }
            // ureq requires an address; the connector ignores this one.
            _ => list.push(SocketAddr::from(([0, 0, 0, 0], 0))),
        }
        Ok(list)
    }
}
