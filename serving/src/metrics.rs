//! What a service counts and measures, in the text format that Prometheus reads. No label carries
//! text, ids of tokens or of clients. It is served at an address of its own only
//! (`--metrics-listen`): counts of steps and bytes over time say how long other people's prompts
//! and answers are.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

use crate::{
    client::Answer,
    error::StartError,
    slots::Sessions,
    web::{self, MetricsListener},
};

const METADATA: Metadata<'static> = Metadata::new("marill", Level::INFO, None);
const REFUSED: &str = "marill_sessions_refused_total";
/// Upper bounds of the histograms, in seconds: from a token on one machine to a long prompt over a
/// slow network.
const BUCKETS: [f64; 13] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0,
];

/// Counters and times of one service since it started.
pub struct Metrics {
    recorder: PrometheusRecorder,
    pub sessions_started: Counter,
    pub sessions_failed: Counter,
    pub steps: Counter,
    pub bytes_sent: Counter,
    pub bytes_received: Counter,
    open_seconds: Histogram,
    prompt_seconds: Histogram,
    token_seconds: Histogram,
    active: Gauge,
    waiting: Gauge,
}

/// Registers series together with what they say of themselves.
struct Series(PrometheusRecorder);

impl Series {
    fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for name in [
            "marill_open_seconds",
            "marill_prompt_seconds",
            "marill_token_seconds",
        ] {
            let buckets = builder.set_buckets_for_metric(Matcher::Full(name.into()), &BUCKETS);
            builder = buckets.expect("there are buckets");
        }
        Self(builder.build_recorder())
    }

    fn describe_counter(&self, name: &'static str, help: &'static str) {
        let key = KeyName::from_const_str(name);
        self.0.describe_counter(key, Some(Unit::Count), help.into());
    }

    fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.describe_counter(name, help);
        self.0
            .register_counter(&Key::from_static_name(name), &METADATA)
    }

    fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        let key = KeyName::from_const_str(name);
        self.0.describe_gauge(key, Some(Unit::Count), help.into());
        self.0
            .register_gauge(&Key::from_static_name(name), &METADATA)
    }

    fn histogram(&self, name: &'static str, help: &'static str) -> Histogram {
        let key = KeyName::from_const_str(name);
        self.0
            .describe_histogram(key, Some(Unit::Seconds), help.into());
        self.0
            .register_histogram(&Key::from_static_name(name), &METADATA)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let series = Series::new();
        series.describe_counter(
            REFUSED,
            "Sessions and requests that were refused, by the code that the caller was given.",
        );
        let metrics = Self {
            sessions_started: series
                .counter("marill_sessions_started_total", "Sessions that began."),
            sessions_failed: series.counter(
                "marill_sessions_failed_total",
                "Sessions that ended with an error.",
            ),
            steps: series.counter(
                "marill_steps_total",
                "Steps that were computed: a prompt is one, each further token is one.",
            ),
            bytes_sent: series.counter(
                "marill_session_sent_bytes_total",
                "Bytes sent in sessions, headers included.",
            ),
            bytes_received: series.counter(
                "marill_session_received_bytes_total",
                "Bytes received in sessions, headers included.",
            ),
            open_seconds: series.histogram(
                "marill_open_seconds",
                "Seconds from a session's connection to its first step.",
            ),
            prompt_seconds: series
                .histogram("marill_prompt_seconds", "Seconds that a prompt took."),
            token_seconds: series.histogram(
                "marill_token_seconds",
                "Seconds that a token after the first one took.",
            ),
            active: series.gauge("marill_sessions_active", "Sessions that run now."),
            waiting: series.gauge("marill_sessions_waiting", "Sessions that wait for a place."),
            recorder: series.0,
        };
        // A series that appears with its first refusal cannot be told from one that is broken.
        for reason in [
            "invalid_api_key",
            "too_many_sessions",
            "budget_spent",
            "rate_limited",
            "shutting_down",
            "session",
        ] {
            metrics.refusals(reason).increment(0);
        }
        metrics
    }
}

impl Metrics {
    pub fn add(counter: &Counter, n: u64) {
        counter.increment(n);
    }

    /// Counts a refusal under the code that the caller is given.
    pub fn refuse(&self, code: &'static str) {
        self.refusals(code).increment(1);
    }

    fn refusals(&self, code: &'static str) -> Counter {
        let label = vec![Label::from_static_parts("reason", code)];
        self.recorder
            .register_counter(&Key::from_parts(REFUSED, label), &METADATA)
    }

    /// A session stands.
    pub fn opened(&self, took: Duration) {
        self.open_seconds.record(took.as_secs_f64());
    }

    /// A step was computed: the prompt or a further token.
    pub fn stepped(&self, is_prompt: bool, took: Duration) {
        let seconds = if is_prompt {
            &self.prompt_seconds
        } else {
            &self.token_seconds
        };
        seconds.record(took.as_secs_f64());
        Self::add(&self.steps, 1);
    }

    /// A client's whole answer.
    pub(crate) fn answered(&self, answer: &Answer) {
        self.opened(Duration::from_secs_f64(answer.open_seconds));
        if !answer.tokens.is_empty() {
            self.stepped(true, Duration::from_secs_f64(answer.prefill.seconds));
        }
        let each = answer.decode.seconds / answer.decode_steps.max(1) as f64;
        (0..answer.decode_steps).for_each(|_| self.stepped(false, Duration::from_secs_f64(each)));
    }

