//! `GET /status`: what the page shows of a gateway, now. Keys are only added.

use std::{net::SocketAddr, sync::Arc};

use axum::{Json, extract::State};
use marill_net::{Endpoint, http::HttpClient};
use serde_json::{Value, json};

use crate::{
    client::Client,
    gateway::Gateway,
    ready::{Found, Seen, has_space},
};

/// Answers at once with what was seen last: it waits for no other service.
pub(super) async fn status(State(gateway): State<Arc<Gateway>>) -> Json<Value> {
    let folder = gateway.folder.clone();
    let space = gateway.readiness.check(move || has_space(&folder)).await;
    let active = gateway.sessions.active();
    let (state, reason) = match space {
        _ if gateway.sessions.is_draining() => ("lost", Some("the gateway is ending".into())),
        Err(error) => ("lost", Some(error.message)),
        Ok(()) => state_of(gateway.client.seen(), active),
    };
    let client = gateway.client();
    let parameters = &client.parameters;
    Json(json!({
        "state": state,
        "reason": reason,
        "model": client.model_name,
        "partition_id": parameters.partition_id,
        "setting": parameters.setting,
        "e0": if parameters.is_shared() { "party" } else { "client" },
        "rounding": parameters.rounding,
        "comparison": parameters.comparison.to_string(),
        "public_layers": client.public_layers(),
        "private_layers": client.private_layers(),
        "max_positions": client.max_positions(),
        "chat_template": client.has_chat_template(),
        "samples": client.samples(),
        "keeps_sessions": gateway.keep && client.keeps_sessions(),
        "demonstration": client.is_demonstration(),
        "warnings": warnings_of(&client, gateway.metrics_at, gateway.admission.is_elsewhere()),
        "api_key": client.server().bearer.is_some(),
        "parties": client.services().into_iter().map(party).collect::<Vec<_>>(),
        "sessions": {
            "active": active, "waiting": gateway.sessions.waiting(),
            "limit": gateway.sessions.limit(), "kept": client.kept(),
        },
        // Lengths and times of each other are none of several users' business.
        "answers": match gateway.admission.is_one_users() {
            true => gateway.running.told(),
            false => Vec::new(),
        },
    }))
}

/// One of `connecting`, `ready`, `busy`, `lost`, and why.
fn state_of(seen: Option<Seen>, active: usize) -> (&'static str, Option<String>) {
    match seen {
        None => ("connecting", None),
        Some(Seen {
            found: Found::Changed,
            ..
        }) => {
            let reason = "the server serves another partition, which is being fetched";
            ("connecting", Some(reason.into()))
        }
        Some(Seen {
            found: Found::NotReady,
            reason,
        }) => ("lost", reason),
        Some(Seen {
            found: Found::Ready,
            ..
        }) if active > 0 => ("busy", None),
        Some(_) => ("ready", None),
    }
}

