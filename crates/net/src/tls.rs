//! TLS 1.3. A service is believed by its one pinned certificate, or because a certificate authority
//! vouches for its name.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use sha2::{Digest, Sha256};

use crate::socket::{CountedTcp, Interest, wait};

/// SHA-256 of a certificate in DER.
pub type Pin = [u8; 32];

/// Whose word is taken for a service being itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The one certificate with this digest.
    Pin(Pin),
    Authorities(Authorities),
}

/// Certificate authorities that may vouch for a host's name.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<RootCertStore>);

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.0.roots == other.0.roots
    }
}

impl Eq for Authorities {}

impl Authorities {
    /// Those that browsers believe, as Mozilla lists them.
    #[must_use]
    pub fn public() -> Self {
        Self(Arc::new(RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        }))
    }

    /// Those whose certificates are in a PEM file, and no others.
    ///
    /// # Errors
    /// A file that cannot be read or holds no certificate.
    pub fn from_pem(path: &Path) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(path)? {
            roots.add(certificate).map_err(io::Error::other)?;
        }
        Ok(Self(Arc::new(roots)))
    }
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// A file that cannot be read or holds no certificate.
pub fn read_certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(io::Error::other(
            "there is no certificate in PEM form in it",
        )),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// The private key of a PEM file.
///
/// # Errors
/// A file that cannot be read or holds no key.
pub fn read_key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&std::fs::read(path)?).map_err(io::Error::other)
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The digest that clients pin.
#[must_use]
pub fn pin_of(certificate: &CertificateDer<'_>) -> Pin {
    Sha256::digest(certificate).into()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a service needs to answer handshakes.
///
/// # Errors
/// A key that does not fit the certificate.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(Arc::new(
        config.with_no_client_auth().with_single_cert(chain, key)?,
    ))
}

/// A connection whose bytes below the encryption are counted.
pub enum TlsSocket {
    Client(StreamOwned<ClientConnection, CountedTcp>),
    Server(StreamOwned<ServerConnection, CountedTcp>),
}

impl TlsSocket {
    /// Shakes hands with a service and checks its certificate; the socket is non-blocking
    /// afterward.
    ///
    /// # Errors
    /// A certificate that is not trusted, a peer that does not speak TLS 1.3, or one that is silent
    /// for ten seconds.
    pub fn connect(mut tcp: CountedTcp, host: &str, trust: &Trust) -> io::Result<Self> {
        let provider = provider();
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?;
        let config = match trust {
            Trust::Pin(pin) => {
                let verifier = Arc::new(PinVerifier {
                    pin: *pin,
                    provider,
                });
                config
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
            }
            Trust::Authorities(authorities) => config.with_root_certificates(authorities.0.clone()),
        };
        let config = config.with_no_client_auth();
        let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
        let mut connection =
            ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        tcp.set_nonblocking(true)?;
        shake_hands(
            &mut connection,
            &mut tcp,
            Instant::now() + HANDSHAKE_TIMEOUT,
        )?;
        Ok(Self::Client(StreamOwned::new(connection, tcp)))
    }
}

impl TlsSocket {
    /// The certificates that the peer showed, its own first.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        let shown = match self {
            Self::Client(stream) => stream.conn.peer_certificates(),
            Self::Server(stream) => stream.conn.peer_certificates(),
        };
        shown.map(<[_]>::to_vec).unwrap_or_default()
    }
}

/// Ends at the deadline, however often the service sends a byte.
fn shake_hands(
    connection: &mut ClientConnection,
    tcp: &mut CountedTcp,
    deadline: Instant,
) -> io::Result<()> {
    while connection.is_handshaking() {
        match connection.complete_io(tcp) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let interest = if connection.wants_write() {
                    Interest::Writable
                } else {
                    Interest::Readable
                };
                if !wait(tcp, interest, deadline)? {
                    let seconds = HANDSHAKE_TIMEOUT.as_secs();
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("it took more than {seconds} s"),
                    ));
                }
            }
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

impl Read for TlsSocket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Client(stream) => stream.read(buf),
            Self::Server(stream) => stream.read(buf),
        }
    }
}

impl Write for TlsSocket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Client(stream) => stream.write(buf),
            Self::Server(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Client(stream) => stream.flush(),
            Self::Server(stream) => stream.flush(),
        }
    }
}

impl AsFd for TlsSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Client(stream) => stream.sock.as_fd(),
            Self::Server(stream) => stream.sock.as_fd(),
        }
    }
}

/// Accepts the one certificate that was named, whoever signed it; its key must still sign the
/// handshake.
#[derive(Debug)]
struct PinVerifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match pin_of(end_entity) == self.pin {
            true => Ok(ServerCertVerified::assertion()),
            false => {
                let reason = "it shows another certificate than the one that its address names \
                    behind `#`\n\
                    hint: ask its operator for the address that it prints now";
                Err(Error::General(reason.into()))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
