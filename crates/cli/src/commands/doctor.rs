//! `marill doctor`: what this machine offers.

use std::{net::TcpListener, process::ExitCode};

use anyhow::Context;
use serde::Serialize;

#[derive(clap::Args)]
pub struct Args {
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    cores: usize,
    ring_kernels: &'static str,
    hardware_aes: bool,
    loopback: bool,
}

/// Looks at the processor and at loopback networking.
///
/// # Errors
/// Only if standard output cannot be written as JSON.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        ring_kernels: ring_kernels(),
        hardware_aes: hardware_aes(),
        loopback: TcpListener::bind("127.0.0.1:0").is_ok(),
    };
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&findings).context("cannot write JSON")?
        );
    } else {
        println!("marill {}", findings.version);
        println!("cores         {}", findings.cores);
        println!("ring kernels  {}", findings.ring_kernels);
        println!(
            "hardware AES  {}",
            if findings.hardware_aes {
                "yes"
            } else {
                "no (slow, but correct)"
            }
        );
        println!(
            "loopback      {}",
            if findings.loopback {
                "yes"
            } else {
                "no: `marill demo` cannot run here"
            }
        );
    }
    Ok(if findings.loopback {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(crate::output::failure::ENVIRONMENT_FAILED)
    })
}

#[cfg(target_arch = "x86_64")]
fn ring_kernels() -> &'static str {
    if is_x86_feature_detected!("avx512dq") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "scalar"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn ring_kernels() -> &'static str {
    "scalar"
}

#[cfg(target_arch = "x86_64")]
fn hardware_aes() -> bool {
    is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn hardware_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn hardware_aes() -> bool {
    false
}
