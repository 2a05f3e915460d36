//! TLS: PEM text to a configuration, and the transport layer for ureq.
//!
//! ureq's own TLS layer takes the name to verify from the URL only. A kubeconfig's tls-server-name replaces that name,
//! hence this layer. rustls does the handshake and all checks.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, InconsistentKeys, RootCertStore, SignatureScheme,
    StreamOwned,
};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, LazyBuffers, NextTimeout, Transport, TransportAdapter};

use crate::kube::error::TlsError;

/// The verification settings of the cluster's entry in the kubeconfig.
#[derive(Debug, Default)]
pub struct Trust {
    /// PEM of the cluster's CAs; `None` selects the system's CAs.
    pub ca: Option<Vec<u8>>,
    /// Disables verification.
    pub insecure: bool,
    /// The name for SNI and verification, instead of the URL's host.
    pub server_name: Option<String>,
}

/// A client certificate with its chain and key.
pub struct Identity(Arc<CertifiedKey>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} certificates, key <set>)", self.0.cert.len())
    }
}

impl Identity {
    /// Parses a chain (sent whole) and a key in PKCS#1, PKCS#8 or SEC1 form. Other blocks, such as EC PARAMETERS, are
    /// ignored.
    ///
    /// # Errors
    /// [`TlsError`] if one is missing or malformed, or the key does not belong to the certificate.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates(chain)?;
        let key = rustls_pemfile::private_key(&mut &*key)
            .map_err(|_| TlsError::BadPem)?
            .ok_or(TlsError::NoPem { expected: "private key" })?;
        let key = provider().key_provider.load_private_key(key).map_err(TlsError::Rejected)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Err(error @ rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(TlsError::Rejected(error))
            }
            // rustls cannot parse X.509 version 1, which openssl makes by default. The server can, so it decides.
            _ => Ok(Self(Arc::new(certified))),
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut &*pem).collect();
    match found.map_err(|_| TlsError::BadPem)? {
        found if found.is_empty() => Err(TlsError::NoPem { expected: "certificate" }),
        found => Ok(found),
    }
}

/// Builds the configuration of a TLS client. All connections that share it resume each other's sessions.
///
/// # Errors
/// [`TlsError`] if the CAs or the identity are not usable.
fn client_config(trust: &Trust, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rejected)?;
    let builder = if trust.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerifier(provider())))
    } else {
        builder.with_root_certificates(match &trust.ca {
            Some(pem) => roots(certificates(pem)?)?,
            None => system_roots()?,
        })
    };
    let config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.0)))),
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(found: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match store.add_parsable_certificates(found) {
        (0, _) => Err(TlsError::NoPem { expected: "CA certificate" }),
        _ => Ok(store),
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    roots(rustls_native_certs::load_native_certs().certs).map_err(|_| TlsError::NoSystemRoots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Accepts every certificate, for insecure-skip-tls-verify. The peer must still prove that it has the key.
#[derive(Debug)]
struct NoVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The remote end of a TLS connection: the client configuration and the name to verify.
pub struct TlsEndpoint {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsEndpoint {
    /// The cluster at `host`, verified by tls-server-name if the kubeconfig sets it.
    ///
    /// # Errors
    /// As [`client_config`] and [`server_name`].
    pub fn cluster(trust: &Trust, identity: Option<&Identity>, host: &str) -> Result<Self, TlsError> {
        let name = server_name(trust.server_name.as_deref().unwrap_or(host))?;
        Ok(Self { config: client_config(trust, identity)?, name })
    }

    /// An https proxy at `host`, verified by the system's CAs or, as in Go, the cluster's. It gets no client
    /// certificate.
    ///
    /// # Errors
    /// As [`client_config`] and [`server_name`].
    pub fn proxy(host: &str, ca: Option<&[u8]>) -> Result<Self, TlsError> {
        let name = server_name(host)?;
        let mut trusted = rustls_native_certs::load_native_certs().certs;
        if let Some(pem) = ca {
            trusted.extend(certificates(pem)?);
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Rejected)?;
        let config = builder.with_root_certificates(roots(trusted)?).with_no_client_auth();
        Ok(Self { config: Arc::new(config), name })
    }
}

/// Performs the TLS handshake on a connection.
///
/// # Errors
/// The handshake failed, or exceeded `timeout`.
pub fn handshake(
    endpoint: &TlsEndpoint,
    transport: Box<dyn Transport>,
    timeout: NextTimeout,
    details: &ConnectionDetails,
) -> Result<TlsTransport, ureq::Error> {
    let connection = ClientConnection::new(Arc::clone(&endpoint.config), endpoint.name.clone())
        .map_err(|error| ureq::Error::Other(error.into()))?;
    let mut socket = TransportAdapter::new(transport, details.current_time.clone());
    socket.set_timeout(timeout);
    let mut stream = StreamOwned::new(connection, socket);
    stream.conn.complete_io(&mut stream.sock)?;
    let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
    Ok(TlsTransport { buffers, unsent: Vec::new(), stream })
}

/// Parses a DNS name or an IP address (sent without SNI), with or without a URL's brackets.
///
/// # Errors
/// [`TlsError::BadName`] for any other text.
pub fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(name).map_err(|_| TlsError::BadName)
}

/// Maximum of buffered output, in bytes: the content of one TLS record.
const MAX_UNSENT: usize = 16 * 1024;

/// A TLS connection.
pub struct TlsTransport {
    buffers: LazyBuffers,
    /// Output since the last flush. ureq writes a request's head and body separately; joined into one record and one
    /// packet, they wake the server once.
    unsent: Vec<u8>,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl TlsTransport {
    fn flush(&mut self, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        if !self.unsent.is_empty() {
            self.stream.write_all(&self.unsent)?;
            self.unsent.clear();
        }
        Ok(())
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if self.unsent.len() + amount > MAX_UNSENT {
            self.flush(timeout)?;
        }
        self.unsent.extend_from_slice(&self.buffers.output()[..amount]);
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.flush(timeout)?;
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
