//! A service's certificate and its key.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use marill_net::tls::{pin_of, read_certificates, read_key, server_config};
use marill_numeric::hex;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    error::{StartError, StateError},
    secret_files::write_secret,
};

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
    pub fn identity(&self, state: &Path) -> Result<Option<Identity>, StartError> {
        match self {
            Self::Off => Ok(None),
            Self::SelfSigned => Identity::read_or_create(state).map(Some),
            Self::Files { certificate, key } => Identity::from_files(certificate, key).map(Some),
        }
    }
}

/// That a certificate is one, and is valid now; who signed it is its clients' business.
fn check_dates(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let parsed = EndEntityCert::try_from(certificate)
        .map_err(|error| format!("it is no certificate ({error})"))?;
    let day =
        |time: UnixTime| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(time.as_secs()));
    match parsed.verify_for_usage(
        &[],
        &[],
        &[],
        UnixTime::now(),
        KeyUsage::server_auth(),
        None,
        None,
    ) {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            Err(format!("it has expired ({})", day(not_after)))
        }
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => Err(format!(
            "it is not valid yet ({}); is this machine's clock right?",
            day(not_before)
        )),
        // Nothing is trusted here, so that it ends with an unknown issuer in any other case.
        _ => Ok(()),
    }
}

/// The last second of year 9999, behind which no certificate's date can lie.
const LAST_SECOND: u64 = 253_402_300_799;

/// When a certificate ends; none where that cannot be read, or is never.
pub(crate) fn end_of(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    let last = UnixTime::since_unix_epoch(Duration::from_secs(LAST_SECOND));
    let usage = KeyUsage::server_auth();
    match parsed.verify_for_usage(&[], &[], &[], last, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            Some(UNIX_EPOCH + Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
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
    /// [`StateError::Io`]; [`StartError::Tls`] for files that are no certificate and key.
    pub fn read_or_create(state: &Path) -> Result<Self, StartError> {
        let certificate_path = state.join("certificate.der");
        let key_path = state.join("key.der");
        let tls = |error: &dyn std::fmt::Display| StartError::Tls(error.to_string());
        let certificate = match std::fs::read(&certificate_path) {
            Ok(certificate) => certificate,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let made = rcgen::generate_simple_self_signed(vec!["marill".to_string()]);
                let made = made.map_err(|error| tls(&error))?;
                // The certificate comes last: where it is, the key is complete. A key alone is left
                // by a crash.
                let _ = std::fs::remove_file(&key_path);
                write_secret(&key_path, made.signing_key.serialized_der())?;
                write_secret(&certificate_path, made.cert.der())?;
                made.cert.der().to_vec()
            }
            Err(source) => {
                return Err(StateError::io(certificate_path)(source).into());
            }
        };
        let key = std::fs::read(&key_path).map_err(StateError::io(&key_path))?;
        let certificate = CertificateDer::from(certificate);
        let made_anew = |reason: &dyn std::fmt::Display| StartError::BadIdentity {
            path: certificate_path.clone(),
            reason: reason.to_string(),
            hint: format!(
                "delete `{}` and `{}`, and new ones are made; clients then need the address that \
                 is printed",
                certificate_path.display(),
                key_path.display()
            ),
        };
        check_dates(&certificate).map_err(|reason| made_anew(&reason))?;
        let pin = hex(&pin_of(&certificate));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let config = server_config(vec![certificate], key).map_err(|error| made_anew(&error))?;
        Ok(Self {
            config,
            pin,
            vouched: false,
        })
    }

    /// Reads a certificate with its chain and its key, as authorities hand them out.
    ///
    /// # Errors
    /// [`StateError::Io`]; [`StartError::Tls`] where the two do not belong together.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, StartError> {
        let chain = read_certificates(certificate).map_err(StateError::io(certificate))?;
        let key_path = key;
        let key = read_key(key).map_err(StateError::io(key))?;
        let bad = |reason: String, hint: &str| {
            let path = certificate.to_path_buf();
            let hint = hint.to_string();
            StartError::BadIdentity { path, reason, hint }
        };
        for link in &chain {
            let hint = "have the certificate renewed, and start the service again";
            check_dates(link).map_err(|reason| bad(reason, hint))?;
        }
        let pin = hex(&pin_of(&chain[0]));
        let hint = format!(
            "`{}` has to be the key of its first certificate",
            key_path.display()
        );
        let config = server_config(chain, key).map_err(|error| bad(error.to_string(), &hint))?;
        Ok(Self {
            config,
            pin,
            vouched: true,
        })
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// A certificate for these years and its key, in two files.
    fn files(folder: &Path, from: i32, to: i32) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let paths = (folder.join("certificate.pem"), folder.join("key.pem"));
        std::fs::write(&paths.0, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    #[test]
    fn a_certificate_is_shown_only_while_it_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        for (from, to, said) in [
            (1990, 2001, Some("expired (Mon, 01 Jan 2001")),
            (2990, 3001, Some("not valid yet")),
            (2001, 3001, None),
        ] {
            let (certificate, key) = files(folder.path(), from, to);
            let identity = Identity::from_files(&certificate, &key);
            let error = identity.map(|_| ()).map_err(|error| error.to_string());
            match said {
                None => error.unwrap(),
                Some(said) => {
                    let error = error.unwrap_err();
                    assert!(
                        error.contains(said)
                            && error.contains("certificate.pem")
                            && error.contains("hint: "),
                        "{error}"
                    );
                }
            }
        }
        let (certificate, _) = files(folder.path(), 2001, 3001);
        std::fs::write(
            folder.path().join("other.pem"),
            KeyPair::generate().unwrap().serialize_pem(),
        )
        .unwrap();
        let error = Identity::from_files(&certificate, &folder.path().join("other.pem"))
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains("other.pem"), "{error}");
    }

    #[test]
    fn the_end_of_a_certificate_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = files(folder.path(), 2001, 3001);
        let end = end_of(&read_certificates(&path).unwrap()[0]).unwrap();
        let told = httpdate::fmt_http_date(end);
        assert_eq!(told, "Thu, 01 Jan 3001 00:00:00 GMT");
        assert_eq!(end_of(&CertificateDer::from(b"none".as_slice())), None);
    }

    #[test]
    fn a_damaged_certificate_of_our_own_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let pin = Identity::read_or_create(folder.path())
            .unwrap()
            .pin()
            .to_string();
        assert_eq!(Identity::read_or_create(folder.path()).unwrap().pin(), pin);
        let path = folder.path().join("certificate.der");
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&[][..], &whole[..whole.len() / 2], b"certificate"] {
            std::fs::write(&path, damaged).unwrap();
            let error = Identity::read_or_create(folder.path())
                .map(|_| ())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("certificate.der` cannot be used") && error.contains("hint: delete"),
                "{error}"
            );
        }
        std::fs::write(&path, &whole).unwrap();
        std::fs::write(folder.path().join("key.der"), b"key").unwrap();
        let error = Identity::read_or_create(folder.path())
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("key.der"), "{error}");
    }
}
