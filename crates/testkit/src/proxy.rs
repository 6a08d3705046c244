//! A TCP relay that counts and keeps what passes, and can cut the connection.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use marill_serving::Endpoint;

#[derive(Default)]
struct Record {
    sent: Mutex<Vec<u8>>,
    /// The same by connection.
    streams: Mutex<Vec<Vec<u8>>>,
    received: Mutex<u64>,
    lines: Mutex<Vec<TcpStream>>,
}

pub struct Proxy(Arc<Record>);

impl Proxy {
    /// Relays to `target`; connect to the returned address instead.
    pub fn start(target: &Endpoint) -> (Self, Endpoint) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let record = Arc::<Record>::default();
        let target = target.authority();
        let kept = record.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&target).unwrap();
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                    kept.lines.lock().unwrap().push(stream.try_clone().unwrap());
                }
                let to_server = server.try_clone().unwrap();
                let to_client = client.try_clone().unwrap();
                let record = kept.clone();
                let other = kept.clone();
                let stream = {
                    let mut streams = kept.streams.lock().unwrap();
                    streams.push(Vec::new());
                    streams.len() - 1
                };
                thread::spawn(move || {
                    relay(client, to_server, |bytes| {
                        record.sent.lock().unwrap().extend(bytes);
                        record.streams.lock().unwrap()[stream].extend(bytes);
                    });
                });
                thread::spawn(move || {
                    relay(server, to_client, |bytes| {
                        *other.received.lock().unwrap() += bytes.len() as u64
                    });
                });
            }
        });
        (Self(record), endpoint)
    }

    /// What clients have sent so far.
    pub fn sent(&self) -> Vec<u8> {
        self.0.sent.lock().unwrap().clone()
    }

    /// What clients have sent so far as a service reads it: WebSocket payloads without their masks,
    /// requests as they are.
    pub fn readable(&self) -> Vec<u8> {
        let streams = self.0.streams.lock().unwrap();
        let read = |stream: &Vec<u8>| {
            let is_upgrade = stream
                .windows(18)
                .any(|window| window == b"upgrade: websocket");
            if is_upgrade {
                unmask(stream).concat()
            } else {
                stream.clone()
            }
        };
        streams.iter().flat_map(read).collect()
    }

    pub fn received_len(&self) -> u64 {
        *self.0.received.lock().unwrap()
    }

    /// Cuts every connection, as when a machine is switched off.
    pub fn cut(&self) {
        for line in self.0.lines.lock().unwrap().drain(..) {
            let _ = line.shutdown(Shutdown::Both);
        }
    }
}

/// Payloads of the WebSocket frames that a client sent, after its HTTP requests.
pub fn unmask(bytes: &[u8]) -> Vec<Vec<u8>> {
    let upgrade = b"upgrade: websocket\r\n";
    let bytes = &bytes[bytes
        .windows(upgrade.len())
        .position(|window| window == upgrade)
        .unwrap()..];
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap()
        + 4;
    let mut rest = &bytes[end..];
    let mut frames = Vec::new();
    while rest.len() >= 6 {
        let (length, header) = match rest[1] & 0x7f {
            126 => (u16::from_be_bytes([rest[2], rest[3]]) as usize, 4),
            127 => (
                u64::from_be_bytes(rest[2..10].try_into().unwrap()) as usize,
                10,
            ),
            short => (short as usize, 2),
        };
        let mask: [u8; 4] = rest[header..header + 4].try_into().unwrap();
        let body = &rest[header + 4..header + 4 + length];
        frames.push(
            body.iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask)
                .collect(),
        );
        rest = &rest[header + 4 + length..];
    }
    frames
}

fn relay(mut from: TcpStream, mut to: TcpStream, record: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        record(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
