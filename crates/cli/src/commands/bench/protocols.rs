//! Protocols of two parties without a dealer, one at a time: bytes, rounds, CPU time, and whether
//! every output equals the integer program's. Both parties in this process, each on one thread.

mod lattices;
mod task;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use marill_numeric::fixed::low_mask;
use marill_ot::{
    BaseOts, Extension, Link, LpnSet, OtError, Phase, Session, Traffic,
    softspoken::GroupBits,
    world::{LIMIT, MemoryEnd, memory_ends, run_on},
};
use marill_report::Table;
use marill_two_party::Radix;
use serde_json::json;

use self::task::{Inputs, Row, rows};
use super::clock::{Spent, alone};
use crate::output::failure::{BadInput, INPUT_FAILED};

#[derive(clap::Args)]
pub struct Args {
    /// Protocols by name; all of them without one. A shape may follow `matmul` (MxKxN: a private
    /// matrix of M rows, N vectors) and `conv` (7x7x3-64@224/2: kernel, channels, outputs, image,
    /// stride)
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Instances of each protocol, in one batch
    #[arg(
        long,
        value_name = "N",
        default_value_t = 65_536,
        value_parser = clap::value_parser!(u32).range(1..=4_194_304),
    )]
    n: u32,
    /// Radix of comparisons: 4 (fewer bytes) or 16 (fewer rounds)
    #[arg(long, value_name = "RADIX", default_value = "4", value_parser = ["4", "16"])]
    radix: String,
    /// How transfers are made: silent ones cost less than 1.5 bits each after a larger set-up
    #[arg(
        long,
        value_name = "SOURCE",
        default_value = "softspoken",
        value_parser = ["softspoken", "silent"],
    )]
    source: String,
    /// Bits per seed tree of SoftSpoken, more AES for fewer bytes; 4 without it
    #[arg(long, value_name = "K", value_parser = ["2", "4", "8"])]
    tree_bits: Option<String>,
    /// Parameters of silent transfers: b10 to b13, fewer bytes for a larger cache; b11 without it
    #[arg(long, value_name = "SET", value_parser = ["b10", "b11", "b12", "b13"])]
    lpn_set: Option<String>,
    /// One JSON object per line on standard output
    #[arg(long)]
    json: bool,
    /// Write inputs and secure outputs, a CSV file per row
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
}

/// What one party saw of one protocol.
struct Seen {
    /// Shares of the outputs.
    shares: Vec<u64>,
    /// By phase: set-up, extension, offline, online.
    traffic: [Traffic; 4],
    /// Making material, and the protocol itself.
    spent: [Spent; 2],
}

/// A protocol at both parties.
struct Measured {
    seen: [Seen; 2],
    outputs: Vec<u64>,
    mismatches: usize,
    /// Largest distance to the integer program, or to the floor of a function's exact value.
    max_ulp: u64,
    /// Largest distance to the exact value itself.
    max_distance: f64,
}

fn party(
    mut link: Link<MemoryEnd>,
    row: &Row,
    inputs: &Inputs,
    extension: Extension,
) -> Result<Seen, OtError> {
    let own = &inputs.own[link.party() as usize];
    let n = inputs.columns[0].1.len();
    let base = BaseOts::establish(&mut link)?;
    let mut session = Session::begin(link, &base, extension)?;
    let needs = row.task.needs(n);
    session.set_up(&needs)?;
    let mut offline = Spent::default();
    offline.measure(|| session.prepare(&needs))?;
    let mut online = Spent::default();
    let shares = online.measure(|| row.task.run(&mut session, own))?;
    session.confirm()?;
    let phases = [
        Phase::Setup,
        Phase::Extension,
        Phase::Offline,
        Phase::Online,
    ];
    let mut traffic = phases.map(|phase| session.traffic(phase));
    // The last round compared transcripts.
    traffic[3].rounds -= 1;
    traffic[3].sent -= CONFIRM_BYTES;
    traffic[3].received -= CONFIRM_BYTES;
    Ok(Seen {
        shares,
        traffic,
        spent: [offline, online],
    })
}

/// What a comparison of transcripts sends.
const CONFIRM_BYTES: u64 = 16;

