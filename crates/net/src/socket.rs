//! A TCP connection that counts what crosses it.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A byte stream that can be waited for by its descriptor.
pub trait Socket: Read + Write + AsFd + Send {}

impl<T: Read + Write + AsFd + Send> Socket for T {}

/// Bytes that crossed one or more sockets, headers of every layer above TCP included.
#[derive(Debug, Default)]
pub struct WireCount {
    sent: AtomicU64,
    received: AtomicU64,
}

impl WireCount {
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A TCP stream without Nagle's delay whose bytes are counted as the kernel accepts or passes them
/// on.
pub struct CountedTcp {
    stream: TcpStream,
    count: Arc<WireCount>,
}

impl CountedTcp {
    /// # Errors
    /// The socket refuses `TCP_NODELAY`.
    pub fn new(stream: TcpStream, count: Arc<WireCount>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, count })
    }

    /// # Errors
    /// The socket refuses to change its mode.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }
}

impl Read for CountedTcp {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buf)?;
        self.count.received.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Write for CountedTcp {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.stream.write(buf)?;
        self.count.sent.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl AsFd for CountedTcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What a waiting thread is woken by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    Readable,
    Writable,
    ReadableOrWritable,
}

/// Waits until the socket is ready or the deadline passes; `false` means the deadline.
///
/// # Errors
/// Anything `poll` reports but an interruption by a signal, after which the wait goes on.
pub fn wait(socket: &dyn Socket, interest: Interest, deadline: Instant) -> io::Result<bool> {
    let flags = match interest {
        Interest::Readable => PollFlags::IN,
        Interest::Writable => PollFlags::OUT,
        Interest::ReadableOrWritable => PollFlags::IN | PollFlags::OUT,
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        match poll(
            &mut [PollFd::from_borrowed_fd(socket.as_fd(), flags)],
            Some(&timespec(left)),
        ) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs() as i64,
        tv_nsec: duration.subsec_nanos() as i64,
    }
}
