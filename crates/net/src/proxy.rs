//! HTTP proxies between this machine and a service elsewhere: `HTTPS_PROXY` and `NO_PROXY`.
//!
//! The proxy passes bytes on (`CONNECT`); TLS is between this machine and the service, so that the
//! proxy sees what anyone on the wire sees. What is on this machine is never asked for through one.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;

use crate::{NetError, peer_text};

/// For a connection to one address of the proxy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the request to the proxy to the end of its answer's head.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// A proxy that connects to services.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    host: String,
    port: u16,
    /// `user:password`, which is never shown.
    credentials: Option<Credentials>,
}

#[derive(PartialEq, Eq)]
struct Credentials(Vec<u8>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

/// What `NO_PROXY` names.
#[derive(Debug, PartialEq, Eq)]
enum Exempt {
    All,
    /// A name and all below it, at one port or all.
    Name(String, Option<u16>),
    /// Addresses whose first bits are these.
    Net(IpAddr, u8),
}

/// The proxy to a service, by the variables of this process; none where there is none, or
/// `NO_PROXY` names the service.
///
/// # Errors
/// [`NetError::BadProxy`] for a variable that is not understood.
pub(crate) fn to(host: &str, port: u16) -> Result<Option<Proxy>, NetError> {
    chosen(&|name| std::env::var(name).ok(), host, port)
}

fn chosen(
    variable: &dyn Fn(&str) -> Option<String>,
    host: &str,
    port: u16,
) -> Result<Option<Proxy>, NetError> {
    let first = |names: [&'static str; 2]| {
        let mut found = names
            .iter()
            .filter_map(|name| Some((*name, variable(name)?)));
        found.find(|(_, text)| !text.trim().is_empty())
    };
    let here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let proxy = first(["https_proxy", "HTTPS_PROXY"]).or_else(|| first(["all_proxy", "ALL_PROXY"]));
    let Some((name, text)) = proxy.filter(|_| !here) else {
        return Ok(None);
    };
    let bad = |name: &'static str| move |reason| NetError::BadProxy { name, reason };
    if let Some((name, list)) = first(["no_proxy", "NO_PROXY"]) {
        for entry in list
            .split([',', ' '])
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
        {
            if Exempt::parse(entry).map_err(bad(name))?.covers(host, port) {
                return Ok(None);
            }
        }
    }
    Proxy::parse(text.trim()).map(Some).map_err(bad(name))
}

impl Exempt {
    fn parse(entry: &str) -> Result<Self, &'static str> {
        let form = "an entry is a host, `.DOMAIN`, an address, a network such as `10.0.0.0/8`, \
                    or `*`";
        if entry == "*" {
            return Ok(Self::All);
        }
        if let Some((net, bits)) = entry.split_once('/') {
            let net: IpAddr = net.parse().map_err(|_| form)?;
            let most = if net.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse().ok().filter(|bits| *bits <= most);
            return bits.map(|bits| Self::Net(net, bits)).ok_or(form);
        }
        let bare = entry.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Net(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| form)?)),
            None => (entry, None),
        };
        let name = name.trim_start_matches("*.").trim_start_matches('.');
        match name.is_empty() || name.contains(['*', ':', '/']) {
            true => Err(form),
            false => Ok(Self::Name(name.to_ascii_lowercase(), port)),
        }
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Name(name, only) => {
                let host = host.to_ascii_lowercase();
                let below = host.strip_suffix(name.as_str());
                below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                    && only.is_none_or(|only| only == port)
            }
            Self::Net(net, bits) => match (net, host.parse()) {
                (IpAddr::V4(net), Ok(IpAddr::V4(host))) => {
                    (net.to_bits() ^ host.to_bits()).leading_zeros() >= u32::from(*bits)
                }
                (IpAddr::V6(net), Ok(IpAddr::V6(host))) => {
                    (net.to_bits() ^ host.to_bits()).leading_zeros() >= u32::from(*bits)
                }
                _ => false,
            },
        }
    }
}

impl Proxy {
    /// `http://[USER:PASSWORD@]HOST[:PORT]`, with or without the scheme.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = match text.split_once("://") {
            None => text,
            Some(("http", rest)) => rest,
            Some(("https", _)) => return Err("a proxy that speaks TLS itself is not supported"),
            Some(_) => return Err("only proxies at `http://` are supported"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, authority) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((user, authority)) => {
                let user = percent_decode_str(user).collect();
                (Some(Credentials(user)), authority)
            }
        };
        if authority.contains(['/', '?', '#']) {
            return Err("it must not have a path");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (
                host,
                port.parse()
                    .map_err(|_| "the port is not a number below 65536")?,
            ),
            _ => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("the host is missing");
        }
        Ok(Self {
            host: host.into(),
            port,
            credentials,
        })
    }

    /// A connection to `authority` (`host:port`) through this proxy.
    pub(crate) fn connect(&self, authority: &str) -> std::io::Result<TcpStream> {
        self.dial(authority).map_err(|error| {
            let kind = error.kind();
            let text = format!("the proxy at `{}:{}`: {error}", self.host, self.port);
            std::io::Error::new(kind, text)
        })
    }

    fn dial(&self, authority: &str) -> std::io::Result<TcpStream> {
        let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "it has no address");
        let mut connected = None;
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    connected = Some(stream);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let mut stream = connected.ok_or(last)?;
        let mut head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n");
        if let Some(credentials) = &self.credentials {
            let encoded = BASE64.encode(&credentials.0);
            head.push_str(&format!("proxy-authorization: Basic {encoded}\r\n"));
        }
        head.push_str("\r\n");
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(head.as_bytes())?;
        read_answer(&mut stream, Instant::now() + ANSWER_TIMEOUT)?;
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        Ok(stream)
    }
}

