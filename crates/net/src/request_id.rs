//! Names of requests, by which one is found in the logs of all services that took part.

use std::fmt;

/// A request's name: 1 to 128 letters, digits and `-_.:`, so that it stands in a header, in a line
/// of a log and in a frame as it is. It is drawn at random, or chosen by a client, who should say
/// nothing in it of what is asked: all services log it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The header that it travels in.
    pub const HEADER: &str = "x-request-id";
    /// Most characters of one.
    pub const MAX_BYTES: usize = 128;

    /// The name of these random bytes.
    #[must_use]
    pub fn of(random: [u8; 12]) -> Self {
        let digits = random.iter().map(|byte| format!("{byte:02x}"));
        Self(format!("req-{}", digits.collect::<String>()))
    }

    /// A name that a peer chose; none where it has another form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.:".contains(&c);
        let fits = (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(is_plain);
        fits.then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        let drawn = RequestId::of([0xa5; 12]);
        assert_eq!(drawn.as_str(), "req-a5a5a5a5a5a5a5a5a5a5a5a5");
        assert_eq!(RequestId::parse(drawn.as_str()), Some(drawn));
        for good in ["a", "7b1f-4e_2.x:9", &"x".repeat(128)] {
            assert!(RequestId::parse(good).is_some(), "{good}");
        }
        let long = "x".repeat(129);
        for bad in [
            "",
            " a",
            "a b",
            "a\r\nb: c",
            "a\n",
            "\u{e4}",
            "a\"b",
            "a/b",
            &long,
        ] {
            assert!(RequestId::parse(bad).is_none(), "{bad}");
        }
    }
}
