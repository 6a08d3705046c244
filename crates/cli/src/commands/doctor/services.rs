//! Services on the way to an answer: whether they are there, are what they should be, speak this
//! version, keep the same time, show a certificate that lasts, and take the key.

use std::time::{Duration, SystemTime};

use marill_net::{NetError, http::HttpClient};
use marill_serving::{
    Endpoint, SessionError,
    probe::{Health, ProbeError, ask, ask_models, ask_ready, certificate_end},
    terms::PROTOCOL_VERSION,
};

use super::check::Check;

/// Clocks may be so far apart in seconds. No step depends on them; certificates, daily budgets and
/// logs do.
const APART: f64 = 30.0;
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// A service that is looked at.
pub struct Service<'a> {
    /// `server` or `dealer`: what it should say it is.
    pub name: &'static str,
    /// What names another one.
    pub flag: &'static str,
    /// What starts one.
    pub command: &'static str,
    pub endpoint: Endpoint,
    pub api_key: Option<&'a str>,
}

impl Service<'_> {
    fn client(&self) -> HttpClient {
        HttpClient::new(self.endpoint.clone(), self.api_key.map(Into::into))
    }

    /// Everything about it, as far as it answers.
    pub fn checks(&self) -> Vec<Check> {
        let health = match ask(&self.client()) {
            Ok(health) => health,
            Err(error) => return vec![self.silent(&error)],
        };
        let mut checks = vec![self.reached(&health), self.protocol(&health)];
        checks.extend(self.clock(&health));
        checks.push(self.certificate(certificate_end(&self.endpoint), SystemTime::now()));
        let other = |service: &String| service != self.name;
        if health.service.as_ref().is_some_and(other) {
            return checks;
        }
        checks.push(self.ready());
        if self.name == "server" {
            checks.push(self.key(ask_models(&self.client())));
        }
        checks
    }

    fn part(&self, part: &str) -> String {
        format!("{}: {part}", self.name)
    }

    fn silent(&self, error: &ProbeError) -> Check {
        let advice = match error {
            ProbeError::Net(NetError::Unreachable { .. }) => format!(
                "start it with `{}`, or name another one with `{}`; between machines, look at \
                 firewalls",
                self.command, self.flag
            ),
            ProbeError::Net(_) => format!(
                "ask its operator whether it runs well, or name another one with `{}`",
                self.flag
            ),
            _ => format!("name a {} of marill with `{}`", self.name, self.flag),
        };
        Check::error(self.name, error, &advice)
    }

    fn reached(&self, health: &Health) -> Check {
        let found = format!(
            "`{}` answers in {:.0} ms",
            self.endpoint,
            health.took.as_secs_f64() * 1e3
        );
        match health.service.as_deref() {
            Some(service) if service != self.name => Check::failed(
                self.name,
                format!("{found}, and is a {service}"),
                format!("name a {} with `{}`", self.name, self.flag),
            ),
            _ => Check::ok(self.name, found),
        }
    }

    fn protocol(&self, health: &Health) -> Check {
        let name = self.part("protocol");
        match health.protocol {
            Some(theirs) if theirs == u64::from(PROTOCOL_VERSION) => {
                Check::ok(name, format!("version {theirs}, as here"))
            }
            Some(theirs) => {
                let older = match theirs < u64::from(PROTOCOL_VERSION) {
                    true => "there",
                    false => "here",
                };
                Check::failed(
                    name,
                    format!("version {theirs}, and {PROTOCOL_VERSION} here"),
                    format!("update `marill` {older}: all parties need the same version"),
                )
            }
            None => Check::warning(
                name,
                "it does not say its version, so it is an older one",
                "update `marill` there: all parties need the same version",
            ),
        }
    }

    /// None where it does not say its time.
    fn clock(&self, health: &Health) -> Option<Check> {
        let name = self.part("clock");
        let ahead = health.clock_ahead?;
        let unsure = health.took.as_secs_f64() / 2.0;
        let found = format!(
            "{:.1} s {} this machine's",
            ahead.abs(),
            if ahead < 0.0 { "behind" } else { "ahead of" }
        );
        Some(match ahead.abs() > APART + unsure {
            true => Check::warning(
                name,
                found,
                "set both clocks from the network: certificates and daily budgets go by them",
            ),
            false => Check::ok(name, found),
        })
    }

    fn certificate(&self, end: Result<Option<SystemTime>, NetError>, now: SystemTime) -> Check {
        let name = self.part("certificate");
        if !self.endpoint.to_string().starts_with("https") {
            return Check::ok(name, "none: plain text, which stays on this machine");
        }
        let renew = "have it renewed there, and start the service again";
        match end {
            Err(error) => Check::error(name, &error, renew),
            Ok(None) => Check::ok(name, "trusted; it does not say when it ends"),
            Ok(Some(end)) => match end.duration_since(now) {
                Err(_) => Check::failed(name, "it has expired", renew),
                Ok(left) => {
                    let found = format!("trusted, and ends in {} days", left.as_secs() / 86_400);
                    match left < SOON {
                        true => Check::warning(name, found, renew),
                        false => Check::ok(name, found),
                    }
                }
            },
        }
    }

    fn ready(&self) -> Check {
        let name = self.part("ready");
        match ask_ready(&self.client(), self.name) {
            Ok(()) => Check::ok(name, "a session could begin now"),
            Err(error) => Check::error(
                name,
                &error,
                "its operator's log says more; a service that starts or ends is not ready",
            ),
        }
    }

    fn key(&self, models: Result<Vec<String>, SessionError>) -> Check {
        let name = self.part("key");
        match (models, self.api_key) {
            (Ok(models), key) => {
                let key = if key.is_some() {
                    "not refused"
                } else {
                    "none needed"
                };
                let models: Vec<_> = models.iter().map(|model| format!("`{model}`")).collect();
                Check::ok(name, format!("{key}; it serves {}", models.join(", ")))
            }
            (Err(error), Some(_)) => Check::error(
                name,
                &error,
                "ask the server's owner for another key, who makes them with `marill keys add`",
            ),
            (Err(error), None) => Check::error(
                name,
                &error,
                "give the key that the server's owner made for you, as `--api-key` or \
                 `MARILL_API_KEY`",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::check::State;

    fn service(endpoint: &str) -> Service<'static> {
        Service {
            name: "server",
            flag: "--server",
            command: "marill serve DIR",
            endpoint: endpoint.parse().unwrap(),
            api_key: None,
        }
    }

    fn health(service: &str, protocol: Option<u64>, ahead: f64) -> Health {
        Health {
            service: Some(service.into()),
            protocol,
            clock_ahead: Some(ahead),
            took: Duration::from_millis(10),
        }
    }

    #[test]
    fn another_version_fails_and_an_unknown_one_warns() {
        let at = service("http://127.0.0.1:1");
        let ours = u64::from(PROTOCOL_VERSION);
        let check = |protocol| at.protocol(&health("server", protocol, 0.0));
        assert_eq!(check(Some(ours)).state, State::Ok);
        assert_eq!(check(None).state, State::Warning);
        for (theirs, older) in [(ours - 1, "there"), (ours + 1, "here")] {
            let found = check(Some(theirs));
            assert_eq!(found.state, State::Failed);
            assert!(found.advice.unwrap().contains(older));
        }
    }

    #[test]
    fn clocks_that_are_apart_warn() {
        let at = service("http://127.0.0.1:1");
        for (ahead, state, word) in [
            (0.2, State::Ok, "ahead"),
            (-3600.0, State::Warning, "3600.0 s behind"),
            (3600.0, State::Warning, "3600.0 s ahead"),
        ] {
            let found = at.clock(&health("server", None, ahead)).unwrap();
            assert_eq!(found.state, state);
            assert!(found.found.contains(word), "{}", found.found);
        }
    }

    #[test]
    fn a_certificate_warns_before_it_ends() {
        let at = service("https://example.org");
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let of = |end| at.certificate(Ok(Some(end)), now);
        assert_eq!(of(now + 100 * day).state, State::Ok);
        assert!(of(now + 100 * day).found.contains("100 days"));
        assert_eq!(of(now + 3 * day).state, State::Warning);
        assert_eq!(of(now - day).state, State::Failed);
    }

    #[test]
    fn another_service_in_its_place_fails() {
        let at = service("http://127.0.0.1:1");
        let found = at.reached(&health("dealer", None, 0.0));
        assert_eq!(found.state, State::Failed);
        assert!(found.found.contains("is a dealer"), "{}", found.found);
    }
}