/// Reads the head of the proxy's answer and not a byte more: what follows is the service's.
fn read_answer(stream: &mut TcpStream, deadline: Instant) -> std::io::Result<()> {
    let bad = |text: String| std::io::Error::other(text);
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        if stream.read(&mut byte)? == 0 {
            return Err(bad("it closed the connection".into()));
        }
        head.push(byte[0]);
        if head.len() > MAX_HEAD_BYTES {
            return Err(bad("its answer's headers are too long".into()));
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let parsed = answer.parse(&head);
    parsed.map_err(|error| bad(format!("its answer is not HTTP: {error}")))?;
    match answer.code {
        Some(200..300) => Ok(()),
        Some(407) => Err(bad(
            "it wants a user name and a password (407): `http://USER:PASSWORD@HOST:PORT`".into(),
        )),
        code => {
            let reason = peer_text(answer.reason.unwrap_or_default());
            Err(bad(format!("it answered {} {reason}", code.unwrap_or(0))))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn of(variables: &[(&str, &str)], host: &str, port: u16) -> Result<Option<Proxy>, NetError> {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        };
        chosen(&find, host, port)
    }

    #[test]
    fn a_proxy_is_taken_from_the_variables() {
        let at = |variables| of(variables, "model.example", 443).unwrap();
        assert_eq!(at(&[]), None);
        assert_eq!(at(&[("HTTPS_PROXY", "")]), None);
        assert_eq!(
            at(&[("HTTP_PROXY", "http://p:1")]),
            None,
            "for plain text, which is never sent"
        );
        let proxy = at(&[("HTTPS_PROXY", "http://p.example:3128/")]).unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("p.example", 3128));
        assert_eq!(at(&[("all_proxy", "p.example")]).unwrap().port, 80);
        let both = [
            ("https_proxy", "http://small:1"),
            ("HTTPS_PROXY", "http://large:1"),
        ];
        assert_eq!(at(&both).unwrap().host, "small");
        let proxy = at(&[("HTTPS_PROXY", "http://ann:p%40ss@p.example:1")]).unwrap();
        assert_eq!(proxy.credentials, Some(Credentials(b"ann:p@ss".to_vec())));
        assert!(!format!("{proxy:?}").contains("ann"));
    }

    #[test]
    fn what_is_near_is_asked_without_a_proxy() {
        let through = |no_proxy: &str, host: &str| {
            let variables = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", no_proxy)];
            of(&variables, host, 8100).unwrap().is_some()
        };
        for (no_proxy, host) in [
            ("*", "a.example"),
            ("a.example", "a.example"),
            ("x, .example", "a.b.example"),
            ("*.example", "a.example"),
            ("EXAMPLE", "a.example"),
            ("a.example:8100", "a.example"),
            ("10.0.0.0/8", "10.9.8.7"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::/32", "2001:db8::1"),
            ("", "127.0.0.1"),
            ("", "localhost"),
            ("", "::1"),
        ] {
            assert!(!through(no_proxy, host), "{no_proxy} {host}");
        }
        for (no_proxy, host) in [
            ("", "a.example"),
            ("b.example", "a.example"),
            ("example", "myexample"),
            ("a.example:8101", "a.example"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("10.0.0.0/8", "a.example"),
        ] {
            assert!(through(no_proxy, host), "{no_proxy} {host}");
        }
    }

    #[test]
    fn variables_that_are_not_understood_are_named() {
        for (variables, name) in [
            (&[("HTTPS_PROXY", "socks5://p:1")][..], "HTTPS_PROXY"),
            (&[("HTTPS_PROXY", "https://p:1")], "HTTPS_PROXY"),
            (&[("ALL_PROXY", "http://p:x")], "ALL_PROXY"),
            (&[("HTTPS_PROXY", "http://")], "HTTPS_PROXY"),
            (
                &[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "10.0.0.0/40")],
                "NO_PROXY",
            ),
            (
                &[("HTTPS_PROXY", "http://p"), ("no_proxy", "a*b")],
                "no_proxy",
            ),
        ] {
            let error = of(variables, "a.example", 1).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
        let secret = of(&[("HTTPS_PROXY", "ftp://ann:secret@p")], "a.example", 1);
        assert!(!secret.unwrap_err().to_string().contains("secret"));
    }

    /// A proxy that answers so, and what it is asked.
    fn proxied(answer: &'static str) -> (std::io::Result<TcpStream>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(head).unwrap()
        });
        let proxy = Proxy::parse(&format!("http://ann:x@127.0.0.1:{port}")).unwrap();
        (proxy.connect("a.example:443"), asked.join().unwrap())
    }

    #[test]
    fn the_service_is_behind_the_proxys_answer() {
        let (stream, asked) = proxied("HTTP/1.1 200 OK\r\nvia: p\r\n\r\nhello");
        let mut behind = String::new();
        stream.unwrap().read_to_string(&mut behind).unwrap();
        assert_eq!(behind, "hello");
        assert!(
            asked.starts_with("CONNECT a.example:443 HTTP/1.1\r\n"),
            "{asked}"
        );
        assert!(
            asked.contains("proxy-authorization: Basic YW5uOng=\r\n"),
            "{asked}"
        );
    }

    #[test]
    fn what_a_proxy_refuses_is_said() {
        for (answer, says) in [
            ("HTTP/1.1 407 Authentication Required\r\n\r\n", "user name"),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"),
            ("nonsense\r\n\r\n", "not HTTP"),
            ("", "closed"),
        ] {
            let error = proxied(answer).0.unwrap_err().to_string();
            assert!(
                error.contains(says) && error.contains("127.0.0.1"),
                "{error}"
            );
        }
    }
}
