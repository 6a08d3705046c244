//! How a request wants its tokens: sampling, the fewest of them, texts that end the answer.

use marill_mpc::Sampling;
use serde_json::{Map, Value};

use crate::{
    client::Client,
    error::HttpError,
    gateway::field::{invalid, present, unsupported},
};

/// `temperature` and vLLM's `top_k`. A request without a temperature gets greedy decoding; one that
/// samples must not ask for a cut that is not offered.
pub(super) fn sampling(
    fields: &Map<String, Value>,
    client: &Client,
) -> Result<Option<Sampling>, HttpError> {
    let sampling = sampled(fields)?;
    client
        .check_sampling(sampling)
        .map_err(|error| unsupported("temperature", format!("`temperature`: {error}")))?;
    Ok(sampling)
}

fn sampled(fields: &Map<String, Value>) -> Result<Option<Sampling>, HttpError> {
    let temperature = match present(fields, "temperature") {
        None => 0.0,
        Some(value) => value
            .as_f64()
            .ok_or_else(|| invalid("temperature", "`temperature` needs to be a number"))?,
    };
    let top_k = match present(fields, "top_k").map(|value| (value.as_i64(), value)) {
        // vLLM's words for all tokens.
        None | Some((Some(0 | -1), _)) => None,
        Some((Some(k @ 1..), _)) => Some(u32::try_from(k).unwrap_or(u32::MAX)),
        Some(_) => {
            return Err(invalid(
                "top_k",
                "`top_k` needs to be a whole number of at least 1, or -1 for all",
            ));
        }
    };
    if !fields.contains_key("temperature") && matches!(top_k, Some(2..)) {
        let message = "`top_k` shapes sampling, and without `temperature` decoding is greedy";
        return Err(unsupported("top_k", message));
    }
    let sampling = Sampling::new(temperature, top_k)
        .map_err(|error| invalid("temperature", error.to_string()))?;
    for (name, neutral) in [("top_p", 1.0), ("min_p", 0.0)] {
        let Some(value) = present(fields, name) else {
            continue;
        };
        let value = value
            .as_f64()
            .ok_or_else(|| invalid(name, format!("`{name}` needs to be a number")))?;
        // A temperature of 0 is the most likely token whatever else is said; no temperature says
        // nothing of the kind.
        let is_greedy = sampling.is_none() && present(fields, "temperature").is_some();
        if value != neutral && !is_greedy {
            let reason = "only `temperature` and `top_k` shape sampling, and without \
                          `temperature` decoding is greedy";
            return Err(unsupported(name, format!("`{name}`: {reason}")));
        }
    }
    Ok(sampling)
}

/// `min_tokens`, as vLLM has it.
pub(super) fn minimum(
    fields: &Map<String, Value>,
    max_tokens: Option<usize>,
) -> Result<usize, HttpError> {
    let Some(value) = present(fields, "min_tokens") else {
        return Ok(0);
    };
    let wanted = value
        .as_u64()
        .and_then(|wanted| usize::try_from(wanted).ok());
    match wanted {
        None => Err(invalid(
            "min_tokens",
            "`min_tokens` needs to be a whole number",
        )),
        Some(wanted) if max_tokens.is_some_and(|limit| wanted > limit) => Err(invalid(
            "min_tokens",
            "`min_tokens` is more than `max_tokens`",
        )),
        Some(wanted) => Ok(wanted),
    }
}

const MAX_STOPS: usize = 4;

pub(super) fn stops(fields: &Map<String, Value>) -> Result<Vec<String>, HttpError> {
    let wrong = || {
        invalid(
            "stop",
            format!("`stop` needs to be a text or up to {MAX_STOPS} texts, none of them empty"),
        )
    };
    let stops = match present(fields, "stop") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| item.as_str().map(str::to_string))
                .collect();
            texts.ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    match stops.len() > MAX_STOPS || stops.iter().any(String::is_empty) {
        true => Err(wrong()),
        false => Ok(stops),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: Value) -> Map<String, Value> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn a_temperature_draws_and_nothing_else_does() {
        let of = |json| sampled(&fields(json)).map_err(|error| error.param.unwrap());
        let sampling = |temperature, top_k| Ok(Sampling::new(temperature, top_k).unwrap());
        assert_eq!(of(serde_json::json!({})), Ok(None));
        assert_eq!(
            of(serde_json::json!({ "temperature": 0, "top_p": 0.5, "top_k": 7 })),
            Ok(None)
        );
        assert_eq!(
            of(serde_json::json!({ "temperature": 0.7, "top_p": 1, "seed": 5 })),
            sampling(0.7, None)
        );
        assert_eq!(
            of(serde_json::json!({ "temperature": 1, "top_k": 40, "min_p": 0 })),
            sampling(1.0, Some(40))
        );
        assert_eq!(
            of(serde_json::json!({ "temperature": 1, "top_k": -1 })),
            sampling(1.0, None)
        );
        for (json, param) in [
            (serde_json::json!({ "temperature": 2.5 }), "temperature"),
            (serde_json::json!({ "temperature": "hot" }), "temperature"),
            (
                serde_json::json!({ "temperature": 1, "top_k": 1.5 }),
                "top_k",
            ),
            (
                serde_json::json!({ "temperature": 1, "top_k": -2 }),
                "top_k",
            ),
            (
                serde_json::json!({ "temperature": 1, "top_p": 0.9 }),
                "top_p",
            ),
            (
                serde_json::json!({ "temperature": 1, "min_p": 0.1 }),
                "min_p",
            ),
            (
                serde_json::json!({ "temperature": 1, "top_p": "0.9" }),
                "top_p",
            ),
            (serde_json::json!({ "top_p": 0.9 }), "top_p"),
            (serde_json::json!({ "min_p": 0.05 }), "min_p"),
            (serde_json::json!({ "top_k": 40 }), "top_k"),
        ] {
            assert_eq!(of(json), Err(param.to_string()));
        }
    }

    #[test]
    fn a_minimum_is_a_number_below_the_maximum() {
        let of = |json, limit| minimum(&fields(json), limit);
        assert_eq!(
            of(serde_json::json!({ "min_tokens": 3 }), Some(3)).unwrap(),
            3
        );
        assert_eq!(
            of(serde_json::json!({ "min_tokens": null }), None).unwrap(),
            0
        );
        for (json, limit) in [
            (serde_json::json!({ "min_tokens": 4 }), Some(3)),
            (serde_json::json!({ "min_tokens": -1 }), None),
        ] {
            assert_eq!(
                of(json, limit).unwrap_err().param.as_deref(),
                Some("min_tokens")
            );
        }
    }

    #[test]
    fn stops_are_texts() {
        assert_eq!(
            stops(&fields(serde_json::json!({ "stop": "x" }))).unwrap(),
            ["x"]
        );
        assert!(
            stops(&fields(serde_json::json!({ "stop": [] })))
                .unwrap()
                .is_empty()
        );
        for wrong in [
            serde_json::json!([""]),
            serde_json::json!([1]),
            serde_json::json!(["a", "b", "c", "d", "e"]),
        ] {
            assert!(stops(&fields(serde_json::json!({ "stop": wrong }))).is_err());
        }
    }
}
