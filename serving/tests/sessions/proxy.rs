//! A TCP relay that counts and keeps what passes, and can cut the line.

// Each test binary that includes this file uses a part of it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use marill_serving::Endpoint;

#[derive(Default)]
struct Record {
    sent: Mutex<Vec<u8>>,
    received: Mutex<u64>,
    lines: Mutex<Vec<TcpStream>>,
}

pub struct Proxy(Arc<Record>);

impl Proxy {
    /// Relays to `target`; connect to the returned address instead.
    pub fn start(target: &Endpoint) -> (Self, Endpoint) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (record, target) = (Arc::<Record>::default(), target.authority());
        let kept = record.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&target).unwrap();
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                    kept.lines.lock().unwrap().push(stream.try_clone().unwrap());
                }
                let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (record, other) = (kept.clone(), kept.clone());
                thread::spawn(move || relay(client, to_server, |bytes| record.sent.lock().unwrap().extend(bytes)));
                thread::spawn(move || {
                    relay(server, to_client, |bytes| *other.received.lock().unwrap() += bytes.len() as u64);
                });
            }
        });
        (Self(record), endpoint)
    }

    /// What clients have sent so far.
    pub fn sent(&self) -> Vec<u8> {
        self.0.sent.lock().unwrap().clone()
    }

    pub fn received_len(&self) -> u64 {
        *self.0.received.lock().unwrap()
    }

    /// Cuts every line, as when a machine is switched off.
    pub fn cut(&self) {
        for line in self.0.lines.lock().unwrap().drain(..) {
            let _ = line.shutdown(Shutdown::Both);
        }
    }
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
