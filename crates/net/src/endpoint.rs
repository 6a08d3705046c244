//! Where a service listens, and the rule that plain text stays on this machine.

use std::{
    fmt,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use rustls::{CertificateError, pki_types::CertificateDer};

use crate::{
    NetError, peer_text, proxy,
    socket::{CountedTcp, Socket, WireCount},
    tls::{Authorities, Pin, TlsSocket, Trust},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a service is and why it is believed to be that service:
/// - `http://host:port`: it is on this machine;
/// - `https://host:port#sha256-of-its-certificate`: it has this one certificate, whoever signed it;
/// - `https://host:port`: a certificate authority vouches for the host's name.
///
/// A path behind the port (`https://host/marill/`) is where a proxy in front has the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    /// In front of every path, without a slash at its end.
    prefix: String,
    trust: Option<Trust>,
}

impl Endpoint {
    /// `host:port`, as the `Host` header has it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// What stands in front of every path: nothing, or a path without a slash at its end.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The host's name or address, without a port or brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is spoken to in plain text, as only a place on this machine is.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.trust.is_none()
    }

    /// Whether it is named as a place on this machine; a name that only resolves to one is not.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse()
                .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    }

    /// Believes these authorities, instead of the public ones, where no certificate is pinned.
    #[must_use]
    pub fn trusting(mut self, authorities: &Authorities) -> Self {
        if let Some(Trust::Authorities(_)) = self.trust {
            self.trust = Some(Trust::Authorities(authorities.clone()));
        }
        self
    }

    /// Refuses plain text to another machine before anything is begun. A name without an address
    /// passes: it may have one later, and [`Endpoint::connect`] looks again.
    ///
    /// # Errors
    /// [`NetError::NotLoopback`].
    pub fn check(&self) -> Result<(), NetError> {
        if self.trust.is_some() {
            return Ok(());
        }
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        match found
            .into_iter()
            .flatten()
            .find(|address| !address.ip().is_loopback())
        {
            Some(outside) => Err(NetError::NotLoopback {
                address: outside.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// Connects, counting bytes into `count`; the socket is non-blocking.
    ///
    /// # Errors
    /// [`NetError::NotLoopback`] before a byte is sent to another machine in plain text;
    /// [`NetError::Unreachable`]; [`NetError::Untrusted`] for a certificate that is not the pinned
    /// one, or that no authority vouches for; [`NetError::Handshake`] where what answers speaks no
    /// TLS 1.3; [`NetError::BadProxy`].
    pub fn connect(&self, count: &Arc<WireCount>) -> Result<Box<dyn Socket>, NetError> {
        let stream = self.dial()?;
        self.secure(stream, count.clone())
            .map_err(|source| self.insecure(source))
    }

    /// The certificates that the service shows, its own first; none where it speaks plain text.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, NetError> {
        let Some(trust) = &self.trust else {
            return Ok(Vec::new());
        };
        let shown = CountedTcp::new(self.dial()?, Arc::default())
            .and_then(|tcp| TlsSocket::connect(tcp, &self.host, trust))
            .map_err(|source| self.insecure(source))?;
        Ok(shown.certificates())
    }

    fn dial(&self) -> Result<TcpStream, NetError> {
        let unreachable = |source| NetError::Unreachable {
            endpoint: self.to_string(),
            source,
        };
        if self.trust.is_some()
            && let Some(proxy) = proxy::to(&self.host, self.port)?
        {
            return proxy.connect(&self.authority()).map_err(unreachable);
        }
        let addresses: Vec<SocketAddr> = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(unreachable)?
            .collect();
        let outside = addresses.iter().find(|address| !address.ip().is_loopback());
        if let (Some(outside), None) = (outside, &self.trust) {
            return Err(NetError::NotLoopback {
                address: outside.to_string(),
            });
        }
        let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(unreachable(last))
    }
}

impl Endpoint {
    /// Why something that answers is not spoken to.
    fn insecure(&self, source: std::io::Error) -> NetError {
        let endpoint = self.to_string();
        match source
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                let reason = match reason {
                    CertificateError::UnknownIssuer => "no authority that is trusted here vouches \
                        for its certificate\n\
                        hint: use the whole address that the service prints, with what follows \
                        `#`, or name its authority with `--tls-ca`"
                        .into(),
                    reason => {
                        peer_text(&rustls::Error::InvalidCertificate(reason.clone()).to_string())
                    }
                };
                NetError::Untrusted { endpoint, reason }
            }
            // The words of the check of the pin.
            Some(rustls::Error::General(reason)) => NetError::Untrusted {
                endpoint,
                reason: reason.clone(),
            },
            Some(rustls::Error::InvalidMessage(_)) => {
                let reason =
                    "it speaks no TLS\nhint: plain HTTP is `http://`, on this machine only"
                        .to_string();
                NetError::Handshake {
                    endpoint,
                    source: std::io::Error::other(reason),
                }
            }
            _ => NetError::Handshake { endpoint, source },
        }
    }

    fn secure(&self, stream: TcpStream, count: Arc<WireCount>) -> std::io::Result<Box<dyn Socket>> {
        let tcp = CountedTcp::new(stream, count)?;
        match &self.trust {
            Some(trust) => Ok(Box::new(TlsSocket::connect(tcp, &self.host, trust)?)),
            None => {
                tcp.set_nonblocking(true)?;
                Ok(Box::new(tcp))
            }
        }
    }
}

