//! Certificates under tests/data/tls (made by make.sh there) and the TLS settings of the scripted servers.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use std::path::PathBuf;
use std::sync::Arc;

/// Treatment of client certificates by the API server.
#[derive(Clone, Copy)]
pub enum ClientCerts {
    NotRequested,
    /// Requests a certificate of the client CA and verifies it; a connection without one is accepted.
    Verified,
    /// Requests a certificate and accepts any.
    AnyAccepted,
}

/// A file of tests/data/tls, for example `ca.pem`.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
}

pub fn pem(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// A PEM file in base64, as in the `*-data` fields of a kubeconfig.
pub fn base64(name: &str) -> String {
    encode(pem(name).as_bytes())
}

pub fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The certificates of a PEM file in DER.
pub fn der(name: &str) -> Vec<Vec<u8>> {
    certificates(name).iter().map(|certificate| certificate.to_vec()).collect()
}

/// TLS settings of a server with the certificate `identity`.
pub fn server_config(identity: &str, clients: ClientCerts) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        ClientCerts::NotRequested => builder.with_no_client_auth(),
        ClientCerts::Verified => {
            let mut roots = RootCertStore::empty();
            roots.add(certificates("client-ca.pem").remove(0)).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
        }
        ClientCerts::AnyAccepted => builder.with_client_cert_verifier(Arc::new(AcceptAny(provider))),
    };
    let key = PrivateKeyDer::from_pem_file(path(&format!("{identity}.key.pem"))).unwrap();
    Arc::new(builder.with_single_cert(certificates(&format!("{identity}.pem")), key).unwrap())
}

fn certificates(name: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path(name)).unwrap().map(Result::unwrap).collect()
}

/// Accepts any certificate. rustls refuses X.509 version 1, which API servers accept.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ClientCertVerifier for AcceptAny {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
