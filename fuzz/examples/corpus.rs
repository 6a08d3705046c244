//! Writes the small valid inputs where `cargo fuzz` looks for them: `fuzz/corpus/TARGET/N`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in marill_fuzz::TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (n, bytes) in (target.corpus)().into_iter().enumerate() {
            std::fs::write(folder.join(n.to_string()), bytes)?;
        }
    }
    Ok(())
}
