//! A client of HTTP against services that are not what it expects.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use marill_net::{Endpoint, NetError, RequestId, http::HttpClient};

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

/// What a client gets that asks for `/x`.
fn body_of(bytes: &'static [u8]) -> Result<String, NetError> {
    let answer = HttpClient::new(answering("http", bytes), None).get("/x", 100)?;
    Ok(String::from_utf8(answer.body).unwrap())
}

#[test]
fn chunks_make_up_a_body() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n10;name=value\r\n0123456789abcdef\r\n0\r\nexpires: never\r\n\r\n";
    assert_eq!(body_of(chunked).unwrap(), "abc0123456789abcdef");
    let empty = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(body_of(empty).unwrap(), "");
    let open = b"HTTP/1.1 200 OK\r\n\r\nto the end";
    assert_eq!(body_of(open).unwrap(), "to the end");
}

#[test]
fn chunks_are_bounded_and_complete() {
    for (bytes, is_lost) in [
        (
            &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n65\r\nabc"[..],
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1ffffffffffffffff\r\n",
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n",
            false,
        ),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", false),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab",
            true,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            true,
        ),
    ] {
        let error = body_of(bytes).unwrap_err();
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(
            matches!(error, NetError::Closed),
            is_lost,
            "{error}: {text}"
        );
        assert_eq!(
            matches!(error, NetError::Protocol(_)),
            !is_lost,
            "{error}: {text}"
        );
    }
}

#[test]
fn a_refused_upgrade_is_read_in_chunks_too() {
    let refused = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\n\
        transfer-encoding: chunked\r\n\r\n4\r\nfull\r\n0\r\n\r\n";
    let client = HttpClient::new(answering("http", refused), None);
    match client
        .websocket("/x", std::time::Duration::from_secs(5))
        .err()
        .unwrap()
    {
        NetError::Refused {
            status,
            body,
            retry_after_seconds,
        } => assert_eq!(
            (status, body.as_str(), retry_after_seconds),
            (429, "full", Some(7))
        ),
        other => panic!("{other}"),
    }
}

#[test]
fn a_path_and_a_name_go_with_every_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: Endpoint = format!("http://{}/marill/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let heard = thread::spawn(move || {
        let (mut line, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let n = line.read(&mut head).unwrap();
        line.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        String::from_utf8(head[..n].to_vec()).unwrap()
    });
    let id = RequestId::parse("mine").unwrap();
    HttpClient::new(endpoint, None)
        .named(&id)
        .get("/v1/models", 100)
        .unwrap();
    let heard = heard.join().unwrap();
    assert!(
        heard.starts_with("GET /marill/v1/models HTTP/1.1\r\n"),
        "{heard}"
    );
    assert!(heard.contains("\r\nx-request-id: mine\r\n"), "{heard}");
}