    /// All of it as text.
    pub fn render(&self, sessions: &Sessions) -> String {
        self.active.set(sessions.active() as f64);
        self.waiting.set(sessions.waiting() as f64);
        let handle = self.recorder.handle();
        handle.run_upkeep();
        handle.render()
    }
}

/// Binds the address for metrics, where one was named.
///
/// # Errors
/// [`StartError::Listen`].
pub fn listen(
    address: Option<SocketAddr>,
    metrics: &Arc<Metrics>,
    sessions: &Arc<Sessions>,
) -> Result<MetricsListener, StartError> {
    let Some(address) = address else {
        return Ok(MetricsListener(None));
    };
    let bound = web::bind_for_metrics(address)?;
    let app = Router::new()
        .route("/metrics", get(tell))
        .with_state((metrics.clone(), sessions.clone()));
    Ok(MetricsListener(Some((bound, app))))
}

async fn tell(
    State((metrics, sessions)): State<(Arc<Metrics>, Arc<Sessions>)>,
) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        metrics.render(&sessions),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The rules of the text format, and those of `promtool check metrics`: every series has a help
    /// and a type before it, a counter's name ends in `_total`, a unit stands in the name, buckets
    /// grow and end in `+Inf`.
    fn check(text: &str) -> BTreeMap<String, f64> {
        let mut types = BTreeMap::new();
        let mut helps = BTreeMap::new();
        let mut values = BTreeMap::<String, f64>::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                // A sentence, not a word.
                assert!(
                    help.len() > 10 && helps.insert(name.to_string(), help).is_none(),
                    "{line}"
                );
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(helps.contains_key(name), "no help before {line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert_eq!(kind == "histogram", name.ends_with("_seconds"), "{line}");
                assert!(
                    types.insert(name.to_string(), kind.to_string()).is_none(),
                    "{line}"
                );
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end))
                    .unwrap_or(name);
                let kind = types
                    .get(base)
                    .or_else(|| types.get(name))
                    .unwrap_or_else(|| panic!("no type: {line}"));
                assert!(
                    name.starts_with("marill_") && (base == name) == (kind != "histogram"),
                    "{line}"
                );
                assert!(
                    values
                        .insert(series.to_string(), value.parse().unwrap())
                        .is_none(),
                    "twice: {line}"
                );
            }
        }
        for name in types
            .iter()
            .filter(|(_, kind)| *kind == "histogram")
            .map(|(name, _)| name)
        {
            let of = |bound: &str| values[&format!("{name}_bucket{{le=\"{bound}\"}}")];
            let counts: Vec<f64> = BUCKETS.iter().map(|bound| of(&bound.to_string())).collect();
            assert!(
                counts.is_sorted() && *counts.last().unwrap() <= of("+Inf"),
                "{name}"
            );
            assert_eq!(of("+Inf"), values[&format!("{name}_count")], "{name}");
        }
        values
    }

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let metrics = Metrics::default();
        let sessions = Sessions::with_queue(2, 2);
        check(&metrics.render(&sessions));
        let _slot = sessions.admit().unwrap();
        metrics.refuse("budget_spent");
        metrics.refuse("budget_spent");
        metrics.opened(Duration::from_millis(300));
        metrics.stepped(true, Duration::from_secs(3));
        (0..5).for_each(|_| metrics.stepped(false, Duration::from_millis(70)));
        metrics.stepped(false, Duration::from_secs(1000));
        let values = check(&metrics.render(&sessions));
        for (series, value) in [
            (
                "marill_sessions_refused_total{reason=\"budget_spent\"}",
                2.0,
            ),
            (
                "marill_sessions_refused_total{reason=\"invalid_api_key\"}",
                0.0,
            ),
            ("marill_steps_total", 7.0),
            ("marill_sessions_active", 1.0),
            ("marill_prompt_seconds_bucket{le=\"2\"}", 0.0),
            ("marill_prompt_seconds_bucket{le=\"4\"}", 1.0),
            ("marill_token_seconds_bucket{le=\"0.05\"}", 0.0),
            ("marill_token_seconds_bucket{le=\"0.1\"}", 5.0),
            ("marill_token_seconds_bucket{le=\"300\"}", 5.0),
            ("marill_token_seconds_count", 6.0),
            ("marill_open_seconds_sum", 0.3),
        ] {
            assert_eq!(
                values.get(series),
                Some(&value),
                "{series}\n{}",
                metrics.render(&sessions)
            );
        }
    }

    /// Two services of one process do not share their counts.
    #[test]
    fn counts_are_of_one_service() {
        let one = Metrics::default();
        let other = Metrics::default();
        let sessions = Sessions::new(1);
        one.refuse("session");
        Metrics::add(&one.sessions_started, 3);
        let values = check(&other.render(&sessions));
        assert_eq!(
            values["marill_sessions_refused_total{reason=\"session\"}"],
            0.0
        );
        assert_eq!(values["marill_sessions_started_total"], 0.0);
    }
}
