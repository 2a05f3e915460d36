//! Connections to the cluster for ureq: DNS, TCP, the proxy's tunnel, TLS.
//!
//! ureq's own chain resolves the name for every request, even over a live connection. It also gives each step of a
//! tunnel the full timeout. Here a name is resolved for a new connection only, and all steps share one deadline. ureq's
//! SOCKS connector is used unchanged.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

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
use crate::kube::transport::dns::HostLookup;
use crate::kube::transport::tls::{self, TlsEndpoint};

/// Maximum head of a proxy's response to CONNECT, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;

/// Maximum time to connect, TLS and proxy included: three SYNs, so that one lost packet does not fail the attempt.
pub const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(4);

/// Maximum number of addresses tried for one host: the capacity of ureq's list.
const MAX_ADDRESSES: usize = 16;

thread_local! {
    /// This thread has made a connection since the last [`take_connected`]. ureq connects on the request's thread, and
    /// does not tell if it took an idle connection instead.
    static HAS_CONNECTED: Cell<bool> = const { Cell::new(false) };
}

/// Tests if this thread has made or attempted a connection since the last call.
pub fn take_connected() -> bool {
    HAS_CONNECTED.take()
}

/// A failure to connect: no request has been sent.
#[derive(Debug)]
pub struct NotConnected(pub ureq::Error);

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for NotConnected {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Returns the error that ureq and this module have wrapped: the operating system's, or that of the TLS library.
pub fn cause(error: &ureq::Error) -> &(dyn Error + 'static) {
    let ureq::Error::Io(io) = error else { return error };
    match io.get_ref() {
        None => io,
        Some(inner) => match (inner.downcast_ref::<NotConnected>(), inner.downcast_ref::<ureq::Error>()) {
            (Some(NotConnected(error)), _) | (_, Some(error)) => cause(error),
            (None, None) => inner,
        },
    }
}

/// Tests for an error of a request that was never sent.
pub fn is_not_connected(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<NotConnected>()))
}

/// Marks the errors of a connector as [`NotConnected`].
#[derive(Debug)]
pub struct MarkErrors<C>(pub C);

impl<In: Transport, C: Connector<In>> Connector<In> for MarkErrors<C> {
    type Out = C::Out;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        HAS_CONNECTED.set(true);
        self.0.connect(details, chained).map_err(|error| io::Error::other(NotConnected(error)).into())
    }
}

/// Connects to the cluster's host.
pub struct ClusterConnector {
    lookup: Arc<HostLookup>,
    host: String,
    port: u16,
    tls: Option<TlsEndpoint>,
    tunnel: Option<Tunnel>,
}

/// An HTTP proxy that tunnels by CONNECT.
struct Tunnel {
    tls: Option<TlsEndpoint>,
    authorization: Option<String>,
}

impl ClusterConnector {
    /// A connector to (host, port) with `tls` for https. A SOCKS `proxy` is left to ureq. `lookup` is for the host of
    /// the first connection.
    ///
    /// # Errors
    /// [`TlsError`] if the proxy's name or CA is not usable.
    pub fn new(
        lookup: Arc<HostLookup>,
        (host, port): (&str, u16),
        tls: Option<TlsEndpoint>,
        proxy: Option<&Proxy>,
        ca: Option<&[u8]>,
    ) -> Result<Self, TlsError> {
        let tunnel = match proxy {
            Some(proxy) if !is_socks(proxy) => Some(Tunnel::new(proxy, ca)?),
            _ => None,
        };
        Ok(Self { lookup, host: host.trim_matches(['[', ']']).to_owned(), port, tls, tunnel })
    }

    /// Connects by TCP. A name server or host that drops packets is as unreachable as one that refuses them.
    fn tcp<In: Transport>(&self, details: &ConnectionDetails) -> Result<Box<dyn Transport>, ureq::Error> {
        match self.try_tcp::<In>(details) {
            Err(ureq::Error::Timeout(_)) => {
                Err(io::Error::new(io::ErrorKind::NotConnected, "connection attempt timed out").into())
            }
            other => other,
        }
    }

    fn try_tcp<In: Transport>(&self, details: &ConnectionDetails) -> Result<Box<dyn Transport>, ureq::Error> {
        let mut list = details.resolver.empty();
        let addrs = self.lookup.addresses(limit(remaining(details)?))?;
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
        let transport = TcpConnector::default().connect(&details, None::<In>)?;
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
        let tls = match proxy.protocol() {
            ProxyProtocol::Https => Some(TlsEndpoint::proxy(proxy.host().trim_matches(['[', ']']), ca)?),
            _ => None,
        };
        let authorization = (proxy.username().is_some() || proxy.password().is_some()).then(|| {
            let pair = format!("{}:{}", proxy.username().unwrap_or_default(), proxy.password().unwrap_or_default());
            base64::engine::general_purpose::STANDARD.encode(pair)
        });
        Ok(Self { tls, authorization })
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

/// Returns a timeout of ureq, or that of a connection where ureq has none.
fn limit(timeout: NextTimeout) -> std::time::Duration {
    match timeout.after {
        Duration::Exact(limit) => limit,
        Duration::NotHappening => CONNECT_TIMEOUT,
    }
}

/// Resolves SOCKS proxies only. [`ClusterConnector`] resolves any other host when it connects.
pub struct DeferredResolver(pub Arc<HostLookup>);

impl fmt::Debug for DeferredResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeferredResolver")
    }
}

impl Resolver for DeferredResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut list = self.empty();
        match config.proxy() {
            Some(proxy) if proxy.uri() == uri => {
                let addrs = self.0.addresses(limit(timeout))?;
                addrs.into_iter().take(MAX_ADDRESSES).for_each(|addr| list.push(addr));
            }
            // ureq requires an address; the connector ignores this one.
            _ => list.push(SocketAddr::from(([0, 0, 0, 0], 0))),
        }
        Ok(list)
    }
}