/// Where a service is, and the bytes on all sockets to it since the gateway took its partition.
fn party((role, service): (&'static str, &HttpClient)) -> Value {
    let endpoint = &service.endpoint;
    json!({
        "role": role,
        "address": endpoint.to_string(),
        "is_here": endpoint.is_here(),
        "encrypted": !endpoint.is_plain(),
        "bytes_sent": service.count.sent_bytes(),
        "bytes_received": service.count.received_bytes(),
    })
}

fn warnings_of(client: &Client, metrics: Option<SocketAddr>, is_elsewhere: bool) -> Vec<Value> {
    let services = client.services();
    let services: Vec<_> = services
        .iter()
        .map(|(role, service)| (*role, &service.endpoint))
        .collect();
    let mut found = warnings(&services, client.is_demonstration(), metrics);
    if is_elsewhere {
        found.push(json!({
            "code": "gateway_elsewhere",
            "message": "this gateway answers other machines too: whoever runs it reads all \
                        conversations",
        }));
    }
    found
}

fn name_of(role: &str) -> &str {
    match role {
        "party" => "computing party",
        role => role,
    }
}

/// What keeps a session from being private, or from being as private as it looks.
fn warnings(
    services: &[(&'static str, &Endpoint)],
    is_demonstration: bool,
    metrics: Option<SocketAddr>,
) -> Vec<Value> {
    let mut found = Vec::new();
    let mut warn = |code: &str, message: String| {
        found.push(json!({ "code": code, "message": message }));
    };
    let names: Vec<_> = services.iter().map(|(role, _)| name_of(role)).collect();
    if is_demonstration {
        let others = match names[..] {
            [only] => format!("the {only} is"),
            _ => format!("{} are", names.join(" and ")),
        };
        warn(
            "one_machine",
            format!(
                "a demonstration, not privacy: {others} on this machine, and whoever runs it can \
                 read everything"
            ),
        );
    } else {
        for (role, endpoint) in services {
            if endpoint.is_plain() {
                let message = format!(
                    "the connection to the {} has no TLS: whatever passes it on from this machine \
                     sees and can change every message",
                    name_of(role)
                );
                warn("plain_text", message);
            }
        }
        if let [(_, first), (_, second)] = services
            && first.host().eq_ignore_ascii_case(second.host())
        {
            let message = format!(
                "{} are both at `{}`: whoever runs that machine can read the conversation",
                names.join(" and "),
                first.host()
            );
            warn("one_host", message);
        }
    }
    if let Some(address) = metrics.filter(|address| !address.ip().is_loopback()) {
        let message =
            format!("metrics are open at `{address}`: lengths and times of all answers are seen");
        warn("open_metrics", message);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(
        services: &[(&'static str, &str)],
        is_demonstration: bool,
        metrics: Option<&str>,
    ) -> Vec<String> {
        let endpoints: Vec<(&'static str, Endpoint)> = services
            .iter()
            .map(|(role, url)| (*role, url.parse().unwrap()))
            .collect();
        let services: Vec<_> = endpoints.iter().map(|(role, at)| (*role, at)).collect();
        let metrics = metrics.map(|address| address.parse().unwrap());
        let found = warnings(&services, is_demonstration, metrics);
        let code = |warning: &Value| warning["code"].as_str().unwrap().to_owned();
        found.iter().map(code).collect()
    }

    #[test]
    fn services_elsewhere_under_tls_are_no_reason_to_warn() {
        let apart = [
            ("server", "https://owner.example"),
            ("dealer", "https://third.example:8200"),
        ];
        assert!(codes(&apart, false, None).is_empty());
        assert!(codes(&apart, false, Some("127.0.0.1:9000")).is_empty());
        assert!(codes(&apart[..1], false, None).is_empty(), "2pc");
    }

    #[test]
    fn all_roles_on_one_machine_are_a_demonstration() {
        let here = [
            ("server", "http://127.0.0.1:8100"),
            ("party", "http://127.0.0.1:8300"),
        ];
        assert_eq!(codes(&here, true, None), ["one_machine"]);
        let of = |services: &[(&'static str, &str)]| {
            let endpoint: Endpoint = services[0].1.parse().unwrap();
            let other: Endpoint = "http://127.0.0.1:8300".parse().unwrap();
            let both = [("server", &endpoint), ("party", &other)];
            let found = warnings(&both[..services.len()], true, None);
            found[0]["message"].as_str().unwrap().to_owned()
        };
        let both = of(&here);
        assert!(both.contains("server and computing party are"), "{both}");
        let alone = of(&here[..1]);
        assert!(alone.contains("the server is"), "{alone}");
    }

    #[test]
    fn one_host_and_plain_text_are_warned_of() {
        let one_host = [
            ("server", "https://Both.example:1"),
            ("dealer", "https://both.example:2"),
        ];
        assert_eq!(codes(&one_host, false, None), ["one_host"]);
        let tunnel = [
            ("server", "http://localhost:8100"),
            ("dealer", "https://third.example"),
        ];
        assert_eq!(codes(&tunnel, false, None), ["plain_text"]);
        assert_eq!(
            codes(&tunnel, false, Some("0.0.0.0:9000")),
            ["plain_text", "open_metrics"]
        );
    }

    #[test]
    fn a_state_is_what_was_seen_last() {
        let seen = |found, reason: Option<&str>| {
            let reason = reason.map(Into::into);
            Some(Seen { found, reason })
        };
        assert_eq!(state_of(None, 1), ("connecting", None));
        assert_eq!(state_of(seen(Found::Changed, None), 0).0, "connecting");
        assert_eq!(state_of(seen(Found::Ready, None), 0), ("ready", None));
        assert_eq!(state_of(seen(Found::Ready, None), 1), ("busy", None));
        let lost = state_of(seen(Found::NotReady, Some("gone")), 1);
        assert_eq!(lost, ("lost", Some("gone".into())));
    }
}
