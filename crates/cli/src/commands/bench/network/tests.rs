//! A tiny network through the command's own measuring, and files that do not fit.

use super::*;

fn args(name: &str) -> Args {
    Args {
        recurrent: None,
        name: Some(name.into()),
        image: 32,
        width: 1.0 / 32.0,
        classes: 4,
        weights: None,
        radix: "16".into(),
        lpn_set: "b10".into(),
        json: true,
    }
}

#[test]
fn reports_add_up_and_layers_are_equal() {
    for name in ["resnet50", "densenet121"] {
        let args = args(name);
        let network = network(&args).unwrap();
        let weights = weights(&args, &network).unwrap();
        let plan = Plan::new(network, Radix::Sixteen).unwrap();
        let measured = measure(&plan, &weights, LpnSet::B10).unwrap();
        let report = report::Report::new(&args, &plan, &measured);
        let json = report.json();
        assert!(report.sound(), "{json}");
        assert_eq!(json["mismatches"], 0);
        let kinds = json["kinds"].as_object().unwrap();
        let parts = kinds.values().chain([&json["setup"]]);
        let bytes: u64 = parts.map(|sum| sum["client_bytes"].as_u64().unwrap()).sum();
        assert_eq!(json["total"]["client_bytes"], bytes);
        assert!(report.text().contains("numbers of all layers equal"));
    }
}

#[test]
fn a_difference_fails_the_run_and_names_its_layer() {
    let args = args("resnet50");
    let network = network(&args).unwrap();
    let weights = weights(&args, &network).unwrap();
    let plan = Plan::new(network, Radix::Four).unwrap();
    let mut measured = measure(&plan, &weights, LpnSet::B10).unwrap();
    measured.compared.mismatches = 1;
    measured.compared.first = Some("layer1.0.conv1".into());
    let report = report::Report::new(&args, &plan, &measured);
    assert!(!report.sound());
    assert!(
        report
            .text()
            .contains("DIFFERENT, first in `layer1.0.conv1`")
    );
}

#[test]
fn a_file_that_is_none_is_refused_by_name() {
    let mut args = args("resnet50");
    args.weights = Some("Cargo.toml".into());
    let network = network(&args).unwrap();
    let error = weights(&args, &network).unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("`Cargo.toml`") && text.contains("safetensors"),
        "{text}"
    );
}
