//! The public layers: copies share their weights and nothing else, and a prompt's run before anyone
//! hears of its session.

use std::{net::TcpListener, ops::ControlFlow};

use marill_model::Prefix;
use marill_partition::{ExportOptions, Partition, export};
use marill_serving::{
    ServingError, SetUpLimits,
    client::{Client, ClientOptions, ComparisonChoice, CorrelationPreference, Request},
};
use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};

#[test]
fn a_fork_within_a_prompt_starts_empty_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny_base(folder.path(), 1).unwrap();
    let tokens = [3, 1, 4, 1, 5];
    let mut first = Prefix::new(&base, 2).unwrap();
    let expected = first.forward(&tokens).unwrap();

    let mut second = first.fork();
    assert!(second.is_empty());
    let further = first.forward(&[9, 2]).unwrap();
    assert_eq!(second.forward(&tokens).unwrap(), expected);
    assert_eq!(
        second.forward(&[9, 2]).unwrap(),
        further,
        "each has a cache of its own"
    );
    assert_eq!((first.len(), second.len()), (7, 7));
}

/// The pause between a session's handshake and its first frame would tell the server how long the
/// prompt is.
#[test]
fn a_prompts_prefix_runs_before_the_server_hears_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny_base(&folder.path().join("base"), 1).unwrap();
    let transforms = tiny_transforms(&base.config, true);
    let adapter = tiny_adapter(&base.config, &transforms, 2).unwrap();
    let out = folder.path().join("partition");
    export(
        &base,
        &transforms,
        &adapter,
        &out,
        &ExportOptions::default(),
    )
    .unwrap();

    // A socket listens, and would see a connection.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let service = || {
        format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap()
    };
    let options = ClientOptions {
        server: service(),
        dealer: service(),
        api_key: None,
        cache: folder.path().join("cache"),
        state: folder.path().join("client"),
        max_sessions: 1,
        source: CorrelationPreference::Any,
        party: None,
        comparison: ComparisonChoice::Open,
        setting: None,
        private_products: None,
        set_ups: SetUpLimits::CLIENT,
    };
    let client = Client::with_partition(&Partition::open(&out).unwrap(), &options).unwrap();
    // The prefix knows no such token: what fails there has opened nothing.
    let request = Request {
        prompt: vec![1, 2, u32::MAX],
        ..Request::default()
    };
    let error = client
        .generate(&request, &mut |_| ControlFlow::Continue(()))
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, ServingError::Model(_)), "{error}");
    assert!(
        listener.accept().is_err(),
        "a party was asked before the public layers had run"
    );
}
