//! Two ends over a real socket.

use std::{
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use marill_net::{Channel, NetError, WebSocketChannel, WireCount, socket::CountedTcp};
use tungstenite::protocol::Role;

const TIMEOUT: Duration = Duration::from_secs(10);

struct Pair {
    client: WebSocketChannel,
    server: WebSocketChannel,
    client_count: Arc<WireCount>,
    server_count: Arc<WireCount>,
}

fn pair(timeout: Duration) -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let client_count = Arc::<WireCount>::default();
    let server_count = Arc::<WireCount>::default();
    let wrap = |stream: TcpStream, count: &Arc<WireCount>, role| {
        let socket = CountedTcp::new(stream, count.clone()).unwrap();
        socket.set_nonblocking(true).unwrap();
        WebSocketChannel::new(Box::new(socket), Vec::new(), role, timeout)
    };
    Pair {
        client: wrap(stream, &client_count, Role::Client),
        server: wrap(accepted, &server_count, Role::Server),
        client_count,
        server_count,
    }
}

#[test]
fn a_look_finds_a_waiting_frame_and_a_lost_peer() {
    let Pair {
        mut client,
        mut server,
        ..
    } = pair(TIMEOUT);
    assert!(!server.check_open().unwrap(), "nothing has been sent");
    client.send(vec![1]).unwrap();
    client.send(vec![2]).unwrap();
    let started = Instant::now();
    while !server.check_open().unwrap() {
        assert!(started.elapsed() < TIMEOUT);
    }
    assert_eq!(
        (server.recv().unwrap(), server.recv().unwrap()),
        (vec![1], vec![2])
    );
    let other = thread::spawn(move || client.close("enough"));
    let ended = loop {
        match server.check_open() {
            Ok(_) => assert!(started.elapsed() < TIMEOUT),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&ended, NetError::Ended { reason, .. } if reason == "enough"),
        "{ended}"
    );
    drop(server);
    other.join().unwrap();
}

/// Each party sends 32 MiB before it reads: the kernel's buffers hold a fraction of that.
#[test]
fn both_parties_may_send_large_frames_first() {
    let Pair {
        mut client,
        mut server,
        client_count,
        server_count,
    } = pair(TIMEOUT);
    let big = |byte: u8| vec![byte; 32 << 20];
    let other = thread::spawn(move || {
        server.send(big(2)).unwrap();
        assert!(server.recv().unwrap() == big(1));
        server.send(vec![9]).unwrap();
        server
    });
    client.send(big(1)).unwrap();
    assert!(client.recv().unwrap() == big(2));
    assert_eq!(client.recv().unwrap(), [9]);
    let _server = other.join().unwrap();
    assert_eq!(client_count.sent_bytes(), server_count.received_bytes());
    assert_eq!(client_count.received_bytes(), server_count.sent_bytes());
    // 32 MiB, a trailer of eight bytes, a header of ten and, from the client, a mask of four.
    assert_eq!(client_count.sent_bytes(), (32 << 20) + 22);
}

#[test]
fn a_silent_peer_is_a_timeout_and_a_gone_peer_is_closed() {
    let Pair {
        mut client, server, ..
    } = pair(Duration::from_millis(50));
    assert!(matches!(client.recv(), Err(NetError::TimedOut { .. })));
    drop(server);
    assert!(matches!(client.recv(), Err(NetError::Closed)));
    assert!(matches!(client.send(vec![1]), Err(NetError::Closed)));
}