fn measure(row: &Row, inputs: &Inputs, extension: Extension) -> anyhow::Result<Measured> {
    let (own, other) = memory_ends(LIMIT);
    let run = |link| alone(|| party(link, row, inputs, extension));
    let (first, second) = run_on(own, other, run, run);
    let seen = [first??, second??];
    let mask = low_mask(row.task.out_bits());
    let sums = seen[0].shares.iter().zip(&seen[1].shares);
    let outputs: Vec<u64> = sums.map(|(a, b)| a.wrapping_add(*b) & mask).collect();
    let mut mismatches = 0;
    let mut max_ulp = 0;
    let mut max_distance = 0.0f64;
    for (i, output) in outputs.iter().enumerate() {
        let expected = row.task.expected(inputs, i);
        mismatches += usize::from(*output != expected);
        let distance = output.wrapping_sub(expected) & mask;
        let distance = distance.min(distance.wrapping_neg() & mask);
        let whole = (distance, distance as f64);
        let of_real = row.task.exact(inputs, i, *output);
        let (ulp, distance) = of_real.map_or(whole, |(exact, output)| {
            let ulp = output.abs_diff(exact.floor() as i64);
            (ulp, (output as f64 - exact).abs())
        });
        max_ulp = max_ulp.max(ulp);
        max_distance = max_distance.max(distance);
    }
    Ok(Measured {
        seen,
        outputs,
        mismatches,
        max_ulp,
        max_distance,
    })
}

impl Measured {
    /// Bytes in both directions per instance.
    fn bytes(&self, phase: usize) -> f64 {
        let each = self.outputs.len() as f64;
        self.seen[0].traffic[phase].bytes() as f64 / each
    }

    /// CPU time per instance and party.
    fn micros(&self, part: usize) -> f64 {
        let both: f64 = self.seen.iter().map(|seen| seen.spent[part].cpu).sum();
        both / 2.0 * 1e6 / self.outputs.len() as f64
    }
}

fn chosen(names: &[String], radix: Radix) -> anyhow::Result<Vec<Row>> {
    let mut all = rows(radix);
    let known: Vec<&str> = all.iter().map(|row| row.name).collect();
    for name in names {
        if !known.contains(&name.as_str()) {
            let mut known = known.clone();
            known.dedup();
            known.extend(lattices::NAMES);
            let list = known.join(", ");
            let error = anyhow!("no protocol is called `{name}`\nhint: there are {list}");
            return Err(BadInput(error).into());
        }
    }
    all.retain(|row| names.is_empty() || names.iter().any(|name| name == row.name));
    Ok(all)
}

/// How transfers are made; a flag of another source than the one that runs is refused.
fn extension(args: &Args) -> anyhow::Result<Extension> {
    let refused = |flag: &str, source: &str| {
        let error = anyhow!(
            "`{flag}` belongs to `--source {source}`\nhint: leave it out, or name that source"
        );
        Err(BadInput(error).into())
    };
    if args.source == "silent" {
        if args.tree_bits.is_some() {
            return refused("--tree-bits", "softspoken");
        }
        let set = args.lpn_set.as_deref().and_then(LpnSet::named);
        return Ok(Extension::Silent(set.unwrap_or(LpnSet::B11)));
    }
    if args.lpn_set.is_some() {
        return refused("--lpn-set", "silent");
    }
    Ok(Extension::SoftSpoken(match args.tree_bits.as_deref() {
        Some("2") => GroupBits::Two,
        Some("8") => GroupBits::Eight,
        _ => GroupBits::Four,
    }))
}

/// Prints one line per protocol.
///
/// # Errors
/// [`BadInput`] for a name that is not there; whatever a session or a file reports.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let radix = if args.radix == "16" {
        Radix::Sixteen
    } else {
        Radix::Four
    };
    let extension = extension(args)?;
    let (products, names) = lattices::taken(&args.names)?;
    let rows = if names.is_empty() && !args.names.is_empty() {
        Vec::new()
    } else {
        chosen(&names, radix)?
    };
    if let Some(folder) = &args.dump {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make `{}`", folder.display()))?;
    }
    let mut table = Table::new([
        "protocol",
        "bits",
        "scale",
        "bytes",
        "online",
        "offline",
        "extension",
        "SCI bytes",
        "rounds",
        "offline rounds",
        "CPU µs per party",
        "online",
        "max ulp",
        "distance",
        "mismatches",
    ])
    .right(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    let mut sound = true;
    let mut setup = 0;
    for row in &rows {
        let inputs = row.task.inputs(args.n as usize);
        let measured = measure(row, &inputs, extension)?;
        sound &= measured.mismatches == 0;
        setup = measured.seen[0].traffic[0].bytes();
        if let Some(folder) = &args.dump {
            dump(folder, row, &inputs, &measured.outputs)?;
        }
        if args.json {
            println!("{}", line(row, args, extension, &measured));
        } else {
            table.row(cells(row, &measured));
        }
    }
    if !args.json && !rows.is_empty() {
        println!("{}", table.markdown());
        println!(
            "\n{} instances each; {extension}; bytes in both directions per instance; set-up \
             {setup} bytes once per session\n",
            args.n
        );
    }
    sound &= by_lattices(&products, args)?;
    if !args.json {
        let equal = if sound { "equal" } else { "DIFFERENT" };
        println!("secure outputs and the integer programs': {equal}");
    }
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INPUT_FAILED)
    })
}