/// Refuses to listen in plain text where other machines can connect.
///
/// # Errors
/// [`NetError::NotLoopback`].
pub fn check_listen(address: &SocketAddr) -> Result<(), NetError> {
    match address.ip().is_loopback() {
        true => Ok(()),
        false => Err(NetError::NotLoopback {
            address: address.to_string(),
        }),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = format!("{}{}", self.authority(), self.prefix);
        match &self.trust {
            None => write!(f, "http://{place}"),
            Some(Trust::Authorities(_)) => write!(f, "https://{place}"),
            Some(Trust::Pin(pin)) => {
                write!(f, "https://{place}#")?;
                pin.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let invalid = |reason: &'static str| NetError::BadEndpoint {
            text: text.to_string(),
            reason,
        };
        let (rest, trust) = match text.split_once("://") {
            Some(("http", rest)) => (rest, None),
            Some(("https", rest)) => {
                let bad_pin =
                    "what follows `#` is not a certificate's SHA-256 as the service prints it";
                match rest.split_once('#') {
                    None => (rest, Some(Trust::Authorities(Authorities::public()))),
                    Some((rest, pin)) => (
                        rest,
                        Some(Trust::Pin(parse_pin(pin).ok_or_else(|| invalid(bad_pin))?)),
                    ),
                }
            }
            Some(_) => return Err(invalid("only `http://` and `https://` are known")),
            None => return Err(invalid("it needs to start with `http://` or `https://`")),
        };
        if rest.contains(['?', '#', '@']) {
            return Err(invalid("it must not have a query or a user name"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let prefix = path.strip_suffix('/').unwrap_or(path);
        if !is_prefix(prefix) {
            let reason = "its path needs to be `/NAME/...` of letters, digits and `-_.~`";
            return Err(invalid(reason));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (
                host,
                port.parse()
                    .map_err(|_| invalid("the port is not a number below 65536"))?,
            ),
            _ => (authority, if trust.is_some() { 443 } else { 80 }),
        };
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_string();
        if host.is_empty() {
            return Err(invalid("the host is missing"));
        }
        Ok(Self {
            host,
            port,
            prefix: prefix.into(),
            trust,
        })
    }
}

/// Nothing, or names behind slashes, none of which is `.` or `..`.
fn is_prefix(path: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.~".contains(&c);
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.bytes().all(plain);
    path.is_empty()
        || path
            .strip_prefix('/')
            .is_some_and(|path| path.split('/').all(is_name))
}

fn parse_pin(text: &str) -> Option<Pin> {
    let mut pin = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, index) in pin.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[index..index + 2], 16).ok()?;
    }
    Some(pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse_and_print() {
        for (text, authority) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://localhost:1/", "localhost:1"),
            ("http://[::1]:9", "[::1]:9"),
            ("http://example.org", "example.org:80"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().authority(), authority);
        }
        for text in [
            "127.0.0.1:80",
            "https://a/b?c",
            "https://a//b",
            "https://a/../b",
            "https://a/b c",
            "http://a:99999",
            "http://:1",
            "http://:1/b",
            "ftp://a",
            "http://u@a",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_stands_in_front_of_every_path() {
        let pin = "0a".repeat(32);
        for (text, prefix) in [
            ("https://a.example:443/marill", "/marill"),
            ("http://127.0.0.1:1/a/b.c", "/a/b.c"),
            (&format!("https://a.example:9/m#{pin}"), "/m"),
            ("http://127.0.0.1:1", ""),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(
                (endpoint.prefix(), endpoint.to_string().as_str()),
                (prefix, text)
            );
        }
        let slash: Endpoint = "https://a.example/marill/".parse().unwrap();
        assert_eq!((slash.prefix(), slash.port), ("/marill", 443));
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for (text, here) in [
            ("http://127.0.0.1:1", true),
            ("http://localhost:1", true),
            ("https://[::1]:1", true),
            ("https://example.org", false),
            ("https://192.0.2.1:1", false),
            ("https://localhost.example.org", false),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().is_here(), here, "{text}");
        }
    }

    #[test]
    fn https_names_the_certificate() {
        let text = format!("https://example.org:9#{}", "0a".repeat(32));
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!(endpoint.trust, Some(Trust::Pin([10; 32])));
        assert_eq!(endpoint.to_string(), text);
        let vouched: Endpoint = "https://example.org".parse().unwrap();
        assert_eq!(
            (vouched.to_string().as_str(), vouched.port),
            ("https://example.org:443", 443)
        );
        assert!(matches!(vouched.trust, Some(Trust::Authorities(_))));
        assert!("https://example.org:9#0a".parse::<Endpoint>().is_err());
    }

    #[test]
    fn plain_text_stays_on_this_machine() {
        let endpoint: Endpoint = "http://192.0.2.1:80".parse().unwrap();
        assert!(matches!(
            endpoint.connect(&Arc::default()),
            Err(NetError::NotLoopback { .. })
        ));
        assert!(check_listen(&"0.0.0.0:80".parse().unwrap()).is_err());
        assert!(check_listen(&"127.0.0.1:80".parse().unwrap()).is_ok());
    }
}
