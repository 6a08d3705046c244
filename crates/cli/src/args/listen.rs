//! Where and how a service listens.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use marill_serving::{SetUpLimits, kept::Keeping, log::LogFormat, tls::Tls};

/// Where a service listens.
#[derive(clap::Args)]
pub struct Listen {
    /// Address to listen on; plain text stays on this machine
    #[arg(long, env = "MARILL_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
}

impl Listen {
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.host, port)
    }
}

/// Names of [`LogFormat`] on the command line.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum LogFormatArg {
    #[default]
    Text,
    Json,
}

/// How a service writes its log.
#[derive(clap::Args)]
pub struct LogArgs {
    /// How to write the log on standard error, with time, level, request id and partition: lines of
    /// `text`, or one `json` object per line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormatArg,
}

impl LogArgs {
    pub fn format(&self) -> LogFormat {
        match self.log_format {
            LogFormatArg::Text => LogFormat::Text,
            LogFormatArg::Json => LogFormat::Json,
        }
    }
}

/// Where a service exports its metrics.
#[derive(clap::Args)]
pub struct MetricsArgs {
    /// Export metrics to Prometheus at `/metrics` of this address, in plain text: a port of this
    /// machine, or ADDRESS:PORT. Whoever reads them sees the lengths and times of all sessions
    /// [default: nowhere]
    #[arg(
        long,
        value_name = "ADDR",
        env = "MARILL_METRICS_LISTEN",
        value_parser = parse_metrics_address,
    )]
    pub metrics_listen: Option<SocketAddr>,
}

fn parse_metrics_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        Err(_) => text
            .parse()
            .map_err(|_| "it is neither a port nor ADDRESS:PORT".to_string()),
    }
}

/// Each session is a thread.
const MAX_SESSIONS: usize = 10_000;

/// How many sessions a service may run at once.
pub fn parse_sessions(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(sessions @ 1..=MAX_SESSIONS) => Ok(sessions),
        _ => Err(format!("it is no number from 1 to {MAX_SESSIONS}")),
    }
}

/// Sessions that wait for a further turn of their conversation.
#[derive(clap::Args)]
pub struct KeepArgs {
    /// How long a session waits for a further turn of its conversation, which then does not pay for
    /// the earlier ones; 0 ends each with its answer. Whoever runs this service sees which answers
    /// belong together
    #[arg(
        long,
        value_name = "N",
        default_value_t = 600,
        value_parser = clap::value_parser!(u32).range(..=3600),
    )]
    keep_seconds: u32,
    /// How many sessions wait at most, beside those that run; each holds its keys and values in
    /// memory. One more ends the one that has waited longest [default: as `--max-sessions`]
    #[arg(long, value_name = "N", value_parser = parse_sessions)]
    keep_sessions: Option<usize>,
}

impl KeepArgs {
    pub fn keeping(&self, max_sessions: usize) -> Keeping {
        Keeping {
            sessions: self.keep_sessions.unwrap_or(max_sessions),
            time: Duration::from_secs(self.keep_seconds.into()),
        }
    }
}

/// What a server of the setting `2pc` keeps of its clients.
#[derive(clap::Args)]
pub struct SetUpArgs {
    /// In the setting `2pc`, how many clients' base transfers and keys are kept between sessions
    /// (8.4 MB each, below the state folder), so that a client that returns sends none of it again;
    /// 0 keeps none. Whoever steals such a file and has recorded sessions reads in them
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(..=100_000),
    )]
    keep_set_ups: u32,
    /// For how long each is kept, from when it was made
    #[arg(
        long,
        value_name = "DAYS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(1..=3650),
    )]
    keep_set_up_days: u32,
}

impl SetUpArgs {
    pub fn limits(&self) -> SetUpLimits {
        SetUpLimits::server(self.keep_set_ups as usize, self.keep_set_up_days)
    }
}

/// Whether and as whom a service speaks TLS.
#[derive(clap::Args)]
pub struct TlsArgs {
    /// Speak TLS, which other machines need; the printed address names the certificate that clients
    /// then insist on
    #[arg(long)]
    tls: bool,
    /// Speak TLS with this certificate and its chain (PEM), which an authority signed for this
    /// host's name
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    pub fn tls(self) -> Tls {
        match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Tls::Files { certificate, key },
            _ if self.tls => Tls::SelfSigned,
            _ => Tls::Off,
        }
    }
}
