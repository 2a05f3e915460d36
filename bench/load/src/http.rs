//! The part of HTTP/1.1 over TCP or TLS that the systems under test use. It decodes nothing while the clock runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::Result;

/// Longest wait for the next bytes, so that no run hangs.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Destination and constant parts of all requests.
pub struct Target {
    /// host:port
    authority: String,
    path: String,
    headers: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Target {
    /// Parses `url`. `headers` are whole lines; the array has the files of the CA, the client's certificate and its key.
    pub fn new(url: &str, headers: String, [ca, certificate, key]: [Option<&str>; 3]) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").ok_or("the URL has no scheme")?;
        let (authority, path) = rest.split_once('/').ok_or("the URL has no path")?;
        let mut tls = None;
        if scheme == "https" {
            let mut roots = RootCertStore::empty();
            for ca in CertificateDer::pem_file_iter(ca.ok_or("https needs --ca")?)? {
                roots.add(ca?)?;
            }
            let builder = ClientConfig::builder().with_root_certificates(roots);
            let config = match certificate.zip(key) {
                Some((certificate, key)) => builder.with_client_auth_cert(
                    CertificateDer::pem_file_iter(certificate)?.collect::<std::result::Result<_, _>>()?,
                    PrivateKeyDer::from_pem_file(key)?,
                )?,
                None => builder.with_no_client_auth(),
            };
            let host = authority.rsplit_once(':').ok_or("the URL has no port")?.0.to_owned();
            tls = Some((Arc::new(config), ServerName::try_from(host)?));
        }
        Ok(Self { authority: authority.to_owned(), path: format!("/{path}"), headers, tls })
    }

    /// Returns a request head without the body's length and the empty line.
    pub fn head(&self, method: &str, close: bool) -> String {
        let close = if close { "Connection: close\r\n" } else { "" };
        format!("{method} {} HTTP/1.1\r\nHost: {}\r\n{}{close}", self.path, self.authority, self.headers)
    }

    pub fn connect(&self) -> Result<Connection> {
        let tcp = TcpStream::connect(&self.authority)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(TIMEOUT))?;
        tcp.set_write_timeout(Some(TIMEOUT))?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some((config, name)) => {
                Box::new(StreamOwned::new(ClientConnection::new(config.clone(), name.clone())?, tcp))
            }
            None => Box::new(tcp),
        };
        Ok(Connection(BufReader::with_capacity(64 * 1024, stream)))
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub struct Connection(BufReader<Box<dyn Stream>>);

impl Connection {
    /// Sends a request and reads the response to its last byte.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Response> {
        self.0.get_mut().write_all(request)?;
        self.0.get_mut().flush()?;
        let mut response = Response::default();
        let line = self.line(&mut response)?;
        response.status = line.split(' ').nth(1).ok_or("no status")?.parse()?;
        let (mut length, mut chunked) = (None, false);
        loop {
            let line = self.line(&mut response)?.to_ascii_lowercase();
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", value)) => length = Some(value.parse()?),
                Some(("transfer-encoding", value)) => chunked = value == "chunked",
                Some(("content-encoding", value)) => response.gzip = value == "gzip",
                Some(("content-type", value)) => response.protobuf = value.contains("protobuf"),
                Some(_) => {}
                None => break,
            }
        }
        if chunked {
            while let size @ 1.. = usize::from_str_radix(&self.line(&mut response)?, 16)? {
                self.body(size, &mut response)?;
                self.line(&mut response)?;
            }
            self.line(&mut response)?;
        } else if response.status != 304 {
            self.body(length.ok_or("a response without a length")?, &mut response)?;
        }
        Ok(response)
    }

    fn line(&mut self, response: &mut Response) -> Result<String> {
        let mut line = String::new();
        response.length += self.0.read_line(&mut line)? as u64;
        Ok(line.strip_suffix("\r\n").ok_or("truncated response")?.to_owned())
    }

    fn body(&mut self, length: usize, response: &mut Response) -> Result<()> {
        let begin = response.body.len();
        response.body.resize(begin + length, 0);
        self.0.read_exact(&mut response.body[begin..])?;
        response.length += length as u64;
        Ok(())
    }
}

/// A response as received; `length` counts all its bytes, head included.
#[derive(Default)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
    pub length: u64,
    gzip: bool,
    protobuf: bool,
}

impl Response {
    /// Returns the number of pods in a list. In JSON it counts the key "namespace", which a PodList and the response of /config
    /// have once per pod; in protobuf it counts the items.
    pub fn pods(&self) -> Result<usize> {
        let mut plain = Vec::new();
        match self.gzip {
            true => _ = flate2::read::GzDecoder::new(&self.body[..]).read_to_end(&mut plain)?,
            false => plain.extend_from_slice(&self.body),
        }
        if !self.protobuf {
            return Ok(memchr::memmem::find_iter(&plain, br#""namespace":""#).count());
        }
        // k8s.io/apimachinery/pkg/runtime/serializer/protobuf: a magic number, then an Unknown whose field 2 is the list,
        // whose fields 2 are the pods.
        let unknown = plain.strip_prefix(b"k8s\0").ok_or("not Kubernetes' protobuf")?;
        let list = fields(unknown)?.into_iter().find(|(number, _)| *number == 2).ok_or("an empty Unknown")?.1;
        Ok(fields(list)?.iter().filter(|(number, _)| *number == 2).count())
    }
}

/// Returns the fields of a protobuf message whose fields are all strings, bytes or messages.
fn fields(mut message: &[u8]) -> Result<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let (tag, rest) = varint(message)?;
        let (length, rest) = varint(rest)?;
        if tag & 7 != 2 {
            return Err("a protobuf field that is not length-delimited".into());
        }
        let (value, rest) = rest.split_at_checked(usize::try_from(length)?).ok_or("truncated protobuf")?;
        found.push((tag >> 3, value));
        message = rest;
    }
    Ok(found)
}

fn varint(bytes: &[u8]) -> Result<(u64, &[u8])> {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).ok_or("truncated protobuf")? + 1;
    let value = bytes[..length].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Ok((value, &bytes[length..]))
}
