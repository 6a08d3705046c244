//! Clients behind proxies and services behind them: a path prefix, and `HTTPS_PROXY`.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::Output,
    thread,
};

use marill_testkit::processes::{World, marill};
use serde_json::Value;

/// What a proxy makes of a request's head: where the connection goes, what is written there in
/// place of the head, and what is answered at once.
struct Route {
    to: String,
    asked: String,
    answered: &'static str,
}

/// A proxy on this machine, by its port.
fn proxy(route: impl Fn(&str) -> Route + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let route = route.clone();
            thread::spawn(move || relay(near, route));
        }
    });
    port
}

fn relay(mut near: TcpStream, route: impl Fn(&str) -> Route) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if near.read_exact(&mut byte).is_err() {
            return;
        }
        head.push(byte[0]);
    }
    let route = route(std::str::from_utf8(&head).unwrap());
    let mut far = TcpStream::connect(route.to).unwrap();
    far.write_all(route.asked.as_bytes()).unwrap();
    near.write_all(route.answered.as_bytes()).unwrap();
    let (from_far, to_near) = (far.try_clone().unwrap(), near.try_clone().unwrap());
    let back = thread::spawn(move || copy(from_far, to_near));
    copy(near, far);
    back.join().unwrap();
}

/// Passes on all that comes, and its end.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn generate(world: &World, urls: [&str; 2], variables: &[(&str, String)]) -> Output {
    let mut command = marill();
    command.args([
        "generate", urls[0], "--dealer", urls[1], "--prompt", "hello",
    ]);
    command.args(["--max-tokens", "3", "--ignore-eos", "--json"]);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    world.client_folders(&mut command).output().unwrap()
}

fn tokens(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["tokens"].clone()
}

#[test]
fn services_behind_a_path_are_reached() {
    let world = World::new();
    let (dealer, server) = world.parties();
    let [to_server, to_dealer] = [&server, &dealer].map(|service| {
        let to = service.authority().to_string();
        let port = proxy(move |head| {
            let (method, rest) = head.split_once(' ').unwrap();
            let rest = rest
                .strip_prefix("/marill/v1")
                .expect("the prefix stands in front");
            Route {
                to: to.clone(),
                asked: format!("{method} /v1{rest}"),
                answered: "",
            }
        });
        format!("http://127.0.0.1:{port}/marill/")
    });
    let there = tokens(&generate(&world, [&to_server, &to_dealer], &[]));
    assert_eq!(
        there,
        tokens(&generate(&world, [&server.url, &dealer.url], &[]))
    );
}

#[test]
fn services_elsewhere_are_reached_through_a_proxy() {
    let world = World::new();
    let (dealer, server) = world.parties_with(&["--tls"]);
    let port = proxy(|head| {
        let to = head
            .strip_prefix("CONNECT model.example:")
            .expect("nothing else is asked for");
        let port = to.split(' ').next().unwrap();
        Route {
            to: format!("127.0.0.1:{port}"),
            asked: String::new(),
            answered: "HTTP/1.1 200 Connection established\r\n\r\n",
        }
    });
    // A name that has no address here: only the proxy knows it.
    let elsewhere = |url: &str| url.replace("127.0.0.1", "model.example");
    let urls = [elsewhere(&server.url), elsewhere(&dealer.url)];
    let urls = [urls[0].as_str(), urls[1].as_str()];
    let through = [("HTTPS_PROXY", format!("http://127.0.0.1:{port}"))];
    let there = tokens(&generate(&world, urls, &through));
    assert_eq!(there.as_array().unwrap().len(), 3);

    let mut beside = through.to_vec();
    beside.push(("NO_PROXY", ".example".into()));
    let refused = generate(&world, urls, &beside);
    assert!(!refused.status.success());
    let refused = generate(
        &world,
        urls,
        &[("HTTPS_PROXY", "socks5://127.0.0.1:1".into())],
    );
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("`HTTPS_PROXY`"),
        "{said}"
    );
}