#[test]
fn the_reason_of_an_end_reaches_the_peer() {
    let Pair {
        mut client,
        mut server,
        ..
    } = pair(TIMEOUT);
    server.close("the dealer is gone");
    match client.recv() {
        Err(NetError::Ended { code, reason }) => {
            assert_eq!((code, &*reason), (1000, "the dealer is gone"))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_code_of_the_services_reaches_the_peer() {
    let Pair {
        mut client,
        mut server,
        ..
    } = pair(TIMEOUT);
    client.close_with(4429, "spent");
    assert!(matches!(
        server.recv(),
        Err(NetError::Ended { code: 4429, .. })
    ));
}

#[test]
fn an_oversized_frame_is_refused_by_both_ends() {
    let Pair { mut client, .. } = pair(TIMEOUT);
    assert!(matches!(
        client.send(vec![0; (64 << 20) + 1]),
        Err(NetError::FrameSize { .. })
    ));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut raw = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let socket = CountedTcp::new(accepted, Arc::default()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut server = WebSocketChannel::new(Box::new(socket), Vec::new(), Role::Server, TIMEOUT);
    // A binary frame that announces 2^40 bytes.
    std::io::Write::write_all(&mut raw, &[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]).unwrap();
    assert!(matches!(server.recv(), Err(NetError::Protocol(_))));
}

/// A channel, and the bare socket at its other end.
fn half_pair(
    make: impl FnOnce(Box<CountedTcp>) -> WebSocketChannel,
) -> (WebSocketChannel, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let raw = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = CountedTcp::new(listener.accept().unwrap().0, Arc::default()).unwrap();
    socket.set_nonblocking(true).unwrap();
    (make(Box::new(socket)), raw)
}

/// A masked frame of a client, with the trailer that numbers it.
fn client_frame(number: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u64 + 8).to_be_bytes();
    let mut bytes = vec![0x82, 0xff];
    bytes.extend(
        [
            &length[..],
            &[0; 4],
            body,
            &number.to_le_bytes(),
            &(body.len() as u32).to_le_bytes(),
        ]
        .concat(),
    );
    bytes
}

#[test]
fn pings_are_silence() {
    let limit = Duration::from_millis(400);
    for pause in [Duration::ZERO, Duration::from_millis(20)] {
        let (mut server, mut raw) =
            half_pair(|socket| WebSocketChannel::new(socket, Vec::new(), Role::Server, limit));
        let pinging = thread::spawn(move || {
            while std::io::Write::write_all(&mut raw, &[0x89, 0x80, 0, 0, 0, 0]).is_ok() {
                thread::sleep(pause);
            }
        });
        let started = Instant::now();
        assert!(matches!(server.recv(), Err(NetError::TimedOut { .. })));
        assert!(
            started.elapsed() >= limit && started.elapsed() < limit * 5,
            "{:?}",
            started.elapsed()
        );
        assert!(matches!(server.check_open(), Ok(false)), "a look ends too");
        drop(server);
        pinging.join().unwrap();
    }
}

#[test]
fn a_peer_that_never_reads_fills_two_places() {
    let limit = Duration::from_millis(700);
    let (mut server, mut raw) =
        half_pair(|socket| WebSocketChannel::new(socket, Vec::new(), Role::Server, limit));
    let line = raw.try_clone().unwrap();
    let sending = thread::spawn(move || {
        let frames = (0u32..).map(|number| client_frame(number, &vec![7; 4 << 20]));
        frames
            .take_while(|frame| std::io::Write::write_all(&mut raw, frame).is_ok())
            .take(200)
            .count()
    });
    let started = Instant::now();
    assert!(matches!(
        server.send(vec![1; 60 << 20]),
        Err(NetError::TimedOut { .. })
    ));
    assert!(started.elapsed() < limit * 4, "{:?}", started.elapsed());
    line.shutdown(std::net::Shutdown::Both).unwrap();
    // Two in the inbox, and what the kernel holds.
    let taken = sending.join().unwrap();
    assert!((2..8).contains(&taken), "{taken} frames were taken");
}

#[test]
fn a_handshake_is_small_and_comes_soon() {
    let limit = Duration::from_millis(300);
    let handshake = |socket: Box<CountedTcp>| {
        WebSocketChannel::awaiting_handshake(socket, Vec::new(), Role::Server, TIMEOUT, limit)
    };
    let started = Instant::now();
    let (mut server, raw) = half_pair(handshake);
    assert!(matches!(server.recv(), Err(NetError::TimedOut { .. })));
    assert!(started.elapsed() < TIMEOUT / 2);
    drop(raw);

    let (mut server, mut raw) = half_pair(handshake);
    // The head alone: the frame is refused before there is anything of it.
    std::io::Write::write_all(&mut raw, &client_frame(0, &vec![0; (1 << 20) + 1])[..14]).unwrap();
    assert!(matches!(server.recv(), Err(NetError::Protocol(_))));

    let (mut server, mut raw) = half_pair(handshake);
    std::io::Write::write_all(&mut raw, &client_frame(0, b"hello")).unwrap();
    assert_eq!(server.recv().unwrap(), b"hello");
    server.handshake_done();
    let large = client_frame(1, &vec![3; 2 << 20]);
    let sending = thread::spawn(move || {
        thread::sleep(limit);
        std::io::Write::write_all(&mut raw, &large).unwrap();
        raw
    });
    assert_eq!(
        server.recv().unwrap().len(),
        2 << 20,
        "later frames may be large and late"
    );
    drop(sending.join().unwrap());
}

#[test]
fn a_deadline_ends_what_no_timeout_does() {
    let Pair {
        mut client,
        mut server,
        ..
    } = pair(Duration::from_millis(400));
    let other = thread::spawn(move || {
        let mut sent = 0;
        while client.send(vec![0]).is_ok() && sent < 100 {
            sent += 1;
            thread::sleep(Duration::from_millis(50));
        }
    });
    let started = Instant::now();
    server.set_deadline(Some(started + Duration::from_millis(900)));
    let error = loop {
        if let Err(error) = server.recv() {
            break error;
        }
    };
    assert!(matches!(error, NetError::TimedOut { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));
    drop(server);
    other.join().unwrap();
}

#[test]
fn the_reason_of_a_peer_is_one_line_of_text() {
    let Pair {
        mut client,
        mut server,
        ..
    } = pair(TIMEOUT);
    server.close("\u{1b}[2Jgone\nhint: send money");
    match client.recv() {
        Err(NetError::Ended { reason, .. }) => assert_eq!(reason, " [2Jgone hint: send money"),
        other => panic!("{other:?}"),
    }
}

/// `cargo test -p marill-net --test websocket -- --ignored --nocapture round_trip_time`
#[test]
#[ignore = "a measurement: its figure depends on the machine"]
fn round_trip_time() {
    const ROUNDS: u32 = 20_000;
    let Pair {
        mut client,
        mut server,
        ..
    } = pair(TIMEOUT);
    let other = thread::spawn(move || {
        for _ in 0..ROUNDS {
            server.send(vec![2; 2048]).unwrap();
            server.recv().unwrap();
        }
    });
    let start = Instant::now();
    for _ in 0..ROUNDS {
        client.send(vec![1; 2048]).unwrap();
        client.recv().unwrap();
    }
    println!(
        "{:.1} µs a round",
        start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
    );
    other.join().unwrap();
}

/// `cargo test -p marill-net --test websocket -- --ignored --nocapture throughput`
#[test]
#[ignore = "a measurement: its figure depends on the machine"]
fn throughput() {
    const FRAMES: usize = 1024;
    let Pair {
        mut client,
        mut server,
        ..
    } = pair(TIMEOUT);
    let other = thread::spawn(move || {
        for _ in 0..FRAMES {
            server.send(vec![2; 1 << 20]).unwrap();
        }
        server
    });
    let start = Instant::now();
    for _ in 0..FRAMES {
        assert_eq!(client.recv().unwrap().len(), 1 << 20);
    }
    println!(
        "{:.2} GiB/s",
        FRAMES as f64 / 1024.0 / start.elapsed().as_secs_f64()
    );
    drop(other.join().unwrap());
}
