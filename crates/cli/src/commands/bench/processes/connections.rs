//! WebSockets on loopback, as between services, with the handshake left out.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

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
pub fn accept<const N: usize>(
    listener: &TcpListener,
    names: [u8; N],
    link: Option<Link>,
) -> anyhow::Result<[Box<dyn Channel>; N]> {
    let mut come = [(); N].map(|()| None);
    for _ in 0..N {
        let (stream, _) = listener.accept()?;
        let mut channel = channel(stream, Role::Server)?;
        let said = channel.recv()?;
        let place = names.iter().position(|name| said == [*name]);
        let place = place.context("a stranger connected")?;
        ensure!(come[place].is_none(), "a party connected twice");
        come[place] = Some(shaped(channel, link));
    }
    Ok(come.map(|channel| channel.expect("as many came as there are names")))
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
