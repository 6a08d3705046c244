//! Ending connections from another thread: what waits on one of them fails at once.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{NetError, socket::Socket};

/// Ends the connections that were opened under it, and refuses further ones until it is renewed.
///
/// A step that is cut off fails as it does when the peer is lost, so what it took of masks is spent
/// and no other step takes it.
#[derive(Clone, Debug, Default)]
pub struct Cutter(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    open: Vec<Weak<TcpStream>>,
}

impl Cutter {
    /// Ends every connection, and refuses new ones.
    pub fn cut(&self) {
        let mut state = self.lock();
        state.is_cut = true;
        for stream in state.open.drain(..).filter_map(|open| open.upgrade()) {
            // One that is gone already has nothing to end.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Allows connections again.
    pub fn renew(&self) {
        self.lock().is_cut = false;
    }

    /// Whether connections were ended, and none is allowed since.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.lock().is_cut
    }

    /// # Errors
    /// [`NetError::Cut`] where connections are not allowed; [`NetError::Io`] where the system has
    /// no further descriptor.
    pub(crate) fn watch(&self, socket: Box<dyn Socket>) -> Result<Box<dyn Socket>, NetError> {
        let stream = TcpStream::from(socket.as_fd().try_clone_to_owned()?);
        let stream = Arc::new(stream);
        let mut state = self.lock();
        if state.is_cut {
            return Err(NetError::Cut);
        }
        state.open.retain(|open| open.strong_count() > 0);
        state.open.push(Arc::downgrade(&stream));
        Ok(Box::new(Watched {
            socket,
            _stream: stream,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that a cutter can end; the second descriptor goes with it.
struct Watched {
    socket: Box<dyn Socket>,
    _stream: Arc<TcpStream>,
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buf)
    }
}

impl Write for Watched {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::http::HttpClient;

    /// A service that takes connections and says nothing, and a client of it.
    fn silent(cutter: &Cutter) -> (TcpListener, HttpClient) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let client = HttpClient::new(address.parse().unwrap(), None).ended_by(cutter);
        (listener, client)
    }

    #[test]
    fn a_request_that_waits_ends_at_once() {
        let cutter = Cutter::default();
        let (listener, client) = silent(&cutter);
        let started = Instant::now();
        let waiting = thread::spawn(move || client.get("/", 10).map(|_| ()));
        let held = listener.accept().unwrap();
        // The connection is watched as soon as it is made; the request comes behind that.
        let mut byte = [0];
        (&held.0).read_exact(&mut byte).unwrap();
        cutter.cut();
        assert!(waiting.join().unwrap().is_err());
        // Without the cut it waits for a minute.
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn no_connection_is_made_until_renewed() {
        let cutter = Cutter::default();
        let (listener, client) = silent(&cutter);
        cutter.cut();
        assert!(matches!(client.get("/", 10), Err(NetError::Cut)));
        cutter.renew();
        // The first is the connection that was made and not used.
        let answered = thread::spawn(move || client.get("/", 10).map(|answer| answer.status));
        let unused = listener.accept().unwrap();
        let used = listener.accept().unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        (&used.0).write_all(answer).unwrap();
        assert_eq!(answered.join().unwrap().unwrap(), 200);
        drop(unused);
    }

    #[test]
    fn a_closed_connection_is_closed_for_the_peer() {
        let cutter = Cutter::default();
        let (listener, client) = silent(&cutter);
        let socket = client.endpoint.connect(&client.count).unwrap();
        let socket = cutter.watch(socket).unwrap();
        let held = listener.accept().unwrap();
        drop(socket);
        held.0
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        assert_eq!((&held.0).read(&mut [0]).unwrap(), 0);
    }
}
