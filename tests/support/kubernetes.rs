//! A minimal Kubernetes API client: TLS with the kubeconfig's CA, its token, JSON.

use super::TIMEOUT;
use super::http::{Response, find, read_body, read_headers, read_line};
use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

pub const MERGE: &str = "application/merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// A client with one kubeconfig's server and token. The server URL must hold an IP address.
#[derive(Clone)]
pub struct Kubernetes {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    headers: Vec<(String, String)>,
}

/// An open watch.
pub struct Watch(Stream);

impl Kubernetes {
    /// Reads the CA and the token from a kubeconfig written by the simulator.
    pub fn new(kubeconfig: &Path) -> Kubernetes {
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let config: Value = serde_yaml::from_str(&text).unwrap();
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let address = cluster["server"].as_str().unwrap().strip_prefix("https://").unwrap().parse().unwrap();
        let ca = cluster["certificate-authority-data"].as_str().unwrap();
        let ca = base64::engine::general_purpose::STANDARD.decode(ca).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = Arc::new(tls.with_root_certificates(roots).with_no_client_auth());
        Kubernetes { address, tls, headers: Vec::new() }.with_token(user["token"].as_str().unwrap())
    }

    /// The same client with this header on every request; replaces a header of the same name.
    pub fn with(&self, name: &str, value: &str) -> Kubernetes {
        let mut headers = self.headers.clone();
        headers.retain(|(key, _)| key != name);
        headers.push((name.to_owned(), value.to_owned()));
        Kubernetes { headers, ..self.clone() }
    }

    pub fn with_token(&self, token: &str) -> Kubernetes {
        self.with("Authorization", &format!("Bearer {token}"))
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.json("GET", path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.json("POST", path, Some(("application/json", body)))
    }

    pub fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.json("PUT", path, Some(("application/json", body)))
    }

    pub fn patch(&self, path: &str, media_type: &str, body: &Value) -> (u16, Value) {
        self.json("PATCH", path, Some((media_type, body)))
    }

    pub fn delete(&self, path: &str, options: &Value) -> (u16, Value) {
        self.json("DELETE", path, Some(("application/json", options)))
    }

    /// The items of a list.
    pub fn items(&self, path: &str) -> Vec<Value> {
        let (status, list) = self.get(path);
        assert_eq!(status, 200, "GET {path}: {list}");
        list["items"].as_array().unwrap_or_else(|| panic!("GET {path}: {list}")).clone()
    }

    fn json(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> (u16, Value) {
        let text = body.map(|(_, body)| body.to_string()).unwrap_or_default();
        let media_type = body.map(|(media_type, _)| format!("Content-Type: {media_type}\r\n")).unwrap_or_default();
        let framing = format!("{media_type}Content-Length: {}\r\n", text.len());
        let response = self.send(&format!("{method} {path}"), &framing, text.as_bytes());
        let response = response.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        (response.status, serde_json::from_slice(&response.body).unwrap_or_else(|_| response.text().into()))
    }

    /// Sends one request with these header lines and this body on a new connection.
    pub fn send(&self, line: &str, framing: &str, body: &[u8]) -> io::Result<Response> {
        let mut stream = self.open(line, framing, body)?;
        let (status, headers) = read_head(&mut stream)?;
        let body = read_body(&mut stream, &headers)?;
        Ok(Response { status, headers, body })
    }

    /// Starts a watch; panics unless the response is a chunked 200.
    pub fn watch(&self, path: &str) -> Watch {
        let mut stream = self.open(&format!("GET {path}"), "", b"").unwrap();
        let (status, headers) = read_head(&mut stream).unwrap();
        assert_eq!((status, find(&headers, "Transfer-Encoding")), (200, Some("chunked")), "GET {path}");
        Watch(stream)
    }

    fn open(&self, line: &str, framing: &str, body: &[u8]) -> io::Result<Stream> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let tls = ClientConnection::new(self.tls.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(tls, socket);
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{line} HTTP/1.1\r\nHost: local\r\nConnection: close\r\n{headers}{framing}\r\n");
        stream.write_all(&[head.as_bytes(), body].concat())?;
        stream.flush()?;
        Ok(BufReader::new(stream))
    }
}

impl Watch {
    /// The next event, one per line; returns `None` at the end of the watch.
    pub fn next(&mut self) -> Option<Value> {
        loop {
            let line = read_line(&mut self.0).ok()?;
            // The other lines are chunk sizes and chunk ends.
            if line.starts_with('{') {
                return Some(serde_json::from_str(&line).unwrap());
            }
            if line == "0" {
                return None;
            }
        }
    }

    /// Skips events until the first wanted one.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        while let Some(event) = self.next() {
            if wanted(&event) {
                return event;
            }
        }
        panic!("the watch ended before {what}");
    }
}

fn read_head(stream: &mut Stream) -> io::Result<(u16, Vec<(String, String)>)> {
    let line = read_line(stream)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or_else(|| io::Error::other(format!("status line {line:?}")))?, read_headers(stream)?))
}
