//! The certificates under tests/data/tls (made by its make.sh) and the TLS settings of the tests' own API server.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::PathBuf;
use std::sync::Arc;

/// A file of tests/data/tls, for example `ca.pem`.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
}

pub fn pem(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// A PEM file as the `*-data` fields of a kubeconfig carry it.
pub fn base64(name: &str) -> String {
    encode(pem(name).as_bytes())
}

pub fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The certificates of a PEM file, as they go over the wire.
pub fn der(name: &str) -> Vec<Vec<u8>> {
    certificates(name).iter().map(|certificate| certificate.to_vec()).collect()
}

/// TLS for the API server: `identity` names its certificate; clients are asked for one of the client CA where wanted.
pub fn server_config(identity: &str, ask_clients: bool) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = if ask_clients {
        let mut roots = RootCertStore::empty();
        roots.add(certificates("client-ca.pem").remove(0)).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(path(&format!("{identity}.key.pem"))).unwrap();
    Arc::new(builder.with_single_cert(certificates(&format!("{identity}.pem")), key).unwrap())
}

fn certificates(name: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path(name)).unwrap().map(Result::unwrap).collect()
}
