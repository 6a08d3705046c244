//! A client of HTTP against services that are not what it expects.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use marill_net::{Endpoint, NetError, http::HttpClient};

/// A service that reads a request and answers each connection with these bytes.
fn answering(scheme: &str, bytes: &'static [u8]) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    thread::spawn(move || {
        for mut line in listener.incoming().map_while(Result::ok) {
            let _ = line.read(&mut [0; 4096]);
            let _ = line.write_all(bytes);
        }
    });
    endpoint
}

fn get(endpoint: Endpoint) -> NetError {
    HttpClient::new(endpoint, None)
        .get("/x", 100)
        .map(|_| ())
        .unwrap_err()
}

#[test]
fn plain_text_and_tls_that_meet_are_named() {
    let error = get(answering("http", &[21, 3, 3, 0, 2, 2, 22]));
    assert!(matches!(&error, NetError::SpeaksTls { .. }), "{error}");
    let error = get(answering("https", b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    assert!(
        matches!(&error, NetError::Handshake { .. }) && error.to_string().contains("speaks no TLS"),
        "{error}"
    );
}

#[test]
fn a_service_that_is_not_there_is_another_matter() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    drop(listener);
    assert!(matches!(get(endpoint), NetError::Unreachable { .. }));
}

#[test]
fn an_answer_is_no_longer_than_allowed_and_than_announced() {
    let longer = answering("http", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabcd");
    assert!(matches!(get(longer), NetError::Protocol(_)));
    let larger = answering("http", b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n");
    assert!(matches!(get(larger), NetError::Protocol(_)));
    let cut = answering("http", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab");
    assert!(matches!(get(cut), NetError::Closed));
}

/// Where the caller has no room, the connection is not to blame.
#[test]
fn a_full_disk_of_ones_own_is_told_apart() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let endpoint = answering("http", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab");
    let error = HttpClient::new(endpoint, None)
        .download("/x", &mut Full, 100)
        .unwrap_err();
    assert!(
        matches!(
            &error,
            NetError::Local { source } if source.kind() == std::io::ErrorKind::StorageFull
        ),
        "{error}"
    );
}

#[test]
fn a_body_of_escape_codes_is_shown_without_them() {
    let endpoint = answering(
        "http",
        b"HTTP/1.1 403 No\r\ncontent-length: 9\r\n\r\n\x1b[31mred\n",
    );
    let opened = HttpClient::new(endpoint, None).websocket("/x", std::time::Duration::from_secs(5));
    let error = opened.map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("[31mred") && !error.contains(char::is_control),
        "{error}"
    );
}

/// A handshake that comes byte by byte has one limit in all.
#[test]
#[ignore = "takes ten seconds"]
fn a_slow_handshake_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: Endpoint = format!("https://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    thread::spawn(move || {
        let mut line: TcpStream = listener.accept().unwrap().0;
        // A record of 16 KiB that never is complete.
        let _ = line.write_all(&[22, 3, 3, 64, 0]);
        while line.write_all(&[2]).is_ok() {
            thread::sleep(std::time::Duration::from_secs(1));
        }
    });
    let started = std::time::Instant::now();
    assert!(matches!(get(endpoint), NetError::Handshake { .. }));
    // Twice the limit of a handshake, for a busy machine.
    assert!(started.elapsed().as_secs() < 20);
}
