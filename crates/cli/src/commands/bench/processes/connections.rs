//! WebSockets on loopback, as between services, with the handshake left out.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use marill_net::{Channel, Link, Shaped, WebSocketChannel, socket::CountedTcp};
use tungstenite::protocol::Role;

use super::PATIENCE;

/// Listens on a port that the system chooses, and says so.
pub fn listen() -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    eprintln!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

/// Connects as a party of a name.
pub fn connect(address: &str, name: u8, link: Option<Link>) -> anyhow::Result<Box<dyn Channel>> {
    let stream =
        TcpStream::connect(address).with_context(|| format!("nothing answers at `{address}`"))?;
    let mut channel = channel(stream, Role::Client)?;
    channel.send(vec![name])?;
    Ok(shaped(channel, link))
}

/// Takes one connection of each of these parties, in whatever order they come.
///
/// # Errors
/// A party that does not come within [`PATIENCE`], comes twice, or is a stranger.
pub fn accept<const N: usize>(
    listener: &TcpListener,
    names: [u8; N],
    link: Option<Link>,
) -> anyhow::Result<[Box<dyn Channel>; N]> {
    let mut come = [(); N].map(|()| None);
    for _ in 0..N {
        let stream = next(listener, Instant::now() + PATIENCE)?;
        let mut channel = channel(stream, Role::Server)?;
        let said = channel.recv()?;
        let place = names.iter().position(|name| said == [*name]);
        let place = place.context("a stranger connected")?;
        ensure!(come[place].is_none(), "a party connected twice");
        come[place] = Some(shaped(channel, link));
    }
    Ok(come.map(|channel| channel.expect("as many came as there are names")))
}

/// The next connection; whoever should have come may be gone.
fn next(listener: &TcpListener, until: Instant) -> anyhow::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ensure!(Instant::now() < until, "a party did not connect");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn channel(stream: TcpStream, role: Role) -> anyhow::Result<WebSocketChannel> {
    let socket = CountedTcp::new(stream, Default::default())?;
    socket.set_nonblocking(true)?;
    let socket = Box::new(socket);
    Ok(WebSocketChannel::new(socket, Vec::new(), role, PATIENCE))
}

fn shaped(channel: WebSocketChannel, link: Option<Link>) -> Box<dyn Channel> {
    match link {
        Some(link) => Box::new(Shaped::new(channel, link)),
        None => Box::new(channel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_that_never_comes_ends_the_wait() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let soon = Instant::now() + Duration::from_millis(20);
        let error = next(&listener, soon).unwrap_err().to_string();
        assert_eq!(error, "a party did not connect");
        let _party = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        next(&listener, Instant::now() + PATIENCE).unwrap();
    }
}