/// One line per product by lattices; whether all are exact.
fn by_lattices(products: &[lattices::Row], args: &Args) -> anyhow::Result<bool> {
    let mut table = Table::new([
        "one product",
        "bits",
        "weights",
        "ring",
        "bytes up",
        "down",
        "rounds",
        "CPU ms, client",
        "server",
        "mismatches",
    ])
    .right(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mut sound = true;
    for row in products {
        let measured = row.measure()?;
        sound &= measured.mismatches == 0;
        if let Some(folder) = &args.dump {
            row.dump(folder, &measured)?;
        }
        if args.json {
            println!("{}", row.line(&measured));
        } else {
            table.row(row.cells(&measured));
        }
    }
    if !args.json && !products.is_empty() {
        println!("{}", table.markdown());
        println!();
    }
    Ok(sound)
}

fn line(row: &Row, args: &Args, made_by: Extension, measured: &Measured) -> serde_json::Value {
    let (source, lpn_set) = match made_by {
        Extension::SoftSpoken(k) => (format!("softspoken-{}", k as u8), None),
        Extension::Silent(set) => ("silent".to_string(), Some(set.name())),
    };
    let [extension, offline, online] = [1, 2, 3].map(|phase| measured.bytes(phase));
    let traffic = &measured.seen[0].traffic;
    json!({
        "protocol": row.name, "bits": row.bits, "scale": row.scale, "n": args.n,
        "bytes_per_instance": extension + offline + online,
        "online_bytes_per_instance": online,
        "offline_bytes_per_instance": offline,
        "extension_bytes_per_instance": extension,
        "lpn_set": lpn_set, "source": source,
        "radix": args.radix.parse::<u32>().ok(),
        "setup_bytes": traffic[0].bytes(),
        "rounds": traffic[3].rounds, "offline_rounds": traffic[2].rounds,
        "us_per_instance": measured.micros(0) + measured.micros(1),
        "online_us_per_instance": measured.micros(1),
        "max_ulp": measured.max_ulp, "max_distance": measured.max_distance,
        "mismatches": measured.mismatches,
        "sci_bytes_per_instance": row.sci,
    })
}

fn cells(row: &Row, measured: &Measured) -> Vec<String> {
    let [extension, offline, online] = [1, 2, 3].map(|phase| measured.bytes(phase));
    let traffic = &measured.seen[0].traffic;
    vec![
        row.name.to_string(),
        row.bits.to_string(),
        row.scale.map_or("-".into(), |scale| scale.to_string()),
        format!("{:.1}", extension + offline + online),
        format!("{online:.2}"),
        format!("{offline:.2}"),
        format!("{extension:.2}"),
        format!("{:.1}", row.sci),
        traffic[3].rounds.to_string(),
        traffic[2].rounds.to_string(),
        format!("{:.3}", measured.micros(0) + measured.micros(1)),
        format!("{:.3}", measured.micros(1)),
        measured.max_ulp.to_string(),
        format!("{:.2}", measured.max_distance),
        measured.mismatches.to_string(),
    ]
}

/// One line per instance: inputs as unsigned integers of their widths, then the secure output.
fn dump(folder: &Path, row: &Row, inputs: &Inputs, outputs: &[u64]) -> anyhow::Result<()> {
    let scale = row.scale.map_or(String::new(), |scale| format!("_{scale}"));
    let path = folder.join(format!("{}_{}{scale}.csv", row.name, row.bits));
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(fs::File::create(&path)?);
        let names: Vec<&str> = inputs.columns.iter().map(|(name, _)| *name).collect();
        writeln!(file, "{},output", names.join(","))?;
        for (i, output) in outputs.iter().enumerate() {
            for (_, column) in &inputs.columns {
                write!(file, "{},", column[i])?;
            }
            writeln!(file, "{output}")?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write `{}`", path.display()))
}
