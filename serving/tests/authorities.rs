//! Certificates that an authority signed.

use std::path::Path;

use axum::{Router, routing::get};
use marill_net::{http::HttpClient, tls::Authorities};
use marill_serving::{Endpoint, tls::Tls, web};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Writes an authority's certificate to `path` and returns what it signs with.
fn authority(path: &Path) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(path, params.self_signed(&key).unwrap().pem()).unwrap();
    Issuer::new(params, key)
}

#[test]
fn a_service_is_believed_when_its_authority_vouches() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let issuer = authority(&place("ca.pem"));
    drop(authority(&place("other.pem")));
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_string()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    std::fs::write(place("leaf.pem"), leaf.pem()).unwrap();
    std::fs::write(place("key.pem"), key.serialize_pem()).unwrap();

    let tls = Tls::Files {
        certificate: place("leaf.pem"),
        key: place("key.pem"),
    };
    let bound = web::bind(
        "127.0.0.1:0".parse().unwrap(),
        tls.identity(folder.path()).unwrap(),
    )
    .unwrap();
    let running = web::start(bound, Router::new().route("/", get(|| async { "here" }))).unwrap();
    let printed = running.endpoint.to_string();
    assert!(!printed.contains('#'), "nobody needs a digest: {printed}");

    let get = |address: &str, authorities: Option<&str>| {
        let endpoint: Endpoint = address.parse().unwrap();
        let endpoint = match authorities {
            Some(name) => endpoint.trusting(&Authorities::from_pem(&place(name)).unwrap()),
            None => endpoint,
        };
        HttpClient::new(endpoint, None)
            .get("/", 100)
            .map(|answer| answer.body)
    };
    assert_eq!(get(&printed, Some("ca.pem")).unwrap(), b"here");
    assert!(
        get(&printed, Some("other.pem")).is_err(),
        "another authority does not count"
    );
    assert!(
        get(&printed, None).is_err(),
        "the public authorities do not know it"
    );
    let other_name = printed.replace("127.0.0.1", "localhost");
    let error = get(&other_name, Some("ca.pem")).unwrap_err().to_string();
    assert!(
        error.contains("certificate"),
        "the name is checked: {error}"
    );
    assert!(Authorities::from_pem(&place("key.pem")).is_err());
    let mixed = Tls::Files {
        certificate: place("ca.pem"),
        key: place("key.pem"),
    };
    assert!(
        mixed.identity(folder.path()).is_err(),
        "a key of another certificate"
    );
}
