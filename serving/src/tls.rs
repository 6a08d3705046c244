//! A service's certificate and its key.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use marill_net::tls::{pin_of, read_certificates, read_key, server_config};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::ServingError;
use crate::secret_files::write_secret;
use crate::wire::hex;

/// Whether and as whom a service speaks TLS.
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// Plain text, on this machine only.
    #[default]
    Off,
    /// A certificate of its own, made on first use and kept in the state folder; clients pin it.
    SelfSigned,
    /// A certificate that an authority vouches for, with its chain, and its key, both in PEM form.
    Files { certificate: PathBuf, key: PathBuf },
}

impl Tls {
    /// # Errors
    /// As [`Identity::read_or_create`] and [`Identity::from_files`].
    pub fn identity(&self, state: &Path) -> Result<Option<Identity>, ServingError> {
        match self {
            Self::Off => Ok(None),
            Self::SelfSigned => Identity::read_or_create(state).map(Some),
            Self::Files { certificate, key } => Identity::from_files(certificate, key).map(Some),
        }
    }
}

/// A certificate and its key.
pub struct Identity {
    config: Arc<ServerConfig>,
    pin: String,
    vouched: bool,
}

impl Identity {
    /// Reads `certificate.der` and `key.der` in a service's folder, and makes them on first use.
    ///
    /// # Errors
    /// [`ServingError::Io`]; [`ServingError::Tls`] for files that are no certificate and key.
    pub fn read_or_create(state: &Path) -> Result<Self, ServingError> {
        let (certificate_path, key_path) = (state.join("certificate.der"), state.join("key.der"));
        let tls = |error: &dyn std::fmt::Display| ServingError::Tls(error.to_string());
        let certificate = match std::fs::read(&certificate_path) {
            Ok(certificate) => certificate,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let made = rcgen::generate_simple_self_signed(vec!["marill".to_string()]);
                let made = made.map_err(|error| tls(&error))?;
                // The certificate comes last: where it is, the key is complete. A key alone is left by a crash.
                let _ = std::fs::remove_file(&key_path);
                write_secret(&key_path, made.signing_key.serialized_der())?;
                write_secret(&certificate_path, made.cert.der())?;
                made.cert.der().to_vec()
            }
            Err(source) => return Err(ServingError::Io { path: certificate_path, source }),
        };
        let key = std::fs::read(&key_path).map_err(ServingError::io(&key_path))?;
        let certificate = CertificateDer::from(certificate);
        let pin = hex(&pin_of(&certificate));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        Ok(Self { config: server_config(vec![certificate], key).map_err(|error| tls(&error))?, pin, vouched: false })
    }

    /// Reads a certificate with its chain and its key, as authorities hand them out.
    ///
    /// # Errors
    /// [`ServingError::Io`]; [`ServingError::Tls`] where the two do not belong together.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, ServingError> {
        let chain = read_certificates(certificate).map_err(ServingError::io(certificate))?;
        let key = read_key(key).map_err(ServingError::io(key))?;
        let pin = hex(&pin_of(&chain[0]));
        let config = server_config(chain, key).map_err(|error| ServingError::Tls(error.to_string()))?;
        Ok(Self { config, pin, vouched: true })
    }

    /// An authority vouches for it, so clients need no digest.
    pub fn is_vouched(&self) -> bool {
        self.vouched
    }

    /// The certificate's digest in hexadecimal.
    pub fn pin(&self) -> &str {
        &self.pin
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}
