//! Without downloads, the cache that other tools filled is still good.

use std::{path::Path, sync::Arc};

use marill_hub::{HubError, Options, RepoName, resolve};

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_cached_model_is_found_without_the_network() {
    let cache = tempfile::tempdir().unwrap();
    let root = cache.path().join("models--org--name");
    let commit = "ab".repeat(20);
    let optional = [
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "special_tokens_map.json",
    ];
    for name in ["config.json", "tokenizer.json", "model.safetensors"]
        .into_iter()
        .chain(optional)
    {
        write(&root.join("snapshots").join(&commit).join(name), "{}");
    }
    write(&root.join("refs/main"), &commit);
    let endpoint = Some("http://127.0.0.1:1".to_owned());
    let mut options = Options {
        cache_dir: cache.path().into(),
        endpoint,
        token: None,
        offline: true,
        retries: 0,
    };
    let name = RepoName::parse("org/name").unwrap();
    let find =
        |options: &Options, revision| resolve(&name, revision, options, Arc::new(|_, _, _| {}));
    let found = find(&options, None).unwrap();
    assert_eq!(
        (found.path, found.commit),
        (root.join("snapshots").join(&commit), commit.clone())
    );
    assert!(matches!(
        find(&options, Some("v2")),
        Err(HubError::NotCached { .. })
    ));
    assert!(matches!(
        find(&options, Some("../up")),
        Err(HubError::BadRevision { .. })
    ));

    options.offline = false;
    assert_eq!(find(&options, Some(&commit)).unwrap().commit, commit);
    let error = find(&options, None).unwrap_err();
    if cfg!(feature = "hub") {
        assert!(matches!(error, HubError::Transfer { .. }), "{error}");
    } else {
        assert!(
            error.to_string().contains("--no-default-features"),
            "{error}"
        );
    }

    let index = root
        .join("snapshots")
        .join(&commit)
        .join("model.safetensors.index.json");
    write(
        &index,
        r#"{"weight_map": {"a": "../../outside.safetensors"}}"#,
    );
    let error = find(&options, Some(&commit)).unwrap_err().to_string();
    assert!(error.contains("outside.safetensors"), "{error}");
}
