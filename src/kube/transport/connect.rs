//! From a host name to a connection that ureq can use: look-up, TCP, the proxy's tunnel, TLS.
//!
//! ureq's own chain looks a name up for every request, even over a live connection, and gives each step of a tunnel the
//! whole of the time. Here a name is looked up when a connection is made, and all steps share one deadline. SOCKS is left
//! to ureq, which does it well.

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
use crate::kube::transport::tls::{self, Leg};

/// Longest answer of a proxy to CONNECT, in bytes.
const ANSWER_LIMIT: usize = 16 * 1024;

/// Most addresses of one host that are tried; ureq's list has room for no more.
const ADDRESSES_MOST: usize = 16;

/// Makes connections to one host, the cluster's.
pub struct Dial {
    host: String,
    port: u16,
    tls: Option<Leg>,
    tunnel: Option<Tunnel>,
}

/// An HTTP proxy that is asked to CONNECT.
struct Tunnel {
    host: String,
    port: u16,
    tls: Option<Leg>,
    authorization: Option<String>,
}

impl Dial {
    /// `tls` is there for https. Of `proxy` only HTTP proxies concern us.
    ///
    /// # Errors
    /// The proxy's name cannot be verified.
    pub fn new(
        host: &str,
        port: u16,
        tls: Option<Leg>,
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
        let addrs = look_up(host, port, left(details)?)?;
        let mut list = details.resolver.empty();
        addrs.into_iter().take(ADDRESSES_MOST).for_each(|addr| list.push(addr));
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: list,
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: Instant::now(),
            timeout: left(details)?,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let transport = match TcpConnector::default().connect(&details, None::<In>) {
            // A host that swallows packets is as unreachable as one that refuses them: nothing has been asked of it yet.
            Err(ureq::Error::Timeout(_)) => {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "no connection in time").into());
            }
            other => other?,
        };
        transport.map(Transport::boxed).ok_or(ureq::Error::ConnectionFailed)
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dial({}:{})", self.host, self.port)
    }
}

impl<In: Transport> Connector<In> for Dial {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let mut transport = match chained {
            // Through a SOCKS proxy there is a connection already.
            Some(transport) => transport.boxed(),
            None => self.tcp::<In>(details)?,
        };
        if let Some(tunnel) = &self.tunnel {
            transport = tunnel.dig(transport, &self.host, self.port, details)?;
        }
        if let Some(leg) = &self.tls {
            transport = tls::wrap(leg, transport, left(details)?, details)?.boxed();
        }
        Ok(Some(transport))
    }
}

impl Tunnel {
    fn new(proxy: &Proxy, ca: Option<&[u8]>) -> Result<Self, TlsError> {
        let host = proxy.host().trim_matches(['[', ']']).to_owned();
        let tls = match proxy.protocol() {
            ProxyProtocol::Https => Some(Leg::proxy(&host, ca)?),
            _ => None,
        };
        let authorization = (proxy.username().is_some() || proxy.password().is_some()).then(|| {
            let pair = format!("{}:{}", proxy.username().unwrap_or_default(), proxy.password().unwrap_or_default());
            base64::engine::general_purpose::STANDARD.encode(pair)
        });
        Ok(Self { host, port: proxy.port(), tls, authorization })
    }

    /// Asks the proxy for a connection to the host, RFC 9110, section 9.3.6.
    fn dig(
        &self,
        mut transport: Box<dyn Transport>,
        host: &str,
        port: u16,
        details: &ConnectionDetails,
    ) -> Result<Box<dyn Transport>, ureq::Error> {
        if let Some(leg) = &self.tls {
            transport = tls::wrap(leg, transport, left(details)?, details)?.boxed();
        }
        let mut stream = TransportAdapter::new(transport, details.current_time.clone());
        stream.set_timeout(left(details)?);
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let authorization = match &self.authorization {
            Some(pair) => format!("Proxy-Authorization: Basic {pair}\r\n"),
            None => String::new(),
        };
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
        stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        let mut byte = [0];
        // Byte by byte out of the transport's buffer: what comes after the head belongs to the cluster.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= ANSWER_LIMIT || stream.read(&mut byte)? == 0 {
                return Err(ureq::Error::ConnectProxyFailed("the proxy gave no HTTP answer".to_owned()));
            }
            head.push(byte[0]);
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        let code = answer.parse(&head).ok().and(answer.code);
        match code {
            Some(200..=299) => Ok(stream.into_inner()),
            // The proxy does not reach the cluster, which may pass.
            Some(code @ 500..) => Err(io::Error::other(format!("the proxy answered {code}")).into()),
            Some(code) => Err(ureq::Error::ConnectProxyFailed(format!("the proxy answered {code}"))),
            None => Err(ureq::Error::ConnectProxyFailed("the proxy gave no HTTP answer".to_owned())),
        }
    }
}

/// The proxy speaks SOCKS, for which ureq has a connector.
pub fn is_socks(proxy: &Proxy) -> bool {
    !matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
}

/// What is left of the time for making this connection.
fn left(details: &ConnectionDetails) -> Result<NextTimeout, ureq::Error> {
    let mut timeout = details.timeout;
    if let (Duration::Exact(limit), Instant::Exact(began)) = (timeout.after, details.now) {
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(ureq::Error::Timeout(timeout.reason));
        }
        timeout.after = Duration::Exact(left);
    }
    Ok(timeout)
}

/// The addresses of a host. The system's resolver knows no deadline, so that a name is looked up on a thread of its own.
fn look_up(host: &str, port: u16, timeout: NextTimeout) -> Result<Vec<SocketAddr>, ureq::Error> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    thread::Builder::new().name("look-up".into()).spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // Nobody may be waiting any more.
        let _ = sender.send(found);
    })?;
    let found = match timeout.after {
        Duration::Exact(limit) => receiver.recv_timeout(limit).map_err(|_| ureq::Error::Timeout(timeout.reason))?,
        Duration::NotHappening => receiver.recv().map_err(io::Error::other)?,
    }?;
    if found.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(found) }
}

/// Looks up nothing but SOCKS proxies: for any other host [`Dial`] does it, when there is a connection to make.
#[derive(Debug)]
pub struct Names;

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut list = self.empty();
        match config.proxy() {
            Some(proxy) if proxy.uri() == uri => {
                let addrs = look_up(proxy.host().trim_matches(['[', ']']), proxy.port(), timeout)?;
                addrs.into_iter().take(ADDRESSES_MOST).for_each(|addr| list.push(addr));
            }
            // ureq wants an address; nobody uses this one.
            _ => list.push(SocketAddr::from(([0, 0, 0, 0], 0))),
        }
        Ok(list)
    }
}
