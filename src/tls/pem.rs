//! Certificates and private keys in PEM files.

use std::io;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Error, Result};

/// An [`Error::Identity`] about this file.
pub(super) fn trouble(path: &Path, problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Identity { path: path.to_owned(), problem: problem.into() }
}

pub(super) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(file).map_err(|error| trouble(file, error))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| trouble(file, format!("not readable as PEM: {}", plain(error))))?;
    if chain.is_empty() { Err(trouble(file, "there is no certificate in it (PEM is expected)")) } else { Ok(chain) }
}

pub(super) fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = std::fs::read(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => trouble(file, "the private key of the certificate is missing"),
        _ => trouble(file, error),
    })?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if text.windows(9).any(|window| window == b"ENCRYPTED") => {
            trouble(file, "the private key is encrypted: decrypt it, as with openssl pkey -in FILE -out FILE.plain")
        }
        pem::Error::NoItemsFound => trouble(file, "there is no private key in it (PEM is expected)"),
        other => trouble(file, format!("not readable as PEM: {}", plain(other))),
    })
}

/// The PEM reader's complaint, without quoting the line: that could be a line of a private key.
fn plain(error: pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end",
        pem::Error::IllegalSectionStart { .. } => "a section begins in a wrong way",
        pem::Error::Base64Decode(_) => "the base64 text is damaged",
        _ => "it is damaged",
    }
}
