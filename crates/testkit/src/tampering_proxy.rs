//! A relay in the middle that understands WebSocket frames and spoils one of them.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use marill_serving::{Endpoint, ServingError};

/// Longer than any case takes on a busy machine, shorter than what a step may take: 150 s. Of two
/// parties without a dealer a case takes one to two seconds of both cores; it took 51 s beside
/// other tests that make lattices on the same threads.
const NO_HANG: Duration = Duration::from_secs(120);

/// Bytes at the end of a payload that number the frame.
const TRAILER_BYTES: usize = 8;

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A byte of the payload is missing.
    Shorten,
    /// A byte more than there was.
    Lengthen,
    /// It arrives twice.
    Repeat,
    /// It never arrives.
    Drop,
    /// Its follower arrives first.
    Swap,
    /// The connection breaks in the middle of it.
    Cut,
    /// A text frame in place of a binary one.
    Text,
    /// Its header announces 2^40 bytes.
    Huge,
}

/// What may happen to a frame of any kind.
pub const FAULTS: [Fault; 6] = [
    Fault::Shorten,
    Fault::Lengthen,
    Fault::Repeat,
    Fault::Cut,
    Fault::Text,
    Fault::Huge,
];

/// Who sent the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Opener,
    Service,
}

/// The next connection's frame of this number, counted from zero in its direction, is damaged.
type Plan = Option<(From, usize, Fault)>;

#[derive(Clone, Default)]
pub struct TamperingProxy(Arc<Mutex<Plan>>);

impl TamperingProxy {
    /// Relays to `target`; connect to the returned address instead.
    pub fn start(target: &Endpoint) -> (Self, Endpoint) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let proxy = Self::default();
        let target = target.authority();
        let plan = proxy.0.clone();
        thread::spawn(move || {
            for opener in listener.incoming().map_while(Result::ok) {
                let service = TcpStream::connect(&target).unwrap();
                let line = [opener, service];
                line.iter()
                    .for_each(|stream| stream.set_nodelay(true).unwrap());
                for (from, index) in [(From::Opener, 0), (From::Service, 1)] {
                    let input = line[index].try_clone().unwrap();
                    let output = line[1 - index].try_clone().unwrap();
                    let plan = plan.clone();
                    thread::spawn(move || {
                        let _ = relay(
                            input.try_clone().unwrap(),
                            output.try_clone().unwrap(),
                            from,
                            &plan,
                        );
                        let _ = (
                            input.shutdown(Shutdown::Both),
                            output.shutdown(Shutdown::Both),
                        );
                    });
                }
            }
        });
        (proxy, endpoint)
    }

    /// Spoils one frame of a session, which ends with an error and in time; `what` names the frame.
    pub fn spoil<T>(
        &self,
        (from, number, fault): (From, usize, Fault),
        what: &str,
        session: impl FnOnce() -> Result<T, ServingError>,
    ) {
        *self.0.lock().unwrap() = Some((from, number, fault));
        let started = Instant::now();
        let result = session();
        let took = started.elapsed();
        let came_by = self.0.lock().unwrap().is_none();
        assert!(came_by, "{what}: the frame did not come by");
        assert!(took < NO_HANG, "{what}, {fault:?}: {took:?}");
        assert!(result.is_err(), "{what}, {fault:?}: nobody noticed");
    }
}

fn relay(
    mut input: TcpStream,
    mut output: TcpStream,
    from: From,
    plan: &Mutex<Plan>,
) -> std::io::Result<()> {
    let upgrade = relay_head(&mut input, &mut output)?;
    if !upgrade {
        return std::io::copy(&mut input, &mut output).map(|_| ());
    }
    let mut held: Option<Vec<u8>> = None;
    for number in 0.. {
        let frame = Frame::read(&mut input)?;
        let fault = {
            let mut plan = plan.lock().unwrap();
            match *plan {
                Some((whose, which, fault))
                    if whose == from && which == number && frame.is_data() =>
                {
                    *plan = None;
                    Some(fault)
                }
                _ => None,
            }
        };
        match fault {
            None => output.write_all(&frame.bytes())?,
            Some(Fault::Shorten) => output.write_all(&frame.resized(false).bytes())?,
            Some(Fault::Lengthen) => output.write_all(&frame.resized(true).bytes())?,
            Some(Fault::Repeat) => output.write_all(&[frame.bytes(), frame.bytes()].concat())?,
            Some(Fault::Drop) => {}
            Some(Fault::Swap) => {
                held = Some(frame.bytes());
                continue;
            }
            Some(Fault::Cut) => {
                let bytes = frame.bytes();
                output.write_all(&bytes[..bytes.len() / 2])?;
                return Ok(());
            }
            Some(Fault::Text) => output.write_all(
                &Frame {
                    first: 0x81,
                    ..frame
                }
                .bytes(),
            )?,
            Some(Fault::Huge) => {
                let mask = u8::from(from == From::Opener) << 7;
                output.write_all(&[0x82, 127 | mask, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4])?;
            }
        }
        if let Some(held) = held.take() {
            output.write_all(&held)?;
        }
    }
    Ok(())
}

/// Passes an HTTP head on; `true` where WebSocket frames follow.
fn relay_head(input: &mut TcpStream, output: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        input.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    output.write_all(&head)?;
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    Ok(head.contains("upgrade: websocket"))
}

struct Frame {
    first: u8,
    masked: bool,
    payload: Vec<u8>,
}

impl Frame {
    fn read(input: &mut TcpStream) -> std::io::Result<Self> {
        let mut head = [0; 2];
        input.read_exact(&mut head)?;
        let length = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(read(input)?)),
            127 => u64::from_be_bytes(read(input)?),
            short => u64::from(short),
        };
        let masked = head[1] & 0x80 != 0;
        let mask: [u8; 4] = if masked { read(input)? } else { [0; 4] };
        let mut payload = vec![0; length as usize];
        input.read_exact(&mut payload)?;
        payload
            .iter_mut()
            .zip(mask.iter().cycle())
            .for_each(|(byte, mask)| *byte ^= mask);
        Ok(Self {
            first: head[0],
            masked,
            payload,
        })
    }

    fn is_data(&self) -> bool {
        self.first & 0x0f == 2
    }

    /// One byte less, or one more, in front of the trailer.
    fn resized(self, longer: bool) -> Self {
        let at = self.payload.len() - TRAILER_BYTES;
        let (body, trailer) = self.payload.split_at(at);
        let body = if longer {
            [body, &[7]].concat()
        } else {
            body[..at - 1].to_vec()
        };
        Self {
            payload: [&body, trailer].concat(),
            ..self
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mark = if self.masked { 0x80 } else { 0 };
        let mut bytes = vec![self.first];
        match self.payload.len() {
            short @ 0..126 => bytes.push(mark | short as u8),
            middle @ 126..65536 => {
                bytes.push(mark | 126);
                bytes.extend((middle as u16).to_be_bytes());
            }
            long => {
                bytes.push(mark | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        if self.masked {
            // A mask of zeros is a mask.
            bytes.extend([0; 4]);
        }
        bytes.extend(&self.payload);
        bytes
    }
}

fn read<const N: usize>(input: &mut TcpStream) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}
